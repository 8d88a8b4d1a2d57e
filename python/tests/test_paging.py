"""What an engine is built from: the allocator, the cache of all layers, single cache ops, slots, scales, MLA specs, dtypes."""

import numpy as np
import pytest

import sextant
from test_api import CACHE, MHA, SPEC, Step, reference

MLA = ("TRITON_MLA", "ROCM_AITER_MLA")


def test_allocator():
    blocks = sextant.BlockAllocator(4, 2)
    first = blocks.allocate(3)
    assert len(set(first)) == 3 and blocks.num_free == 1
    with pytest.raises(sextant.SextantResourceExhausted):
        blocks.allocate(2)
    blocks.publish(first, [7, 8, 9, 10, 11])  # two full blocks
    blocks.share(first[0])
    blocks.release(first)
    assert blocks.ref_count(first[0]) == 1 and blocks.num_free == 3 and blocks.num_cached == 2
    assert blocks.acquire_prefix([7, 8, 9, 10, 1, 2]) == first[:2] and blocks.acquire_prefix([8, 7]) == []
    assert 0 < blocks.hit_rate < 1 and repr(blocks) == "BlockAllocator(2 of 4 blocks of 2 tokens free, 2 cached)"
    blocks.clear_cache()
    assert blocks.num_cached == 0
    other = sextant.BlockAllocator(4, 2, salt="another tenant")
    assert other.acquire_prefix([7, 8]) == []
    for wrong, message in ((lambda: blocks.release([9]), "block"), (lambda: blocks.allocate(-1), "count is -1"),
                           (lambda: sextant.BlockAllocator(0), "num_blocks is 0"), (lambda: blocks.publish([], [1, 2]), "blocks has 0 elements")):  # fmt: skip
        with pytest.raises(sextant.SextantInvalidArgument, match=message):
            wrong()


class Sequence:
    """A token's q, k and v are functions of the token and its position, so that a cache can be checked against all of them."""

    def rows(self, tokens, first=0):
        parts = [np.random.default_rng(1000 * (first + i) + token) for i, token in enumerate(tokens)]
        shapes = ((4, 8), (2, 8), (2, 8))
        per_token = [[rng.standard_normal(shape).astype(np.float32) for shape in shapes] for rng in parts]
        return [np.stack(x) for x in zip(*per_token)]

    def attended(self, tokens, new):
        q, k, v = self.rows(tokens)
        return reference(q[len(q) - new :], k, v, 0.35)


def run_step(cache, new_tokens, tolerance=1e-4):
    step = cache.step(new_tokens)
    parts = [Sequence().rows(new, len(cache.tokens(name)) - len(new)) for name, new in zip(step.requests, step.tokens)]
    q, k, v = (np.concatenate(x) for x in zip(*parts))
    out = np.full((len(q), 4, 8), np.nan, np.float32)
    for layer in range(len(cache.layers)):
        step.run(layer, q=q, k=k, v=v, out=out)
        expected = np.concatenate([Sequence().attended(cache.tokens(name), len(new)) for name, new in zip(step.requests, step.tokens)])
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance / 10)
    step.commit()
    return step


@pytest.mark.parametrize("backend", MHA)
def test_an_engine_on_the_cache(backend):
    """Prompts, decodes, a found prefix, a fork that writes, freed and reused blocks; two layers."""
    cache = sextant.PagedKVCache(SPEC, backend, num_blocks=8, num_layers=2, block_size=4)
    prompt = list(range(1, 11))
    assert run_step(cache, {"a": prompt}).tokens == [prompt]
    step = run_step(cache, {"b": [*prompt[:8], 77, 78], "a": [50]})
    assert step.tokens == [[77, 78], [50]] and cache.blocks("b")[:2] == cache.blocks("a")[:2]
    cache.fork("a", "c")
    assert cache.blocks("c") == cache.blocks("a")
    run_step(cache, {"a": [51], "c": [52]})
    assert cache.blocks("c")[:2] == cache.blocks("a")[:2] and cache.blocks("c")[2] != cache.blocks("a")[2]
    before = repr(cache), {name: (cache.blocks(name), cache.tokens(name)) for name in "abc"}
    with pytest.raises(sextant.SextantResourceExhausted):
        cache.step({"a": [53], "d": list(range(100, 130))})
    assert (repr(cache), {name: (cache.blocks(name), cache.tokens(name)) for name in "abc"}) == before
    for name in "abc":
        cache.free(name)
    assert cache.allocator.num_free == 8
    run_step(cache, {"e": [*prompt, 5, 6]})
    for wrong, message in ((lambda: cache.step({"x": []}), "request 'x' has no new tokens"), (lambda: cache.free("x"), "request 'x' is not known; allowed: 'e'"),
                           (lambda: cache.fork("e", "e"), "request 'e' is known")):  # fmt: skip
        with pytest.raises(sextant.SextantInvalidArgument, match=message):
            wrong()


