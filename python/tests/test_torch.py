"""Custom ops, torch.compile, dense attention."""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import sextant  # noqa: E402
import sextant.torch as st  # noqa: E402


def dense_inputs(dtype=torch.float32, queries=7, keys=7, seed=0):
    torch.manual_seed(seed)
    return (torch.randn(2, 8, queries, 64, dtype=dtype), torch.randn(2, 2, keys, 64, dtype=dtype), torch.randn(2, 2, keys, 64, dtype=dtype))


@pytest.mark.parametrize("family", ["portable", "tuned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_agrees_with_sdpa(dtype, family):
    q, k, v = dense_inputs(dtype)
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True, enable_gqa=True)
    got = st.attention(q, k, v, is_causal=True, family=family)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-5 if dtype == torch.float32 else 2e-2)


def test_causal_is_bottom_right():
    q, k, v = dense_inputs(queries=3, keys=10)
    mask = torch.ones(3, 10, dtype=torch.bool).tril(7)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(st.attention(q, k, v, is_causal=True), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["portable", "tuned"])
@pytest.mark.parametrize("window", [0, 3])
def test_spans_see_both_ways(family, window):
    q, k, v = dense_inputs(queries=9, keys=14)
    spans = torch.zeros(2, 9, 2, dtype=torch.int32)
    spans[0, 0:4] = torch.tensor([3, 9])  # from the keys before the first query on
    spans[1, 2:5] = torch.tensor([7, 10])
    key, query = torch.arange(14)[None, None], (5 + torch.arange(9))[None, :, None]
    mask = (key <= query) & ((key > query - window) if window else True)
    mask = mask | ((key >= spans[..., :1]) & (key < spans[..., 1:]))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=True)
    got = st.attention(q, k, v, is_causal=True, sliding_window=window, token_spans=spans, family=family)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    plain = st.attention(q, k, v, is_causal=True, sliding_window=window, family=family)
    torch.testing.assert_close(st.attention(q, k, v, is_causal=True, sliding_window=window, token_spans=spans * 0, family=family), plain)
    with pytest.raises(sextant.SextantInvalidArgument, match=r"token_spans has shape \[2, 8, 2\]; allowed: \[2, 9, 2\]"):
        st.attention(q, k, v, is_causal=True, token_spans=spans[:, :8])
    compiled = torch.compile(lambda q, k, v: st.attention(q, k, v, is_causal=True, sliding_window=window, token_spans=spans), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), st.attention(q, k, v, is_causal=True, sliding_window=window, token_spans=spans))


def test_rows_past_the_sequences_are_empty():
    """Padding: no keys, so out 0 and lse -inf, not what the memory held."""
    q, k, v = (x.transpose(1, 2).reshape(-1, x.shape[1], 64) for x in dense_inputs())
    out, lse = st.varlen_attention(q, k, v, [7], [7], 0.125)
    assert (out[7:] == 0).all() and (lse[:, 7:] == float("-inf")).all() and lse[:, :7].isfinite().all() and out[:7].all()


def test_ops_pass_opcheck():
    q, k, v = (x.transpose(1, 2).reshape(-1, x.shape[1], 64) for x in dense_inputs())
    torch.library.opcheck(torch.ops.sextant.varlen_attention.default, (q, k, v, [7, 7], [7, 7], 0.125), test_utils=("test_schema", "test_faketensor"))


def test_compiles():
    q, k, v = dense_inputs()
    compiled = torch.compile(lambda q, k, v: st.attention(q * 2, k, v, is_causal=True) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), st.attention(q * 2, k, v, is_causal=True) + 1)


