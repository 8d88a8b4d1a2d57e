"""Steps over transformers' own caches: the keys are read where they lie, and the logits are eager's."""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import transformers  # noqa: E402

import sextant  # noqa: E402
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


def _bad_calls():
    """What is wrong, the changed arguments of a call, and what the error says: `bad_runs` at this door, where the library makes the batch."""
    k = torch.randn(1, 2, 9, 16)
    return [
        ("keys of another type", {"key": k.half(), "value": k.half()}, "k(_cache)? has dtype fp16; allowed: fp32"),
        ("values of a type that nothing has", {"value": k.double()}, "v(_cache)? has dtype float64; allowed"),
        ("fewer values than keys", {"value": k[:, :, :8]}, r"value has shape \[1, 2, 8, 16\]; allowed: \[1, 2, 9, 16\]"),
        ("other heads of the values", {"value": torch.randn(1, 4, 9, 16)}, r"value has shape \[1, 4, 9, 16\]"),
        ("heads that do not divide", {"key": torch.randn(1, 3, 9, 16), "value": torch.randn(1, 3, 9, 16)}, "num_kv_heads is 3; allowed: a divisor"),
        ("keys of another width", {"key": k[..., :8]}, r"key has shape \[1, 2, 9, 8\]; allowed: \[1, 2, 9, 16\]"),
        ("keys of another batch", {"key": k.repeat(2, 1, 1, 1), "value": k.repeat(2, 1, 1, 1)}, r"key has shape \[2, 2, 9, 16\]"),
        ("three dimensions", {"query": torch.randn(4, 1, 16)}, r"query has shape \[4, 1, 16\]; allowed: a tensor \[B, H, S, D\]"),
        ("no keys", {"key": None}, "key is a NoneType"),
        ("no memory", {"key": k.to("meta")}, "is a meta tensor"),
        ("a mask of another shape", {"attention_mask": torch.ones(1, 1, 3, 9, dtype=torch.bool)}, r"attention_mask has shape \[1, 1, 3, 9\]"),
        ("a mask of integers", {"attention_mask": torch.ones(1, 1, 1, 9, dtype=torch.int64)}, "attention_mask has dtype torch.int64"),
    ]  # fmt: skip


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("backend", st.MHA_BACKENDS)
@pytest.mark.parametrize(("what", "changes", "message"), _bad_calls(), ids=[what for what, _, _ in _bad_calls()])
def test_bad_calls_are_refused_by_name(what, changes, message, backend, queries):
    given = dict(query=torch.randn(1, 4, queries, 16), key=torch.randn(1, 2, 9, 16), value=torch.randn(1, 2, 9, 16), attention_mask=None)
    if what == "a mask of integers":
        changes = {"attention_mask": changes["attention_mask"].expand(1, 1, queries, 9)}
    with pytest.raises(sextant.SextantError, match=message):
        st._forward(backend, torch.nn.Module(), **{**given, **changes})
