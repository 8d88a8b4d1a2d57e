"""vLLM's OpenAI-compatible server through Sextant: the same greedy text as through vLLM's own CPU backend. Minutes, not seconds."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM for CPUs: docs/get-started/vllm.md says how to get it")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import gguf_to_safetensors  # noqa: E402
import serve_vllm  # noqa: E402
from models import smollm2  # noqa: E402

REQUESTS, TOKENS = 64, 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("accelerate", reason="needs accelerate: pip install accelerate")
    folder = tmp_path_factory.mktemp("smollm2")
    gguf_to_safetensors.convert(smollm2(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def expected(model):
    with serve_vllm.server(model, "CPU_ATTN") as (address, log):
        result = serve_vllm.measure(address, REQUESTS, TOKENS)
        assert serve_vllm.backend_in_log(log) == "CPU_ATTN"
    return result["texts"]


@pytest.mark.parametrize("backend", serve_vllm.SEXTANT)
def test_same_text_as_vllms_own_backend(model, expected, backend):
    by_variable = backend == "ROCM_ATTN"  # one of them through VLLM_ATTENTION_BACKEND
    with serve_vllm.server(model, backend, by_variable=by_variable) as (address, log):
        result = serve_vllm.measure(address, REQUESTS, TOKENS)
        assert serve_vllm.backend_in_log(log) == backend
        assert serve_vllm.prefix_hits(address) > 0
    assert result["generated_tokens"] == REQUESTS * TOKENS
    assert result["texts"] == expected


def test_unknown_variable_is_refused(monkeypatch):
    from sextant import vllm as plugin
    from vllm.platforms import current_platform
    from vllm.v1.attention.selector import AttentionSelectorConfig

    plugin.register()
    import torch

    config = AttentionSelectorConfig(head_size=64, dtype=torch.float32, kv_cache_dtype=None, block_size=None)
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "ROCM_ATN")
    with pytest.raises(ValueError, match='VLLM_ATTENTION_BACKEND is "ROCM_ATN"; did you mean ROCM_ATTN'):
        current_platform.get_attn_backend_cls(None, config)
    monkeypatch.delenv("VLLM_ATTENTION_BACKEND")
    monkeypatch.setenv("VLLM_ATTENTION_BACKND", "ROCM_ATTN")
    assert "sextant" not in current_platform.get_attn_backend_cls(None, config)