@pytest.mark.parametrize("backend", ["TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"])
def test_paged_run(backend):
    torch.manual_seed(1)
    spec = sextant.AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=64, softmax_scale=0.125, dtype="bf16")
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=16, num_kv_heads=2, head_dim=64, dtype="bf16")
    k_shape, v_shape, _ = sextant.cache_shape(cache, backend)
    bf16 = {"dtype": torch.bfloat16}
    k_cache, v_cache = torch.full(k_shape, float("nan"), **bf16), torch.full(v_shape, float("nan"), **bf16)
    q, k, v = torch.randn(20, 8, 64, **bf16), torch.randn(20, 2, 64, **bf16), torch.randn(20, 2, 64, **bf16)
    table, slots = torch.tensor([[3, 1]], dtype=torch.int32), torch.cat([torch.arange(48, 64), torch.arange(16, 20)])
    plan = st.plan(backend, spec, cache, query_start_loc=[0, 20], seq_lens=[20], block_table=table, slot_mapping=slots)
    out = st.run(plan, q, k, v, k_cache, v_cache, query_start_loc=torch.tensor([0, 20], dtype=torch.int32), seq_lens=torch.tensor([20], dtype=torch.int32),
                 block_table=table, slot_mapping=slots)
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.float().transpose(0, 1)[None] for x in (q, k, v)), is_causal=True, enable_gqa=True)
    torch.testing.assert_close(out.float(), expected[0].transpose(0, 1), atol=2e-2, rtol=2e-2)
    st.release(plan)
    with pytest.raises(sextant.SextantInvalidArgument, match="was not released"):
        st.run(plan, q, k, v, k_cache, v_cache, query_start_loc=table, seq_lens=table, block_table=table)


def test_freed_tensor_is_refused():
    q, k, v = (x.transpose(1, 2).reshape(-1, x.shape[1], 64).clone() for x in dense_inputs())
    q.untyped_storage().resize_(0)
    with pytest.raises((sextant.SextantError, RuntimeError, ValueError)):
        st.varlen_attention(q, k, v, [7, 7], [7, 7], 0.125)


@pytest.mark.parametrize("tensor, kind", [(torch.empty(14, 8, 64, device="meta"), "meta"), (torch.zeros(14, 8, 64).to_sparse(), "sparse"),
                                          (torch.quantize_per_tensor(torch.zeros(14, 8, 64), 1.0, 0, torch.qint8), "quantised")])  # fmt: skip
def test_tensors_without_plain_memory(tensor, kind):
    _, k, v = (x.transpose(1, 2).reshape(-1, x.shape[1], 64) for x in dense_inputs())
    spec = sextant.AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=64, softmax_scale=0.125, dtype="fp32")
    plan = sextant.varlen_plan(spec, query_start_loc=[0, 14], key_start_loc=[0, 14])
    lengths = dict(query_start_loc=torch.tensor([0, 14], dtype=torch.int32), key_start_loc=torch.tensor([0, 14], dtype=torch.int32),
                   seq_lens=torch.tensor([14], dtype=torch.int32))  # fmt: skip
    with pytest.raises(sextant.SextantInvalidArgument, match=f"q is a .*{kind}.* tensor; allowed: strided"):
        plan.run(q=tensor, k=k, v=v, out=torch.empty(14, 8, 64), **lengths)


def test_bad_shapes():
    with pytest.raises(sextant.SextantInvalidArgument, match="key is a NoneType; allowed: a torch.Tensor"):
        st.attention(torch.zeros(1, 1, 1, 8), None, None)
    with pytest.raises(sextant.SextantInvalidArgument, match='family is "fast"; allowed: portable, tuned'):
        st.attention(*[torch.zeros(1, 1, 1, 8)] * 3, family="fast")
    q, k, v = dense_inputs()
    with pytest.raises(sextant.SextantInvalidArgument, match="query has shape"):
        st.attention(q[0], k, v)
    with pytest.raises(sextant.SextantInvalidArgument, match="query_lens sum to 99"):
        st.varlen_attention(q[0].transpose(0, 1).contiguous(), k[0].transpose(0, 1).contiguous(), v[0].transpose(0, 1).contiguous(), [99], [7], 0.125)


def paged_arguments():
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, softmax_scale=0.2, dtype="fp32")
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=8, num_kv_heads=2, head_dim=32, dtype="fp32", layout="NHD")
    torch.manual_seed(3)
    table = torch.tensor([[3, 1]], dtype=torch.int32)
    slots = torch.cat([torch.arange(24, 32), torch.arange(8, 12)])
    plan = st.plan("ROCM_AITER_UNIFIED_ATTN", spec, cache, query_start_loc=[0, 12], seq_lens=[12], block_table=table, slot_mapping=slots)
    tensors = [torch.randn(12, 4, 32), torch.randn(12, 2, 32), torch.randn(12, 2, 32), torch.zeros(4, 8, 2, 32), torch.zeros(4, 8, 2, 32)]
    batch = dict(query_start_loc=torch.tensor([0, 12], dtype=torch.int32), seq_lens=torch.tensor([12], dtype=torch.int32), block_table=table, slot_mapping=slots)
    return plan, tensors, batch


