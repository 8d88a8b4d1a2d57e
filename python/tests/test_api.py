"""plan / run and errors over NumPy: needs nothing but the package."""

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

    def run(self, plan, **changes):
        arguments = dict(
            q=self.q, k=self.k[8:], v=self.v[8:], out=self.out, lse=self.lse, k_cache=self.k_cache, v_cache=self.v_cache,
            query_start_loc=np.array([0, 3], np.int32), seq_lens=np.array([11], np.int32), block_table=self.table, slot_mapping=self.new_slots,
        )
        arguments.update(changes)
        plan.run(**arguments)


@pytest.mark.parametrize("backend", MHA)
def test_backend_agrees_with_numpy(backend):
    step = Step()
    plan = step.plan(backend, lse_out=True)
    assert plan.backend == backend and plan.steps
    step.run(plan)
    np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)
    assert np.isfinite(step.lse).all()


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


class TestBadInput:
    def test_dtype(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="q has dtype fp16; allowed: fp32"):
            step.run(step.plan("TRITON_ATTN"), q=step.q.astype(np.float16))

    def test_unusable_dtype(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="q has a dtype"):
            step.run(step.plan("TRITON_ATTN"), q=step.q.astype(np.float64))

    def test_shape(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match=r"q is fp32\[3, 2, 16\]; allowed"):
            step.run(step.plan("TRITON_ATTN"), q=step.q.reshape(3, 2, 16))

    def test_stride(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="q has last stride"):
            step.run(step.plan("TRITON_ATTN"), q=np.asfortranarray(step.q))

    def test_short_cache(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="k_cache is"):
            step.run(step.plan("TRITON_ATTN"), k_cache=step.k_cache[:2])

    def test_missing_tensor(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="k is"):
            step.run(step.plan("TRITON_ATTN"), k=None)

    def test_not_a_tensor(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="is a str"):
            step.run(step.plan("TRITON_ATTN"), q="q")

    def test_block_table(self):
        with pytest.raises(ValueError, match=r"block_table\[0\]\[1\] is 9; allowed: 0..3"):
            sextant.plan("TRITON_ATTN", SPEC, CACHE, query_start_loc=[0, 1], seq_lens=[6], block_table=[[0, 9]])

    def test_stale_plan(self):
        step = Step()
        plan = step.plan("TRITON_ATTN")
        plan._finalizer()
        with pytest.raises(sextant.SextantInvalidArgument, match="plan handle is"):
            step.run(plan)

    def test_small_workspace(self):
        spec = sextant.AttentionSpec(**{**SPEC.__dict__})
        plan = sextant.plan("ROCM_AITER_FA", spec, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=[[2, 0, 3]])
        assert plan.workspace_bytes > 0
        with pytest.raises(sextant.SextantResourceExhausted, match="workspace_bytes is"):
            Step().run(plan, workspace=np.empty(256, np.uint8))

    def test_device(self):
        with pytest.raises(sextant.SextantInvalidArgument, match='device is "gpu"'):
            sextant.select(SPEC, CACHE, device="gpu")

    def test_nan_scale(self):
        with pytest.raises(sextant.SextantInvalidArgument, match="not finite"):
            sextant.select(sextant.AttentionSpec(**{**SPEC.__dict__, "softmax_scale": float("nan")}), CACHE)

    def test_output_is_untouched_by_a_refused_call(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument):
            step.run(step.plan("TRITON_ATTN"), q=step.q.reshape(3, 2, 16))
        assert np.isnan(step.out).all() and np.isnan(step.k_cache[3]).all()