@pytest.mark.parametrize("dtype", ["int8_per_token_head", "fp8_per_token_head"])
@pytest.mark.parametrize("backend", MHA)
def test_an_engine_on_a_cache_with_scales_of_its_own(backend, dtype):
    """The scales go with the blocks: through writes, a found prefix, and a fork that copies a block."""
    cache = sextant.PagedKVCache(SPEC, backend, num_blocks=8, num_layers=2, block_size=4, dtype=dtype)
    assert [scale.shape for scale in cache.scales[1]] == [(8, 4, 2)] * 2
    prompt, near = list(range(1, 11)), 0.5 if dtype.startswith("fp8") else 0.1
    run_step(cache, {"a": prompt}, near)
    run_step(cache, {"b": [*prompt[:8], 77, 78]}, near)
    cache.fork("a", "c")
    run_step(cache, {"a": [51], "c": [52]}, near)
    assert cache.blocks("c")[2] != cache.blocks("a")[2]
    k_cache, v_cache = cache.layers[0]
    with pytest.raises(sextant.SextantInvalidArgument, match="cache.k_scale is (null|absent|missing)"):
        sextant.copy_blocks(k_cache, v_cache, np.array([[2, 1]]), cache.cache)


def test_names_of_a_caches_format():
    """As vLLM and the tool have them: the type and where its scales come from in one word."""
    for name, dtype in (("int8_per_token_head", "int8"), ("fp8_e5m2_per_token_head", "fp8_e5m2"), ("float8_e4m3fn_per_token_head", "fp8_e4m3fn")):
        assert sextant.KvCacheSpec(4, 4, 2, 8, name) == sextant.KvCacheSpec(4, 4, 2, 8, dtype, scales="token_head"), name
    assert sextant.select(SPEC, sextant.KvCacheSpec(4, 4, 2, 8, "fp8_per_token_head")).chosen in MHA
    with pytest.raises(sextant.SextantInvalidArgument, match="scales is token_head for .* fp32; allowed: fp8"):
        sextant.select(SPEC, sextant.KvCacheSpec(4, 4, 2, 8, "fp32_per_token_head"))


@pytest.fixture(autouse=True)
def numpy_memory(monkeypatch):
    """The cache takes PyTorch's memory where it is imported; these tests are NumPy's."""
    import sextant.paging as paging

    make = paging._Memory.__init__
    monkeypatch.setattr(paging._Memory, "__init__", lambda self, device: (make(self, device), setattr(self, "_torch", None))[0])