def test_paged_run_compiles():
    plan, tensors, batch = paged_arguments()
    expected = st.run(plan, *tensors, **batch) + 1
    caches = [torch.zeros_like(tensors[3]), torch.zeros_like(tensors[4])]
    compiled = torch.compile(lambda *t: st.run(plan, *t, **batch) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors[:3], *caches), expected)
    torch.testing.assert_close(caches[0], tensors[3])  # the cache write happened in place


def test_paged_run_takes_fp8_queries():
    made, (q, k, v, k_cache, v_cache), batch = paged_arguments()
    q8, scale = q.mul(2).to(torch.float8_e4m3fn), torch.tensor([0.5, 0.5])
    expected = st.run(made, q8.float() / 2, k, v, k_cache, v_cache, **batch)
    st.release(made)
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, softmax_scale=0.2, dtype="fp32", query_dtype="fp8_e4m3fn")
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=8, num_kv_heads=2, head_dim=32, dtype="fp32", layout="NHD")
    made = st.plan("ROCM_AITER_UNIFIED_ATTN", spec, cache, query_start_loc=[0, 12], seq_lens=[12], block_table=batch["block_table"])
    out = st.run(made, q8, k, v, k_cache, v_cache, q_scale=scale, **batch)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
    st.release(made)


def test_paged_and_dense_ops_pass_opcheck():
    plan, (q, k, v, k_cache, v_cache), batch = paged_arguments()
    arguments = (plan._handle, q, k, v, torch.zeros(12, 4, 32), None, k_cache, v_cache, *batch.values(), None, None, None, None, None)
    torch.library.opcheck(torch.ops.sextant.paged_attention.default, arguments, test_utils=("test_schema", "test_faketensor"))
    dense = (*dense_inputs(), 0.125, True, 0, 0.0, None, None, "tuned", -1, -1)
    torch.library.opcheck(torch.ops.sextant.dense_attention.default, dense, test_utils=("test_schema", "test_faketensor"))


def test_paged_run_gives_lse_and_takes_alibi():
    """lse through the op is the log of the sum of the scores' exponentials; slopes bend the scores."""
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, softmax_scale=0.2, dtype="fp32", has_alibi=True)
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=8, num_kv_heads=2, head_dim=32, dtype="fp32", layout="NHD")
    made, (q, k, v, k_cache, v_cache), batch = paged_arguments()
    st.release(made)
    made = st.plan("ROCM_AITER_FA", spec, cache, query_start_loc=[0, 12], seq_lens=[12], block_table=batch["block_table"], lse_out=True)
    slopes, lse = torch.tensor([0.5, 0.25, 0.125, 0.0625]), torch.full((4, 12), float("nan"))
    out = torch.compile(lambda lse: st.run(made, q, k, v, k_cache, v_cache, alibi_slopes=slopes, lse=lse, **batch), backend="aot_eager")(lse)
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * 0.2 + slopes[:, None, None] * torch.arange(12)
    scores = scores.masked_fill(torch.ones(12, 12, dtype=torch.bool).triu(1), float("-inf"))
    torch.testing.assert_close(lse, scores.logsumexp(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.repeat_interleave(2, 1)), atol=1e-5, rtol=1e-5)
    st.release(made)
    dense = st.attention(*(x.transpose(0, 1)[None] for x in (q, k, v)), is_causal=True, scale=0.2, alibi_slopes=slopes)
    torch.testing.assert_close(dense[0].transpose(0, 1), out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["TRITON_MLA", "ROCM_AITER_MLA"])
