"""vLLM's OpenAI-compatible server through Sextant: the same greedy text as through vLLM's own CPU backend. Minutes, not seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM for CPUs: docs/get-started/vllm.md says how to get it")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import gguf_to_safetensors  # noqa: E402
import random_deepseek  # noqa: E402
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


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    pytest.importorskip("accelerate", reason="needs accelerate: pip install accelerate")
    folder = tmp_path_factory.mktemp("deepseek")
    random_deepseek.make(smollm2(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def expected_mla(deepseek):
    """What transformers' eager attention says, a request at a time: the tokens of each of the prompts."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(deepseek)
    model = transformers.AutoModelForCausalLM.from_pretrained(deepseek, dtype=torch.float32, attn_implementation="eager").eval()
    expected = []
    for prompt in serve_vllm.prompts(REQUESTS):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        expected.append(model.generate(ids, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0, eos_token_id=[])[0, ids.shape[1] :].tolist())
    assert len(set(map(tuple, expected))) > REQUESTS // 2  # attention decides what is said
    return expected


@pytest.mark.parametrize("backend", serve_vllm.SEXTANT_MLA)
def test_mla_says_what_transformers_says(deepseek, expected_mla, backend):
    by_variable = backend == "ROCM_AITER_MLA"
    with serve_vllm.server(deepseek, backend, by_variable=by_variable, compilation=serve_vllm.NATIVE_ROPE) as (address, log):
        result = serve_vllm.measure(address, REQUESTS, TOKENS)
        assert serve_vllm.backend_in_log(log) == backend and f"Using Sextant's {backend} backend" in log.read_text()
        assert serve_vllm.prefix_hits(address) > 0
    different = [i for i, (mine, theirs) in enumerate(zip(result["token_ids"], expected_mla)) if mine != theirs]
    assert not different, (different, result["token_ids"][different[0]], expected_mla[different[0]])


@pytest.mark.parametrize("backend, kept", [("TRITON_MLA", True), ("ROCM_AITER_MLA", True), ("CPU_MLA", False)])
def test_mla_keeps_chunked_prefill_and_prefix_caching(deepseek, backend, kept, monkeypatch):
    """On CPUs without AMX vLLM takes both away from its own kernel's models, and sets the block size."""
    import torch
    from vllm.engine.arg_utils import EngineArgs

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    arguments = EngineArgs(model=deepseek, dtype="float32", max_model_len=256, attention_backend=backend, block_size=32, max_num_batched_tokens=64,
                           enable_chunked_prefill=True, enable_prefix_caching=True)  # fmt: skip
    config = arguments.create_engine_config()
    assert config.scheduler_config.enable_chunked_prefill == config.cache_config.enable_prefix_caching == kept
    assert (config.cache_config.block_size, config.scheduler_config.max_num_batched_tokens == 64) == ((32, True) if kept else (16, False))


def test_a_backend_that_does_not_fit_the_model_is_refused():
    """vLLM would take its own backend instead and say so in a line of its log."""
    import torch
    from sextant import vllm as plugin
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.selector import AttentionSelectorConfig

    plugin.register()
    common = dict(dtype=torch.float32, kv_cache_dtype=None, block_size=None)
    mha, mla = AttentionSelectorConfig(head_size=64, **common), AttentionSelectorConfig(head_size=576, use_mla=True, **common)
    with pytest.raises(ValueError, match="is TRITON_MLA and the model's attention is MHA; allowed: TRITON_ATTN"):
        current_platform.get_attn_backend_cls(AttentionBackendEnum.TRITON_MLA, mha)
    with pytest.raises(ValueError, match="is ROCM_ATTN and the model's attention is MLA .*; allowed: TRITON_MLA, ROCM_AITER_MLA"):
        current_platform.get_attn_backend_cls(AttentionBackendEnum.ROCM_ATTN, mla)
    with pytest.raises(ValueError, match="is TRITON_MLA and the model's attention is sparse"):
        current_platform.get_attn_backend_cls(AttentionBackendEnum.TRITON_MLA, mla._replace(use_sparse=True))
    assert current_platform.get_attn_backend_cls(AttentionBackendEnum.TRITON_MLA, mla) == "sextant.vllm.SextantTritonMla"


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
    monkeypatch.setenv("VLLM_ATTENTION_BACKND", "ROCM_ATTN")  # as the article spells it
    monkeypatch.setenv("VLLM_ATTN_BACKEND", "ROCM_ATTN")
    assert "sextant" not in current_platform.get_attn_backend_cls(None, config)
    assert plugin._near_misses() == ["VLLM_ATTENTION_BACKND", "VLLM_ATTN_BACKEND"]


def test_window_and_softcap(tmp_path):
    """A small random Gemma 2 gives the same tokens through Sextant as through vLLM's own backend."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=256, sliding_window=8, attn_logit_softcapping=2.0, query_pre_attn_scalar=32,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    prompts = json.dumps([[5, 9, 7], list(range(10, 51)), [3, 4, 5, 6, 7, 8, 9, 10]])
    script = Path(__file__).parent / "vllm_generate.py"
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}

    def tokens(backend):
        command = [sys.executable, str(script), str(tmp_path), backend, prompts]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-3000:]
        assert backend == "CPU_ATTN" or f"Using Sextant's {backend} backend" in done.stdout
        return [line for line in done.stdout.splitlines() if line.startswith("TOKENS")]

    assert tokens("ROCM_AITER_UNIFIED_ATTN") == tokens("CPU_ATTN") != []
