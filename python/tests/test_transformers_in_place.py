"""Steps over transformers' own caches: the keys are read where they lie, and the logits are eager's."""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import transformers  # noqa: E402

import sextant._transformers_batch as batch  # noqa: E402
import sextant.transformers as st  # noqa: E402

st.register()
SMALL = dict(
    vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def model_of(kind):
    torch.manual_seed(0)
    config = transformers.MistralConfig(sliding_window=8, **SMALL) if kind == "windows" else transformers.LlamaConfig(**SMALL)
    config._attn_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def logits(model, implementation, rows, padded=False, **arguments):
    model.set_attn_implementation(implementation)
    ids = torch.randint(3, 120, (rows, 13), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :4] = 0
    with torch.no_grad():
        got = model.generate(
            ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=127, disable_compile=True, output_logits=True,
            return_dict_in_generate=True, **arguments,
        )  # fmt: skip
    return torch.stack(got.logits, 1)


@pytest.fixture
def copies(monkeypatch):
    """Calls that wrote old keys to blocks."""
    calls, write = [], batch.api.reshape_and_cache
    monkeypatch.setattr(batch.api, "reshape_and_cache", lambda *a, **k: calls.append(1) or write(*a, **k))
    return calls


@pytest.mark.parametrize("backend", st.MHA_BACKENDS)
@pytest.mark.parametrize("rows, cache", [(1, "dynamic"), (3, "dynamic"), (3, "static")])
def test_no_step_copies_the_keys_that_are_there(copies, backend, rows, cache):
    model = model_of("plain")
    expected = logits(model, "eager", rows, cache_implementation=cache)
    torch.testing.assert_close(logits(model, st.implementation_name(backend), rows, cache_implementation=cache), expected, atol=1e-4, rtol=1e-4)
    assert not copies


@pytest.mark.parametrize("backend", st.MHA_BACKENDS)
def test_windows_and_several_tokens_at_once(backend):
    model = model_of("windows")
    expected = logits(model, "eager", 2)
    torch.testing.assert_close(logits(model, st.implementation_name(backend), 2), expected, atol=1e-4, rtol=1e-4)
    # A chunk after the prompt: more queries than one, over keys that are there.
    ids = torch.randint(3, 120, (2, 21), generator=torch.Generator().manual_seed(2))
    results = []
    for implementation in ("eager", st.implementation_name(backend)):
        model.set_attn_implementation(implementation)
        cache = transformers.DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids[:, :9], past_key_values=cache, use_cache=True)
            results.append(model(ids[:, 9:], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)


def test_rows_that_begin_at_other_columns_are_copied(copies):
    model = model_of("plain")
    expected = logits(model, "eager", 2, padded=True)
    torch.testing.assert_close(logits(model, "sextant_rocm_attn", 2, padded=True), expected, atol=1e-4, rtol=1e-4)
    assert copies


def test_keys_that_share_memory_are_copied(copies):
    """Expanded heads are no cache, which would be written in other calls."""
    q, k = torch.randn(1, 4, 1, 16), torch.randn(1, 1, 9, 16)
    module = torch.nn.Module()
    shared, whole = (st._forward("ROCM_ATTN", module, q, x, x)[0] for x in (k.expand(1, 2, 9, 16), k.expand(1, 2, 9, 16).contiguous()))
    torch.testing.assert_close(shared, whole)
