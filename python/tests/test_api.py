"""plan / run and errors over NumPy: needs nothing but the package."""

import contextlib

import numpy as np
import pytest

import sextant

SPEC = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, softmax_scale=0.35, dtype="fp32")
CACHE = sextant.KvCacheSpec(num_blocks=4, block_size=4, num_kv_heads=2, head_dim=8, dtype="fp32", layout="NHD")
MHA = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")


def reference(q, k, v, scale):
    """Causal attention of the last len(q) positions, in float64."""
    out = np.zeros((q.shape[0], q.shape[1], v.shape[2]))
    group = q.shape[1] // k.shape[1]
    for i in range(q.shape[0]):
        visible = k.shape[0] - q.shape[0] + i + 1
        for h in range(q.shape[1]):
            s = k[:visible, h // group].astype(np.float64) @ q[i, h] * scale
            p = np.exp(s - s.max())
            out[i, h] = p / p.sum() @ v[:visible, h // group]
    return out


class Step:
    """One request of 11 tokens, 3 of them new, in blocks 2, 0, 3."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.k, self.v = (rng.standard_normal((11, 2, 8)).astype(np.float32) for _ in range(2))
        self.q = rng.standard_normal((3, 4, 8)).astype(np.float32)
        self.table = np.array([[2, 0, 3]], dtype=np.int32)
        slots = self.table[0][np.arange(11) // 4].astype(np.int64) * 4 + np.arange(11) % 4
        self.new_slots = np.ascontiguousarray(slots[8:])
        self.k_cache, self.v_cache = (np.full((4, 4, 2, 8), np.nan, dtype=np.float32) for _ in range(2))
        sextant.reshape_and_cache(self.k[:8], self.v[:8], np.ascontiguousarray(slots[:8]), self.k_cache, self.v_cache, CACHE)
        self.out = np.full((3, 4, 8), np.nan, dtype=np.float32)
        self.lse = np.full((4, 3), np.nan, dtype=np.float32)

    def plan(self, backend, **options):
        return sextant.plan(backend, SPEC, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=self.table, slot_mapping=self.new_slots, **options)

    def arguments(self):
        return dict(
            q=self.q, k=self.k[8:], v=self.v[8:], out=self.out, lse=self.lse, k_cache=self.k_cache, v_cache=self.v_cache,
            query_start_loc=np.array([0, 3], np.int32), seq_lens=np.array([11], np.int32), block_table=self.table, slot_mapping=self.new_slots,
        )

    def run(self, plan, **changes):
        plan.run(**{**self.arguments(), **changes})


@pytest.mark.parametrize("backend", MHA)
def test_backend_agrees_with_numpy(backend):
    step = Step()
    plan = step.plan(backend, lse_out=True)
    assert plan.backend == backend and plan.steps
    step.run(plan)
    np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)
    assert np.isfinite(step.lse).all()


@pytest.mark.parametrize("scales", (1, 2))
@pytest.mark.parametrize("backend", MHA)
def test_fp8_queries(backend, scales):
    step = Step()
    bits = np.random.default_rng(3).integers(0x28, 0x48, step.q.shape).astype(np.uint8)  # e4m3fn, 2^-2 .. below 4
    exponent, mantissa = (bits >> 3).astype(np.float64), (bits & 7) / 8
    scale = np.array([0.5, 0.25][:scales], np.float32)
    q = 2.0 ** (exponent - 7) * (1 + mantissa) * np.repeat(scale, 4 // scales)[:, None]
    spec = sextant.AttentionSpec(**{**SPEC.__dict__, "query_dtype": "fp8_e4m3fn"})
    plan = sextant.plan(backend, spec, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, slot_mapping=step.new_slots)
    step.run(plan, q=bits, q_scale=scale, lse=None)
    np.testing.assert_allclose(step.out, reference(q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)
    with pytest.raises(sextant.SextantInvalidArgument, match="q has dtype fp32; allowed: fp8_e4m3fn"):
        step.run(plan, lse=None)
    with pytest.raises(sextant.SextantInvalidArgument, match="num_q_scales is 3; allowed: 1 or 2"):
        step.run(plan, q=bits, q_scale=np.ones(3, np.float32), lse=None)


@pytest.mark.parametrize("as_bytes", (True, False))
def test_fp8_queries_of_mla_decode(as_bytes):
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=1, head_dim=48, head_dim_v=32, softmax_scale=0.35, dtype="fp32", query_dtype="fp8_e4m3fn")
    cache = sextant.KvCacheSpec(num_blocks=2, block_size=16, num_kv_heads=1, head_dim=48, head_dim_v=32, dtype="fp32", layout="latent")
    random = np.random.default_rng(3)
    bits = random.integers(0x28, 0x48, (2, 4, 48)).astype(np.uint8)  # e4m3fn, 2^-2 .. below 4
    if not as_bytes:
        bits = bits.view(pytest.importorskip("ml_dtypes").float8_e4m3fn)
    exponent, mantissa = (bits.view(np.uint8) >> 3).astype(np.float64), (bits.view(np.uint8) & 7) / 8
    q = 2.0 ** (exponent - 7) * (1 + mantissa) * 0.5
    memory, out = random.standard_normal((2, 16, 48)).astype(np.float32), np.full((2, 4, 32), np.nan, np.float32)
    plan = sextant.mla_decode_plan(spec, cache, query_start_loc=[0, 1, 2], seq_lens=[9, 16])
    batch = dict(query_start_loc=np.arange(3, dtype=np.int32), seq_lens=np.array([9, 16], np.int32), block_table=np.array([[1], [0]], np.int32))
    with pytest.raises(sextant.SextantInvalidArgument, match="num_q_scales is 4; allowed: 1"):
        plan.run(q=bits, q_scale=np.ones(4, np.float32), kv_cache=memory, out=out, **batch)
    with pytest.raises(sextant.SextantInvalidArgument, match="q has dtype fp32; allowed: fp8_e4m3fn"):
        plan.run(q=q.astype(np.float32), kv_cache=memory, out=out, **batch)
    assert np.isnan(out).all()
    plan.run(q=bits, q_scale=np.array([0.5], np.float32), kv_cache=memory, out=out, **batch)
    for request, (block, length) in enumerate(((1, 9), (0, 16))):
        keys = memory[block, :length].astype(np.float64)
        scores = 0.35 * q[request] @ keys.T
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        np.testing.assert_allclose(out[request], weights / weights.sum(-1, keepdims=True) @ keys[:, :32], rtol=1e-5, atol=1e-5)


def test_select_explains():
    selection = sextant.select(SPEC, CACHE)
    assert selection.chosen in MHA
    assert len(selection.candidates) == 6 and all(c.reasons for c in selection.candidates)
    assert sextant.select(SPEC, CACHE, backend="ROCM_ATTN").chosen == "ROCM_ATTN"


def test_unknown_backend_suggests():
    with pytest.raises(sextant.SextantNotFound, match="did you mean ROCM_ATTN"):
        sextant.select(SPEC, CACHE, backend="ROCM_ATN")


def test_backend_that_cannot_serve():
    with pytest.raises(sextant.SextantUnsupported, match="TRITON_MLA"):
        sextant.select(SPEC, CACHE, backend="TRITON_MLA")


def test_varlen_and_merge():
    rng = np.random.default_rng(1)
    q = rng.standard_normal((5, 4, 8)).astype(np.float32)
    k, v = (rng.standard_normal((9, 2, 8)).astype(np.float32) for _ in range(2))
    whole, out = np.empty_like(q), [np.empty_like(q) for _ in range(2)]
    lse = [np.empty((4, 5), np.float32) for _ in range(2)]
    full = sextant.AttentionSpec(**{**SPEC.__dict__, "causal": False})

    def attend(first, last, into, into_lse):
        plan = sextant.varlen_plan(full, query_start_loc=[0, 5], key_start_loc=[0, last - first], lse_out=into_lse is not None)
        plan.run(q=q, k=k[first:last], v=v[first:last], out=into, lse=into_lse, query_start_loc=np.array([0, 5], np.int32),
                 key_start_loc=np.array([0, last - first], np.int32), seq_lens=np.array([last - first], np.int32))

    attend(0, 9, whole, None)
    attend(0, 4, out[0], lse[0])
    attend(4, 9, out[1], lse[1])
    sextant.merge_attn_states(out[0], lse[0], out[1], lse[1], out[0])
    np.testing.assert_allclose(out[0], whole, rtol=1e-5, atol=1e-5)


def test_tensors_are_not_copied():
    """The op writes into the arrays themselves, also into strided parts of larger ones."""
    step = Step()
    wide_q, wide_out = np.full((3, 4, 24), np.nan, np.float32), np.full((3, 4, 24), np.nan, np.float32)
    wide_q[:, :, 8:16] = step.q
    step.run(step.plan("ROCM_AITER_UNIFIED_ATTN", lse_out=True), q=wide_q[:, :, 8:16], out=wide_out[:, :, 8:16])
    np.testing.assert_allclose(wide_out[:, :, 8:16], reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)
    assert np.isnan(wide_out[:, :, :8]).all() and np.isnan(wide_out[:, :, 16:]).all()
    np.testing.assert_array_equal(step.k_cache[3, 0], step.k[8])  # the cache write arrived too


def test_rows_in_reverse():
    """Negative strides are strides."""
    step = Step()
    step.run(step.plan("ROCM_AITER_FA", lse_out=True), q=np.ascontiguousarray(step.q[::-1])[::-1])
    np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)


class OnlyDlpack:
    """An array of a library that Sextant has never heard of."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **arguments):
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_any_dlpack_producer():
    step = Step()
    step.run(step.plan("ROCM_ATTN", lse_out=True), q=OnlyDlpack(step.q), out=OnlyDlpack(step.out))
    np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)


def test_jax_arrays():
    """bf16, which NumPy has not, and read-only views of JAX's integers."""
    jax = pytest.importorskip("jax", reason="needs JAX: pip install jax")
    from jax import numpy as jnp

    with jax.default_device(jax.devices("cpu")[0]):  # where a GPU is, JAX makes its arrays there
        _check_jax_arrays(jax, jnp)


def _check_jax_arrays(jax, jnp):
    spec, cache = (type(x)(**{**x.__dict__, "dtype": "bf16"}) for x in (SPEC, CACHE))
    batch = {"query_start_loc": [0, 3], "seq_lens": [3], "block_table": [[2]], "slot_mapping": [8, 9, 10]}
    batch = {name: jnp.array(value, jnp.int32) for name, value in batch.items()}
    plan = sextant.plan("ROCM_AITER_FA", spec, cache, **batch)
    q, k, v = (jax.random.normal(jax.random.key(i), (3, heads, 8), jnp.bfloat16) for i, heads in enumerate((4, 2, 2)))
    k_cache, v_cache, out = jnp.zeros((4, 4, 2, 8), jnp.bfloat16), jnp.zeros((4, 4, 2, 8), jnp.bfloat16), jnp.zeros((3, 4, 8), jnp.bfloat16)
    plan.run(q=q, k=k, v=v, out=out, k_cache=k_cache, v_cache=v_cache, **{**batch, "slot_mapping": np.array([8, 9, 10])})
    expected = reference(*(np.asarray(x, np.float32) for x in (q, k, v)), 0.35)
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, rtol=2e-2, atol=2e-2)
    np.testing.assert_array_equal(np.asarray(k_cache, np.float32)[2, :3], np.asarray(k, np.float32))  # written in place


