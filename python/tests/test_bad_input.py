"""Whatever Python hands over ends in a clear exception, never in a crash: over NumPy, needs nothing but the package."""

import numpy as np
import pytest
from test_api import CACHE, SPEC, Step, reference

import sextant


class TestBadInput:
    def test_dtype(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="q has dtype fp16; allowed: fp32"):
            step.run(step.plan("TRITON_ATTN", lse_out=True), q=step.q.astype(np.float16))

    def test_unusable_dtype(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="q has dtype float64; allowed"):
            step.run(step.plan("TRITON_ATTN", lse_out=True), q=step.q.astype(np.float64))

    def test_shape(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match=r"q is fp32\[3, 2, 16\]; allowed"):
            step.run(step.plan("TRITON_ATTN", lse_out=True), q=step.q.reshape(3, 2, 16))

    def test_stride(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="q has last stride"):
            step.run(step.plan("TRITON_ATTN", lse_out=True), q=np.asfortranarray(step.q))

    def test_short_cache(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="k_cache is"):
            step.run(step.plan("TRITON_ATTN", lse_out=True), k_cache=step.k_cache[:2])

    def test_missing_tensor(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="k is"):
            step.run(step.plan("TRITON_ATTN", lse_out=True), k=None)

    def test_not_a_tensor(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="is a str"):
            step.run(step.plan("TRITON_ATTN", lse_out=True), q="q")

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
        plan = sextant.plan("ROCM_AITER_FA", spec, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=[[2, 0, 3]], lse_out=True)
        assert plan.workspace_bytes > 0
        with pytest.raises(sextant.SextantResourceExhausted, match="workspace_bytes is"):
            Step().run(plan, workspace=np.empty(256, np.uint8))

    @pytest.mark.parametrize("plan", ["paged", "varlen", "mla"])
    def test_workspace_that_is_no_run_of_bytes(self, plan):
        """The library takes bytes from its address on: a view with other strides would have memory written beside it."""
        step, lens = Step(), [300, 300]
        starts = np.array([0, 300, 600], np.int32)
        if plan == "paged":
            made = sextant.plan("ROCM_AITER_FA", SPEC, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=[[2, 0, 3]])
            run = lambda workspace: step.run(made, lse=None, workspace=workspace)  # noqa: E731
        elif plan == "varlen":
            made = sextant.varlen_plan(SPEC, query_start_loc=starts, key_start_loc=starts)
            q, k = np.ones((600, 4, 8), np.float32), np.ones((600, 2, 8), np.float32)
            run = lambda workspace: made.run(q=q, k=k, v=k, out=np.empty_like(q), workspace=workspace)  # noqa: E731
        else:
            spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=1, head_dim=48, head_dim_v=32, softmax_scale=0.1, dtype="fp32")
            cache = sextant.KvCacheSpec(num_blocks=40, block_size=16, num_kv_heads=1, head_dim=48, head_dim_v=32, dtype="fp32", layout="latent")
            made = sextant.mla_decode_plan(spec, cache, query_start_loc=[0, 1, 2], seq_lens=lens)
            q, memory = np.ones((2, 4, 48), np.float32), np.ones((40, 16, 48), np.float32)
            batch = dict(query_start_loc=np.arange(3, dtype=np.int32), seq_lens=np.array(lens, np.int32), block_table=np.arange(40, dtype=np.int32).reshape(2, 20))
            run = lambda workspace: made.run(q=q, kv_cache=memory, out=np.empty((2, 4, 32), np.float32), workspace=workspace, **batch)  # noqa: E731
        size = max(made.workspace_bytes, 512)
        memory_of_all = np.zeros(4 * size + 256, np.uint8)
        aligned = memory_of_all[-memory_of_all.ctypes.data % 256 :][: 4 * size]
        for view in (
            np.lib.stride_tricks.as_strided(aligned, (size,), (0,)), aligned[::-1][:size], aligned[: 4 * size : 4], aligned.reshape(4, size)[:, : size // 2],
        ):
            with pytest.raises(sextant.SextantInvalidArgument, match="workspace is .*, not contiguous; allowed: bytes that follow one another"):
                run(view)
        assert not memory_of_all.any() and np.isnan(step.out).all()
        run(aligned[:size])

    def test_device(self):
        with pytest.raises(sextant.SextantInvalidArgument, match='device is "gpu"'):
            sextant.select(SPEC, CACHE, device="gpu")

    def test_nan_scale(self):
        with pytest.raises(sextant.SextantInvalidArgument, match="spec.softmax_scale is nan; allowed: finite numbers"):
            sextant.select(sextant.AttentionSpec(**{**SPEC.__dict__, "softmax_scale": float("nan")}), CACHE)

    def test_output_is_untouched_by_a_refused_call(self):
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument):
            step.run(step.plan("TRITON_ATTN"), q=step.q.reshape(3, 2, 16))
        assert np.isnan(step.out).all() and np.isnan(step.k_cache[3]).all()