@pytest.mark.parametrize("layout", ["NHD", "HND", "split_k", "shuffled"])
def test_gather_and_copy(layout):
    spec = sextant.KvCacheSpec(**{**CACHE.__dict__, "layout": layout})
    k_shape, v_shape, _ = sextant.cache_shape(spec)
    k_cache, v_cache = np.zeros(k_shape, np.float32), np.zeros(v_shape, np.float32)
    rng = np.random.default_rng(1)
    k, v = (rng.standard_normal((7, 2, 8)).astype(np.float32) for _ in range(2))
    slots = sextant.slot_mapping([0, 5, 7], [5, 2], [[2, 0], [3, 0]], 4)
    assert slots.tolist() == [8, 9, 10, 11, 0, 12, 13]
    sextant.reshape_and_cache(k, v, slots.astype(np.int32), k_cache, v_cache, spec)  # int32 slots too
    sextant.copy_blocks(k_cache, v_cache, np.array([[2, 1]]), spec)
    got_k, got_v = np.full_like(k, np.nan), np.full_like(v, np.nan)
    table, starts = np.array([[1, 0], [3, 0]], np.int32), np.array([0, 5, 7], np.int32)
    sextant.gather_cache(k_cache, v_cache, table, starts, got_k, got_v, spec)
    assert (got_k == k).all() and (got_v == v).all()
    with pytest.raises(sextant.SextantInvalidArgument, match="mapping.*9"):
        sextant.copy_blocks(k_cache, v_cache, np.array([[2, 9]]), spec)
    with pytest.raises(sextant.SextantInvalidArgument, match=r"mapping has 2 elements of rank 1; allowed: \[pairs, 2\]"):
        sextant.copy_blocks(k_cache, v_cache, np.array([2, 1]), spec)
    with pytest.raises(sextant.SextantInvalidArgument, match="v_cache is missing"):
        sextant.gather_cache(k_cache, None, table, starts, got_k, got_v, spec)
    with pytest.raises(sextant.SextantInvalidArgument, match=r"key_start_loc\[2\] is 8; allowed: 5..7"):
        sextant.gather_cache(k_cache, v_cache, table, np.array([0, 5, 8], np.int32), got_k, got_v, spec)
    with pytest.raises(sextant.SextantInvalidArgument, match="request 0 ends at token 9; allowed: at most 8"):
        sextant.gather_cache(k_cache, v_cache, table, starts, got_k, got_v, spec, chunk_begin=4)
    with pytest.raises(sextant.SextantInvalidArgument, match=r"block_table\[0\]\[1\] is 9; allowed: 0..3"):
        sextant.gather_cache(k_cache, v_cache, np.array([[1, 9], [3, 0]], np.int32), starts, got_k, got_v, spec)


def test_slots_of_new_tokens():
    assert sextant.slot_mapping([0, 1, 4], [6, 3], [[7, 2], [5, 0]], 4).tolist() == [9, 20, 21, 22]
    assert sextant.slot_mapping([0], [], [], 4).tolist() == []
    for arguments in (([0, 7], [6], [[7, 2]], 4), ([0, 1], [9], [[7, 2]], 4), ([0, 1, 2], [1], [[0]], 4), ([0, 1], [1], [[0]], 0)):
        with pytest.raises(sextant.SextantInvalidArgument, match="allowed"):
            sextant.slot_mapping(*arguments)


def test_scales():
    x = np.array([[[1.0, -448.0], [2.0, 8.96]]], np.float32)
    np.testing.assert_allclose(sextant.fp8_scale(x), [1.0])
    np.testing.assert_allclose(sextant.fp8_scale(x, per_head=True), [1.0, 0.02])
    np.testing.assert_allclose(sextant.fp8_scale(x, "fp8_e4m3fnuz"), [448 / 240])
    assert sextant.fp8_scale(np.zeros((1, 1, 8), np.float32))[0] > 0
    with pytest.raises(sextant.SextantInvalidArgument, match="dtype is bf16; allowed: fp8_e4m3fn"):
        sextant.fp8_scale(x, "bf16")