def test_paged_mla(backend):
    """Prefill, then a token that reads the latent cache, in eager and compiled form."""
    torch.manual_seed(4)
    heads, rank, nope, rope, dim_v = 4, 64, 32, 16, 32
    spec = sextant.AttentionSpec(num_heads=heads, num_kv_heads=heads, head_dim=nope + rope, head_dim_v=dim_v, softmax_scale=0.15, dtype="fp32",
                                 kv_lora_rank=rank, qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=dim_v)  # fmt: skip
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=8, num_kv_heads=1, head_dim=rank + rope, head_dim_v=rank, dtype="fp32")
    kv_cache = torch.full(sextant.cache_shape(cache, backend)[0], float("nan"))
    table, weight = torch.tensor([[3, 1]], dtype=torch.int32), torch.randn(heads * (nope + dim_v), rank) / 8
    q, kv_c, k_pe = torch.randn(10, heads, nope + rope), torch.randn(10, rank), torch.randn(10, rope)
    slots = torch.cat([torch.arange(24, 32), torch.arange(8, 10)])

    def step(first, last, call):
        made = st.plan(backend, spec, cache, query_start_loc=[0, last - first], seq_lens=[last], block_table=table)
        batch = dict(query_start_loc=torch.tensor([0, last - first], dtype=torch.int32), seq_lens=torch.tensor([last], dtype=torch.int32),
                     block_table=table, slot_mapping=slots[first:last])  # fmt: skip
        return call(lambda q, c, p: st.run_mla(made, q, c, p, weight, kv_cache, **batch) + 1)(q[first:last], kv_c[first:last], k_pe[first:last]) - 1

    out = torch.cat([step(0, 9, lambda f: f), step(9, 10, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager"))])
    up = (kv_c @ weight.T).view(10, heads, nope + dim_v)
    k = torch.cat([up[..., :nope], k_pe[:, None].expand(-1, heads, -1)], -1)
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, up[..., nope:])), is_causal=True, scale=0.15)
    torch.testing.assert_close(out, expected[0].transpose(0, 1), atol=1e-4, rtol=1e-4)


def test_lengths_stay_with_their_plan():
    """Nothing is made again for lengths that ran before: what a graph captures must not depend on copies from the host."""
    q, k, v = (x.transpose(1, 2).reshape(-1, x.shape[1], 64) for x in dense_inputs())
    st.varlen_attention(q, k, v, [7, 7], [7, 7], 0.125)
    before = list(st._varlen_plans.values())[-1]
    st.varlen_attention(q, k, v, [7, 7], [7, 7], 0.125)
    assert list(st._varlen_plans.values())[-1] is before and before.seq_lens.tolist() == [7, 7]


def test_new_lengths_in_a_capture_are_refused(monkeypatch):
    class Cuda:
        type = "cuda"

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(sextant.SextantUnsupported, match="allowed: lengths that ran once before it"):
        st._varlen(None, (3,), (4,), Cuda(), "tuned", True)


def test_inductor_compiles():
    q, k, v = dense_inputs()
    compiled = torch.compile(lambda q, k, v: st.attention(q * 2, k, v, is_causal=True) + 1, fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), st.attention(q * 2, k, v, is_causal=True) + 1)


def test_gradients_through_the_paged_op_are_refused():
    made, (q, k, v, k_cache, v_cache), batch = paged_arguments()
    out = st.run(made, q.requires_grad_(), k, v, k_cache, v_cache, **batch)
    with pytest.raises(sextant.SextantUnsupported, match="a gradient of query, key or value"):
        out.sum().backward()
    st.release(made)


def test_forward_mode_is_refused_with_nothing_written():
    """Whoever asks for a derivative by torch.func or a dual tensor would get a zero for it."""
    from torch.autograd import forward_ad

    q, k, v = dense_inputs()
    for ask in (
        lambda q: torch.func.jvp(lambda q: st.attention(q, k, v), (q,), (torch.ones_like(q),)),
        lambda k: torch.func.jacfwd(lambda k: st.attention(q, k, v).sum())(k),
        lambda q: torch.func.grad(lambda q: st.attention(q, k, v).sum())(q),
    ):
        with pytest.raises(sextant.SextantUnsupported, match="a derivative of query, key or value"):
            ask(q if ask.__code__.co_varnames[0] == "q" else k)
    made, (q, k, v, k_cache, v_cache), batch = paged_arguments()
    with forward_ad.dual_level(), pytest.raises(sextant.SextantUnsupported, match="a derivative of query, key or value"):
        st.run(made, forward_ad.make_dual(q, torch.ones_like(q)), k, v, k_cache, v_cache, **batch)
    assert not k_cache.any() and not v_cache.any()
    with forward_ad.dual_level():  # nobody asks for one here
        assert st.run(made, q, k, v, k_cache, v_cache, **batch).isfinite().all()
    q, k, v = dense_inputs()
    torch.testing.assert_close(torch.func.vmap(lambda q: st.attention(q, k, v))(torch.stack([q, -q]))[1], st.attention(-q, k, v))