class FakeCupy:
    """An array as CuPy's: its stream is asked for and never made to wait, host copies are made by get(), NumPy may not convert it."""

    __module__ = "cupy"

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, *, stream, **kwargs):
        assert stream == -1
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def get(self):
        return self._array


def test_cupys_way(monkeypatch):
    """CuPy itself needs a GPU; this is what Sextant asks it for."""
    import sys
    import types

    asked = []
    cupy = types.ModuleType("cupy")
    cupy.uint8 = np.uint8

    def empty(size, dtype):  # aligned, as CuPy's
        asked.append(size)
        memory = np.empty(size + 512, dtype)
        return memory[-memory.ctypes.data % 512 :][:size]

    cupy.empty = empty
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=0), ExternalStream=lambda pointer: contextlib.nullcontext())
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    step = Step()
    plan = sextant.plan("ROCM_AITER_FA", SPEC, CACHE, query_start_loc=FakeCupy(np.array([0, 3])), seq_lens=[11], block_table=FakeCupy(step.table), lse_out=True)
    step.run(plan, q=FakeCupy(step.q), out=FakeCupy(step.out))
    np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)
    assert asked == [plan.workspace_bytes]


class Elsewhere:
    """An array of a library that Sextant does not know, on a GPU."""

    def __init__(self, kind, index):
        self.where = kind, index

    def __dlpack_device__(self):
        return self.where