@pytest.mark.parametrize("cache_dtype", ["fp32", "fp8_e4m3fn"])
@pytest.mark.parametrize("backend", MLA)
def test_mla_by_constructor(backend, cache_dtype):
    """Prefill, a chunk after it, and a decode, through `AttentionSpec.mla` and `latent_cache`."""
    if backend == "ROCM_AITER_MLA" and cache_dtype != "fp32":
        pytest.importorskip("ml_dtypes", reason="one backend is enough without ml_dtypes")
    rng = np.random.default_rng(2)
    heads, rank, nope, rope, dim_v = 4, 64, 32, 16, 32
    spec = sextant.AttentionSpec.mla(num_heads=heads, kv_lora_rank=rank, qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=dim_v, dtype=np.float32)
    cache = spec.latent_cache(num_blocks=4, block_size=8, dtype=cache_dtype)
    kv_cache = np.zeros(sextant.cache_shape(cache)[0], np.float32 if cache_dtype == "fp32" else np.uint8)
    q, kv_c, k_pe = (rng.standard_normal(shape).astype(np.float32) for shape in ((12, heads, nope + rope), (12, rank), (12, rope)))
    weight = (rng.standard_normal((heads * (nope + dim_v), rank)) / 8).astype(np.float32)
    scale = np.array([0.02], np.float32)
    outs = []
    for first, last in ((0, 7), (7, 11), (11, 12)):
        slots = sextant.slot_mapping([0, last - first], [last], [[3, 1]], 8)
        batch = dict(query_start_loc=np.array([0, last - first], np.int32), seq_lens=np.array([last], np.int32), block_table=np.array([[3, 1]], np.int32))
        plan = sextant.plan(backend, spec, cache, slot_mapping=slots, **batch)
        outs.append(np.full((last - first, heads, dim_v), np.nan, np.float32))
        plan.run(q=q[first:last], kv_c=kv_c[first:last], k_pe=k_pe[first:last], kv_b_proj=weight, out=outs[-1], k_cache=kv_cache, slot_mapping=slots,
                 k_scale=scale if cache_dtype != "fp32" else None, v_scale=scale if cache_dtype != "fp32" else None, **batch)  # fmt: skip
    up = (kv_c @ weight.T).reshape(12, heads, nope + dim_v)
    k = np.concatenate([up[..., :nope], np.repeat(k_pe[:, None], heads, 1)], -1)
    tolerance = 1e-4 if cache_dtype == "fp32" else 0.2
    np.testing.assert_allclose(np.concatenate(outs), reference(q, k, up[..., nope:], (nope + rope) ** -0.5), rtol=tolerance, atol=tolerance)
    again = np.zeros_like(kv_cache)
    slots = sextant.slot_mapping([0, 12], [12], [[3, 1]], 8)
    sextant.concat_and_cache_mla(kv_c, k_pe, slots, again, cache, kv_scale=None if cache_dtype == "fp32" else scale)
    assert (again == kv_cache).all()
    with pytest.raises(sextant.SextantInvalidArgument, match="kv_lora_rank is 0"):
        SPEC.latent_cache(4)


def test_dtypes_are_taken_as_they_are_written():
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

    def spec(dtype, **more):
        return sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, softmax_scale=0.35, dtype=dtype, **more)

    for dtype in (torch.float32, np.float32, np.dtype("float32"), "float32", "torch.float32", "fp32"):
        assert spec(dtype) == SPEC and hash(spec(dtype)) == hash(SPEC)
    assert spec(torch.bfloat16).dtype == "bf16" and spec("half").dtype == "fp16"
    assert spec("fp32", query_dtype=torch.float8_e5m2).query_dtype == "fp8_e5m2"
    assert sextant.KvCacheSpec(4, 4, 2, 8, torch.float8_e4m3fn).dtype == "fp8_e4m3fn"
    with pytest.raises(sextant.SextantInvalidArgument, match="spec.dtype is torch.float64; allowed: fp32, fp16, bf16, or the types"):
        sextant.select(spec(torch.float64), CACHE)
    with pytest.raises(sextant.SextantInvalidArgument, match="spec.dtype is <class 'float'>; allowed: fp32"):  # 64 bits to NumPy and PyTorch
        sextant.select(spec(float), CACHE)
    with pytest.raises(sextant.SextantInvalidArgument, match="cache.dtype is torch.int16; allowed: fp32, fp16, bf16, fp8_e4m3fn"):
        sextant.select(SPEC, sextant.KvCacheSpec(4, 4, 2, 8, torch.int16))