def test_gradients_of_what_else_is_learned_are_refused():
    """Sinks, slopes and the mask's prefix: a backward that gives them no gradient must say so."""
    q, k, v = dense_inputs()
    for name in ("sinks", "alibi_slopes"):
        learned = torch.zeros(8, requires_grad=True)
        with pytest.raises(sextant.SextantUnsupported, match="a gradient of query, key or value"):
            st.attention(q, k, v, is_causal=True, **{name: learned}).sum().backward()
    long = torch.randn(2, 2, 80, 64)
    for result in st.masked_attention(q.requires_grad_(), long, long, torch.ones(7, 80, dtype=torch.bool), scale=0.1):
        with pytest.raises(sextant.SextantUnsupported, match="a gradient of query, key or value"):
            result.sum().backward()


def test_views_with_the_other_sign():
    """PyTorch negates some views only when they are read: their memory holds the opposite numbers."""
    q, k, v = dense_inputs()
    for i in range(3):
        given = [torch._neg_view(x) if i == at else x for at, x in enumerate((q, k, v))]
        torch.testing.assert_close(st.attention(*given, is_causal=True), st.attention(*(x.resolve_neg() for x in given), is_causal=True), atol=0, rtol=0)
    made, (q, k, v, k_cache, v_cache), batch = paged_arguments()
    for name, changed in (("q", (torch._neg_view(q), k, v, k_cache)), ("k_cache", (q, k, v, torch._neg_view(k_cache)))):
        with pytest.raises(sextant.SextantInvalidArgument, match=f"{name} is a negated view; allowed: tensors whose memory holds their numbers"):
            made.run(**dict(zip(("q", "k", "v", "k_cache"), changed)), v_cache=v_cache, out=torch.zeros_like(q), **batch)
    assert not k_cache.any() and not v_cache.any()


def test_what_an_op_wrote_is_counted():
    """Autograd refuses a backward pass over a tensor that was overwritten after it was saved: it looks at the version."""
    made, (q, k, v, k_cache, v_cache), batch = paged_arguments()
    out, before = torch.zeros(12, 4, 32), k_cache._version
    st.run(made, q, k, v, k_cache, v_cache, out=out, **batch)
    assert k_cache._version > before and v_cache._version > 0 and out._version > 0
    st.release(made)


def masks():
    """Name, mask [.., Sq, Sk], Sq, Sk: what engines and models make."""
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    parents = [-1, 0, 0, 1, 1, 2, 3, 6, 6]  # of a draft tree's tokens
    tree = torch.eye(9, dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            tree[token] |= tree[parent]
    context = torch.ones(9, 500, dtype=torch.bool)
    packed = torch.block_diag(*(torch.ones(n, n).tril() for n in (4, 2, 3))).bool()
    holes = torch.rand(2, 1, 9, 30, generator=torch.Generator().manual_seed(3)) < 0.5
    blocks = torch.block_diag(torch.ones(3, 3), torch.ones(6, 6)).bool() | causal
    return {"causal": causal, "tree": tree, "tree after a context": torch.cat([context, tree], 1), "packed": packed, "holes": holes, "image blocks": blocks,
            "floats": torch.zeros(9, 9).masked_fill(~causal, float("-inf")), "window": causal & ~torch.ones(9, 9, dtype=torch.bool).tril(-3),
            "one row for all": torch.tensor([True] * 5 + [False] * 4)[None], "nothing seen": torch.zeros(9, 12, dtype=torch.bool)}  # fmt: skip


@pytest.mark.parametrize("name", masks())
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.3, -1.0, 2.0, 0.1])])
def test_masks_of_the_callers(name, sinks):
    mask = masks()[name]
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, heads, n, 32, generator=generator) for heads, n in ((4, 9), (2, mask.shape[-1]), (2, mask.shape[-1])))
    out = st.attention(q, k, v, mask, sinks=sinks)
    seen = mask if mask.dtype == torch.bool else mask == 0
    scores = (q @ k.repeat_interleave(2, 1).transpose(2, 3) / 32**0.5).masked_fill(~seen, float("-inf"))
    column = torch.full((2, 4, 9, 1), float("-inf")) if sinks is None else sinks.view(1, 4, 1, 1).expand(2, 4, 9, 1)
    expected = torch.cat([scores, column], 3).softmax(3).nan_to_num()[..., :-1] @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=2e-5)