def test_where_tensors_are():
    """A library whose streams are not known must be waited for; single ops go where their tensors are."""
    from sextant import _dlpack

    array = np.zeros(3, np.float32)
    places = {"cuda:1": Elsewhere(2, 1), "hip:0": Elsewhere(10, 0), "cpu": Elsewhere(1, 0)}
    assert {name: _dlpack.device_beside(tensor) for name, tensor in places.items()} == {name: name for name in places}
    assert _dlpack.device_beside(array) == _dlpack.device_beside(None) == "cpu"
    assert [_dlpack.has_own_streams(t) for t in (*places.values(), array, None)] == [True, True, False, False, False]
    (wrapped,) = _dlpack.passed(q=FakeCupy(array))
    assert not _dlpack.has_own_streams(wrapped) and np.from_dlpack(wrapped).shape == (3,)


def test_numpys_numbers_are_numbers():
    spec = sextant.AttentionSpec(num_heads=np.int64(4), num_kv_heads=np.int32(2), head_dim=8, softmax_scale=np.float32(0.35), dtype="fp32", causal=np.True_)
    cache = sextant.KvCacheSpec(np.int64(4), np.int64(4), 2, 8, "fp32", layout="NHD")
    assert sextant.plan("TRITON_ATTN", spec, cache, query_start_loc=(0, 3), seq_lens=(11,), block_table=((2, 0, 3),)).backend == "TRITON_ATTN"
    assert sextant.cache_shape(cache, "TRITON_ATTN")[0] == [4, 4, 2, 8]