class TestStrangeInput:
    """Whatever Python hands over ends in an exception, never in a crash."""

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"seq_lens": np.array([11], np.int64)}, "seq_lens has dtype"),
            ({"seq_lens": np.array([11, 2], np.int32)[::2][:0]}, "seq_lens"),
            ({"query_start_loc": np.array([0], np.int32)}, "query_start_loc"),
            ({"block_table": np.zeros((1, 1), np.int32)}, "max_blocks"),
            ({"slot_mapping": np.zeros(1, np.int64)}, "slot_mapping has 1 elements; allowed: at least 3"),
            ({"slot_mapping": np.array([12, 13, 99])}, "slot_mapping"),
            ({"block_table": np.array([[2, 0, 91]], np.int32)}, r"block_table\[0\]\[2\] is 91; allowed: 0..3"),
            ({"seq_lens": np.array([12], np.int32)}, "as planned"),
            ({"query_start_loc": np.array([0, 2], np.int32)}, "query_start_loc ends with 2; allowed: 3"),
            ({"lse": np.zeros((4, 3), np.float16)}, "lse"),
            ({"out": np.zeros((3, 4, 8), np.float16)}, "out"),
            ({"out": np.zeros((2, 4, 8), np.float32)}, "out"),
            ({"out": None}, "out"),
            ({"q": None}, "q"),
            ({"q": np.zeros((1,) * 9, np.float32)}, "q has rank 9"),
            ({"q": np.zeros((3, 4, 8), np.complex64)}, "q has dtype complex64; allowed"),
            ({"q": [1, 2, 3]}, "q is a list; allowed: a tensor"),
            ({"v_cache": object()}, "v_cache is a object"),
            ({"workspace": "none"}, "workspace is a str"),
            ({"block_table": np.array([2, 0, 3], np.int32)}, r"block_table has rank 1; allowed: 2 \(\[requests, max_blocks\]\)"),
            ({"sinks": np.zeros(4, np.float32)}, "sinks was given; allowed: none, since the plan was made without spec.has_sinks"),
            ({"alibi_slopes": np.zeros(4, np.float32)}, "alibi_slopes was given; allowed: none"),
            ({"out": np.lib.stride_tricks.as_strided(np.zeros(32, np.float32), (3, 4, 8), (0, 32, 4))}, "out is .* elements that share memory"),
            ({"lse": np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (4, 3), (8, 4))}, "lse is .* elements that share memory"),
            ({"q": np.zeros((3, 4, 8), ">f4")}, "q has dtype >f4; allowed: plain numbers in the machine's byte order"),
            ({"q": np.zeros((3, 4, 8), object)}, "q has dtype object"),
            ({"stream": "main"}, "stream is 'main'; allowed: the driver's pointer"),
            ({"q": np.broadcast_to(np.float32(1), (3, 4, 8))}, "q is a read-only array; allowed: writable"),
        ],
    )
    def test_run(self, changes, message):
        step = Step()
        with pytest.raises(sextant.SextantError, match=message):
            step.run(step.plan("ROCM_AITER_FA", lse_out=True), **changes)

    def test_lse_that_was_not_planned(self):
        """Left unwritten it would look like a result."""
        step = Step()
        with pytest.raises(sextant.SextantInvalidArgument, match="lse was given; allowed: none, since the plan was made without lse_out"):
            step.run(step.plan("TRITON_ATTN"))

    def test_missing_operands_of_single_ops(self):
        rows, lse = np.zeros((2, 2, 8), np.float32), np.zeros((2, 2), np.float32)
        with pytest.raises(sextant.SextantInvalidArgument, match="suffix_lse is None; allowed: a tensor"):
            sextant.merge_attn_states(rows, lse, rows, None, rows)
        with pytest.raises(sextant.SextantInvalidArgument, match="k_cache is None; allowed: a tensor"):
            sextant.reshape_and_cache(rows, rows, np.array([0, 1]), None, None, CACHE)

    def test_no_layout_to_prefer(self):
        cache = sextant.KvCacheSpec(**{**CACHE.__dict__, "layout": "preferred"})
        rows = np.zeros((2, 2, 16), np.float32)
        for call in (lambda: sextant.cache_shape(cache), lambda: sextant.reshape_and_cache(rows, rows, np.array([0, 1]), rows, rows, cache)):
            with pytest.raises(sextant.SextantInvalidArgument, match='layout is "preferred" and no backend is named; allowed: NHD, HND'):
                call()

    def test_read_only_output(self):
        step = Step()
        step.out.setflags(write=False)
        with pytest.raises(sextant.SextantInvalidArgument, match="out is a read-only array"):
            step.run(step.plan("TRITON_ATTN", lse_out=True))

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"query_start_loc": [0, 2.5]}, "query_start_loc has dtype float64; allowed: integers"),
            ({"query_start_loc": [0, 2**40]}, "query_start_loc holds values beyond int32"),
            ({"query_start_loc": []}, "query_start_loc"),
            ({"query_start_loc": [0, -1]}, "query_start_loc"),
            ({"query_start_loc": [[0, 3]]}, "query_start_loc has rank 2; allowed: 1"),
            ({"seq_lens": 11}, "seq_lens has rank 0; allowed: 1"),
            ({"seq_lens": [-3]}, "seq_lens"),
            ({"seq_lens": "11"}, "seq_lens has dtype"),
            ({"seq_lens": [2**31 - 1]}, "seq_lens"),
            ({"block_table": [1, 2]}, "block_table has rank 1; allowed: 2"),
            ({"block_table": [[2, 0, 3], [1]]}, "block_table is not an array"),
            ({"block_table": [[-1, 0, 0]]}, r"block_table\[0\]\[0\] is -1"),
            ({"block_table": None}, "max_blocks_per_request is missing"),
            ({"block_table": None, "max_blocks_per_request": "3"}, "max_blocks_per_request is '3'; allowed: an integer"),
            ({"slot_mapping": [10**12, 0, 0]}, "slot_mapping"),
            ({"shared_prefix_len": -5}, "shared_prefix_len"),
            ({"shared_prefix_len": 2**32 + 4}, "shared_prefix_len"),
            ({"max_query_len": -1}, "max_query_len"),
            ({"decode_max_query_len": object()}, "cannot be used"),
            ({"device": "cuda:99"}, "cuda"),
            ({"device": "cpu:-1"}, 'device is "cpu:-1"'),
            ({"device": "cpu:99999999999999999999"}, "device"),
            ({"device": 3}, 'device is "3"'),
        ],
    )
    def test_plan(self, arguments, message):
        good = dict(query_start_loc=[0, 3], seq_lens=[11], block_table=[[2, 0, 3]])
        with pytest.raises(sextant.SextantError, match=message):
            sextant.plan("ROCM_AITER_FA", SPEC, CACHE, **{**good, **arguments})

    def test_not_a_spec(self):
        with pytest.raises(sextant.SextantInvalidArgument, match="spec is a int; allowed: sextant.AttentionSpec"):
            sextant.select(1, CACHE)
        with pytest.raises(sextant.SextantInvalidArgument, match="cache is a AttentionSpec; allowed: sextant.KvCacheSpec"):
            sextant.cache_shape(SPEC, "TRITON_ATTN")

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"k_cache": np.zeros((4, 4, 2, 8), np.float16)}, "k_cache has dtype fp16; allowed: fp32"),  # half the memory that the spec says
            ({"v_cache": np.zeros((4, 4, 2, 8), np.int32)}, "v_cache has dtype int32; allowed: fp32"),
            ({"k_cache": np.zeros((3, 4, 2, 8), np.float32)}, "at least 256"),
            ({"k": np.zeros((1, 2, 8), np.float32)}, "k is fp32"),
            ({"slot_mapping": np.array([1, 16])}, r"slot_mapping\[1\] is 16; allowed: < 16"),
            ({"slot_mapping": np.array([5, 5])}, r"slot_mapping\[1\] is 5; allowed: a slot of its own"),
            ({"family": "fast"}, 'family is "fast"; allowed: portable, tuned'),
        ],
    )
    def test_reshape_and_cache(self, changes, message):
        memory = {name: np.zeros((4, 4, 2, 8), np.float32) for name in ("k_cache", "v_cache")}
        rows = {name: np.ones((2, 2, 8), np.float32) for name in ("k", "v")}
        arguments = {**rows, "slot_mapping": np.array([5, 6]), **memory, **changes}
        with pytest.raises(sextant.SextantInvalidArgument, match=message):
            sextant.reshape_and_cache(cache=CACHE, **arguments)
        assert not memory["k_cache"].any() and not memory["v_cache"].any()

    def test_scales(self):
        """One number of scales for K and V: a kernel that reads a scale a head must not read past a single one."""
        cache = sextant.KvCacheSpec(**{**CACHE.__dict__, "dtype": "fp8_e4m3fn"})
        memory = [np.zeros((4, 4, 2, 8), np.uint8) for _ in range(2)]
        rows, slots = np.ones((2, 2, 8), np.float32), np.array([5, 6])

        def write(k_scale, v_scale):
            sextant.reshape_and_cache(rows, rows, slots, *memory, cache, k_scale=k_scale, v_scale=v_scale)

        one, two, three = (np.full(n, 0.5, np.float32) for n in (1, 2, 3))
        for k_scale, v_scale, message in ((two, one, "v_scale has 1 elements; allowed: 2, as k_scale"), (None, three, "v_scale has 3 elements; allowed: 1 or 2")):
            with pytest.raises(sextant.SextantInvalidArgument, match=message):
                write(k_scale, v_scale)
            assert not memory[0].any() and not memory[1].any()
        write(None, np.array([0.5, 0.25], np.float32))  # 1 / 0.5 and 1 / 0.25 in e4m3fn
        assert memory[1][1, 1, :, 0].tolist() == [0x40, 0x48] and memory[0][1, 1, :, 0].tolist() == [0x38, 0x38]

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"block_table": np.array([[2, 0, 9100000]], np.int32)}, r"block_table\[0\]\[2\] is 9100000; allowed: 0..3"),
            ({"seq_lens": np.array([1200000], np.int32)}, "seq_lens"),
            ({"slot_mapping": np.array([12, 13, 9900000])}, "slot_mapping"),
        ],
    )
    def test_emulated_gpu(self, changes, message):
        """The device whose kernels are AMD's refuses what the CPU refuses."""
        step = Step()
        plan = step.plan("ROCM_AITER_FA", lse_out=True, device="hip-emulated")
        with pytest.raises(sextant.SextantInvalidArgument, match=message):
            step.run(plan, **changes)
        assert np.isnan(step.out).all()
        step.run(plan)
        np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("seq_lens", [[10], [8], [-1], [10**8]])
    def test_varlen_lengths(self, seq_lens):
        plan = sextant.varlen_plan(SPEC, query_start_loc=[0, 5], key_start_loc=[0, 9])
        q, k, out = np.ones((5, 4, 8), np.float32), np.ones((9, 2, 8), np.float32), np.full((5, 4, 8), np.nan, np.float32)
        with pytest.raises(sextant.SextantInvalidArgument, match=r"seq_lens\[0\] is .*; allowed: 9, as planned"):
            plan.run(q=q, k=k, v=k, out=out, query_start_loc=np.array([0, 5], np.int32), key_start_loc=np.array([0, 9], np.int32),
                     seq_lens=np.array(seq_lens, np.int32))  # fmt: skip
        assert np.isnan(out).all()

    @pytest.mark.parametrize("field, value", [("num_heads", 0), ("num_heads", 3), ("head_dim", 7), ("head_dim", 10**6), ("dtype", "int4"), ("num_heads", "4"),
                                              ("num_heads", None), ("num_heads", 2**40), ("sliding_window", -1), ("softmax_scale", float("inf"))])
    def test_spec(self, field, value):
        with pytest.raises(sextant.SextantError):
            sextant.plan("TRITON_ATTN", sextant.AttentionSpec(**{**SPEC.__dict__, field: value}), CACHE, query_start_loc=[0, 1], seq_lens=[1], block_table=[[0]])

    @pytest.mark.parametrize("field, value", [("num_blocks", -1), ("num_blocks", 2**70), ("block_size", 0), ("layout", "diagonal"), ("layout", None), ("dtype", None), ("head_dim", 16)])
    def test_cache(self, field, value):
        with pytest.raises(sextant.SextantError):
            sextant.plan("TRITON_ATTN", SPEC, sextant.KvCacheSpec(**{**CACHE.__dict__, field: value}), query_start_loc=[0, 1], seq_lens=[1], block_table=[[0]])