def test_masks_that_are_refused():
    q, k, v = torch.zeros(1, 4, 9, 32), torch.zeros(1, 2, 9, 32), torch.zeros(1, 2, 9, 32)
    for mask, options, message in (
        (torch.ones(9, 8, dtype=torch.bool), {}, r"attn_mask has shape \[9, 8\]; allowed: \[9, 9\]"),
        (torch.rand(9, 9), {}, "holds biases"),
        (torch.ones(9, 9, dtype=torch.bool), {"is_causal": True}, "allowed: the mask alone"),
        (torch.rand(1, 4, 9, 9) < 0.5, {}, "differs between heads"),
    ):
        with pytest.raises(sextant.SextantError, match=message):
            st.attention(q, k, v, mask, **options)


def test_a_draft_tree_over_a_paged_context():
    """What docs/python-peers.md says: the context by the plan, the tree by its mask, joined by their log-sum-exp."""
    context, parents = 20, [-1, 0, 0, 1, 1, 2]
    tree = torch.eye(6, dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            tree[token] |= tree[parent]
    torch.manual_seed(7)
    q, k, v = torch.randn(6, 4, 32), torch.randn(26, 2, 32), torch.randn(26, 2, 32)
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, softmax_scale=0.2, dtype="fp32", causal=False)
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=8, num_kv_heads=2, head_dim=32, dtype="fp32", layout="NHD")
    k_cache, v_cache = torch.zeros(4, 8, 2, 32), torch.zeros(4, 8, 2, 32)
    table = torch.tensor([[2, 0, 3]], dtype=torch.int32)
    slots = torch.from_numpy(sextant.slot_mapping([0, context], [context], table, 8))
    sextant.reshape_and_cache(k[:context], v[:context], slots, k_cache, v_cache, cache)

    batch = dict(query_start_loc=torch.tensor([0, 6], dtype=torch.int32), seq_lens=torch.tensor([context], dtype=torch.int32), block_table=table)
    made = st.plan("ROCM_AITER_UNIFIED_ATTN", spec, cache, lse_out=True, **batch)
    lse = torch.empty(4, 6)
    out = st.run(made, q, None, None, k_cache, v_cache, lse=lse, out=torch.empty(6, 4, 32), **batch)  # every query sees all of the context
    dense = (x.transpose(0, 1)[None] for x in (q, k[context:], v[context:]))
    tree_out, tree_lse = st.masked_attention(*dense, tree, scale=0.2)
    joined = torch.empty_like(out)
    sextant.merge_attn_states(out, lse, tree_out, tree_lse, joined)

    mask = torch.cat([torch.ones(6, context, dtype=torch.bool), tree], 1)
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * 0.2
    expected = torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, float("-inf")).softmax(-1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(joined, expected, atol=2e-5, rtol=2e-5)


def test_a_mode_sees_the_op_and_a_plain_call_goes_past_the_dispatcher(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    seen, direct, at_once = [], [], st._dense_at_once

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(st, "_dense_at_once", lambda *a: direct.append(1) or at_once(*a))
    q, k, v = (torch.randn(1, heads, 7, 16) for heads in (4, 2, 2))
    plain = st.attention(q, k, v, is_causal=True)
    assert direct == [1]
    with Watch():
        watched = st.attention(q, k, v, is_causal=True)
    assert direct == [1] and any("sextant.dense_attention" in name for name in seen)
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)
    # Rows in order of several entries go at once, [B, H, S, D] in memory does not: the same either way.
    batch = [torch.randn(3, 5, heads, 16).transpose(1, 2) for heads in (4, 2, 2)]
    at_once_too = st.attention(*batch, is_causal=True)
    assert len(direct) == 2
    torch.testing.assert_close(st.attention(*(x.contiguous() for x in batch), is_causal=True), at_once_too)
    assert len(direct) == 2