def test_plan_outlives_what_it_was_made_from():
    """A plan holds its own copy of the batch: the arrays may go at once."""
    import gc

    step = Step()
    plan = sextant.plan("ROCM_AITER_FA", SPEC, CACHE, query_start_loc=np.array([0, 3]), seq_lens=np.array([11]), block_table=step.table.copy())
    gc.collect()
    step.run(plan, lse=None)
    np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)


def test_plans_are_freed():
    import gc

    from sextant._library import library

    handle = Step().plan("TRITON_ATTN")._handle
    gc.collect()
    with pytest.raises(sextant.SextantInvalidArgument, match="plan handle is"):
        library["plan_info"](handle)


def test_errors_carry_the_status():
    with pytest.raises(sextant.SextantError) as caught:
        sextant.select(SPEC, CACHE, backend="TRITON_MLA")
    assert caught.value.code == "unsupported" and isinstance(caught.value, NotImplementedError)


def test_threads_share_a_plan():
    from concurrent.futures import ThreadPoolExecutor

    steps = [Step() for _ in range(4)]
    plan = steps[0].plan("ROCM_AITER_UNIFIED_ATTN", lse_out=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda s: s.run(plan), steps * 5))
    for step in steps:
        np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)


def test_log_of_plans_and_runs():
    events = []
    sextant.set_log(events.append)
    try:
        step = Step()
        plan = sextant.plan("ROCM_ATTN", SPEC, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, slot_mapping=step.new_slots)
        with pytest.raises(sextant.SextantInvalidArgument):
            sextant.plan("ROCM_ATTN", SPEC, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=[[2, 91, 3]])
    finally:
        sextant.set_log(None)
    assert [event["event"] for event in events] == ["plan", "plan"]
    assert events[0]["backend"] == "ROCM_ATTN" and events[0]["steps"] == list(plan.steps) and events[0]["error"] is None
    assert "block_table" in events[1]["error"]
    with pytest.raises(sextant.SextantInvalidArgument, match="sink is 3"):
        sextant.set_log(3)