@pytest.mark.parametrize("backend", MHA)
def test_ml_dtypes(backend):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes: pip install ml_dtypes")
    step = Step()
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, softmax_scale=0.35, dtype=ml_dtypes.bfloat16)
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=4, num_kv_heads=2, head_dim=8, dtype=ml_dtypes.bfloat16, layout="NHD")
    q, k, v = (x.astype(ml_dtypes.bfloat16) for x in (step.q, step.k, step.v))
    k_cache, v_cache = np.zeros((4, 4, 2, 8), ml_dtypes.bfloat16), np.zeros((4, 4, 2, 8), ml_dtypes.bfloat16)
    slots = sextant.slot_mapping([0, 11], [11], step.table, 4)
    sextant.reshape_and_cache(k[:8], v[:8], slots[:8].astype(np.int32), k_cache, v_cache, cache)
    out = np.zeros((3, 4, 8), ml_dtypes.bfloat16)
    plan = sextant.plan(backend, spec, cache, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, slot_mapping=slots[8:].astype(np.int32))
    step.run(plan, q=q, k=k[8:], v=v[8:], out=out, lse=None, k_cache=k_cache, v_cache=v_cache, slot_mapping=slots[8:].astype(np.int32))
    expected = reference(*(x.astype(np.float32) for x in (q, k, v)), 0.35)
    np.testing.assert_allclose(out.astype(np.float32), expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("backend", MHA)
def test_an_empty_batch(backend):
    for empty in ([], np.zeros((0, 2), np.int32)):
        plan = sextant.plan(backend, SPEC, CACHE, query_start_loc=[0], seq_lens=[], block_table=empty)
        nothing = np.zeros((0, 4, 8), np.float32)
        cache = np.zeros((4, 4, 2, 8), np.float32)
        plan.run(
            q=nothing, k=nothing[:, :2], v=nothing[:, :2], out=nothing.copy(), k_cache=cache, v_cache=cache.copy(), query_start_loc=np.zeros(1, np.int32),
            seq_lens=np.zeros(0, np.int32), block_table=np.zeros((0, 2), np.int32), slot_mapping=np.zeros(0, np.int64),
        )  # fmt: skip


@pytest.mark.parametrize("layout", ["NHD", "preferred"])
@pytest.mark.parametrize("backend", MHA)
def test_over_a_rounding_cache_every_backend_attends_to_what_is_stored(backend, layout):
    """A prefill over fp8: the step's own keys count as a later step sees them; "exact" takes those of the run where the backend reads them."""
    step = Step()
    cache = sextant.KvCacheSpec(**{**CACHE.__dict__, "dtype": "fp8_e4m3fn", "layout": layout})
    k_shape, v_shape, _ = sextant.cache_shape(cache, backend)
    scale = np.array([0.02], np.float32)
    slots = sextant.slot_mapping([0, 11], [11], step.table, 4)
    q = np.random.default_rng(5).standard_normal((11, 4, 8)).astype(np.float32)
    batch = dict(query_start_loc=np.array([0, 11], np.int32), seq_lens=np.array([11], np.int32), block_table=step.table)

    def attended(**how):
        k_cache, v_cache, out = np.zeros(k_shape, np.uint8), np.zeros(v_shape, np.uint8), np.full((11, 4, 8), np.nan, np.float32)
        plan = sextant.plan(backend, SPEC, cache, slot_mapping=slots, **how, **batch)
        arguments = dict(q=q, out=out, k_cache=k_cache, v_cache=v_cache, k_scale=scale, v_scale=scale, **batch)
        plan.run(k=step.k, v=step.v, slot_mapping=slots, **arguments)
        first = out.copy()
        plan.run(**arguments)  # the same step again, from the cache alone
        return first, out

    given, later = attended()
    np.testing.assert_allclose(given, later, rtol=1e-6, atol=1e-6)
    exact, stored = attended(new_keys="exact")
    np.testing.assert_allclose(stored, later, rtol=1e-6, atol=1e-6)
    if backend in ("ROCM_ATTN", "ROCM_AITER_FA"):
        np.testing.assert_allclose(exact, reference(q, step.k, step.v, 0.35), rtol=1e-4, atol=1e-4)
        assert np.abs(exact - stored).max() > 1e-3
    with pytest.raises(sextant.SextantInvalidArgument, match="new_keys is 'both'; allowed: stored, exact"):
        attended(new_keys="both")


@pytest.mark.parametrize("backend", MHA)
def test_a_refused_step_over_fp8_has_written_nothing(backend):
    step = Step()
    cache = sextant.KvCacheSpec(**{**CACHE.__dict__, "dtype": "fp8_e4m3fn"})
    k_cache, v_cache = np.zeros((4, 4, 2, 8), np.uint8), np.zeros((4, 4, 2, 8), np.uint8)
    plan = sextant.plan(backend, SPEC, cache, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table)
    for changes in ({"block_table": np.array([[2, 0, 91]], np.int32)}, {"slot_mapping": np.array([12, 12, 13])}, {"q": step.q[:2]}):
        with pytest.raises(sextant.SextantInvalidArgument):
            step.run(plan, lse=None, **{"k_cache": k_cache, "v_cache": v_cache, **changes})
    assert not k_cache.any() and not v_cache.any()