def test_chunks():
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, softmax_scale=0.35, dtype="fp32", attention_chunk_size=4)
    step = Step()
    batch = dict(query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, slot_mapping=step.new_slots)
    plan = sextant.plan("ROCM_AITER_FA", spec, CACHE, **batch)
    arrays = {name: np.asarray(value, np.int32) if name != "slot_mapping" else value for name, value in batch.items()}
    plan.run(q=step.q, k=step.k[8:], v=step.v[8:], out=step.out, k_cache=step.k_cache, v_cache=step.v_cache, **arrays)
    expected = reference(step.q, step.k[8:], step.v[8:], 0.35)  # positions 8, 9 and 10 are the third chunk: nobody sees 0..7
    np.testing.assert_allclose(step.out, expected, atol=1e-5)


def test_a_kept_description_serves_no_other(monkeypatch):
    """Plans of one description read it once; values that are equal but of another type are judged by themselves."""
    reads, make = [], sextant.api.library["plan_template_make"]
    monkeypatch.setattr(sextant.api, "library", {"plan_template_make": lambda text: reads.append(text) or make(text), "plan_info": sextant.api.library["plan_info"]})
    sextant.api._kept_template.cache_clear()
    fields = dict(num_heads=2, num_kv_heads=1, head_dim=16, softmax_scale=0.25, dtype="fp32")
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=8, num_kv_heads=1, head_dim=16, dtype="fp32")

    def plan(**changes):
        return sextant.plan("TRITON_ATTN", sextant.AttentionSpec(**{**fields, **changes}), cache, query_start_loc=[0, 1], seq_lens=[3], block_table=[[1]])

    plans = [plan() for _ in range(3)]
    assert len(reads) == 1 and plans[0].backend == "TRITON_ATTN" and plans[0].steps
    with pytest.raises(sextant.SextantInvalidArgument, match="num_heads is 2.0; allowed: an integer"):
        plan(num_heads=2.0)
    with pytest.raises(sextant.SextantInvalidArgument):
        plan(num_heads=[2])


@pytest.mark.parametrize("device", ("cpu", "hip-emulated"))
@pytest.mark.parametrize("backend", MHA)
def test_spans(backend, device):
    """Positions 7 to 9 see one another, beside a window of 2."""
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, softmax_scale=0.35, dtype="fp32", sliding_window=2, max_span_len=3)
    step = Step()
    spans = np.array([[7, 10], [7, 10], [0, 0]], np.int32)
    batch = dict(query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, slot_mapping=step.new_slots)
    plan = sextant.plan(backend, spec, CACHE, **batch, token_spans=spans, device=device)
    arrays = {name: np.asarray(value, np.int32) if name != "slot_mapping" else value for name, value in batch.items()}
    tensors = dict(q=step.q, k=step.k[8:], v=step.v[8:], out=step.out, k_cache=step.k_cache, v_cache=step.v_cache, **arrays)
    with pytest.raises(sextant.SextantInvalidArgument, match="token_spans is null"):
        plan.run(**tensors)
    with pytest.raises(sextant.SextantInvalidArgument, match=r"token_spans\[1\] is \[0, 0\); allowed: what its span's tokens all have"):
        plan.run(**tensors, token_spans=np.array([[7, 10], [0, 0], [0, 0]], np.int32))
    assert np.isnan(step.out).all()
    plan.run(**tensors, token_spans=spans)
    for i, (first, end) in enumerate(((7, 10), (7, 10), (9, 11))):
        expected = reference(step.q[i : i + 1], step.k[first:end], step.v[first:end], 0.35)
        np.testing.assert_allclose(step.out[i : i + 1], expected, atol=1e-5)
    with pytest.raises(sextant.SextantInvalidArgument, match=r"token_spans\[0\] is \[6, 10\), 4 long; allowed: <= 3"):
        sextant.plan(backend, spec, CACHE, **batch, token_spans=np.array([[6, 10], [6, 10], [0, 0]]), device=device)
    with pytest.raises(sextant.SextantInvalidArgument, match="token_spans was given; allowed: none"):
        step.run(step.plan(backend, lse_out=True), token_spans=spans)
