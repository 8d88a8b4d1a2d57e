"""Tensors on NVIDIA GPUs: every public call, streams, graphs, compilation, fp8 caches, and what must be refused."""

import os

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from cuda_steps import FP8, MHA, MLA, SPEC, MlaStep, Step, close, dense_inputs, sdpa  # noqa: E402

import sextant  # noqa: E402
import sextant.torch as st  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not any(d["kind"] == "cuda" and d["available"] for d in sextant.devices()),
    reason="needs an NVIDIA GPU and a package with the CUDA device: pip install . -C cmake.define.SEXTANT_CUDA=ON",
)
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")


@pytest.mark.parametrize("family", ["portable", "tuned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_agrees_with_sdpa(dtype, family):
    q, k, v = dense_inputs(dtype)
    got = st.attention(q, k, v, is_causal=True, family=family)
    assert got.dtype == dtype and got.device == q.device
    close(got, sdpa(q, k, v, is_causal=True), 2e-4 if dtype == torch.float32 else 2e-2)


def test_inputs_that_are_views():
    """As a model has them: slices of one projection, transposed."""
    qkv = torch.randn(2, 33, 12, 64, dtype=torch.bfloat16, device="cuda")
    q, k, v = (x.transpose(1, 2) for x in qkv.split([8, 2, 2], dim=2))
    close(st.attention(q, k, v, is_causal=True), sdpa(q, k, v, is_causal=True))


def test_ops_pass_opcheck():
    q, k, v = (x.transpose(1, 2).reshape(-1, x.shape[1], 64) for x in dense_inputs())
    torch.library.opcheck(torch.ops.sextant.varlen_attention.default, (q, k, v, [33, 33], [33, 33], 0.125), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("backend", MHA)
def test_mixed_batch(backend):
    step = Step(backend)
    lse = torch.full((8, 19), float("nan"), device="cuda")
    close(step.run(step.plan(lse_out=True), lse=lse), step.expected())
    assert lse.isfinite().all()


@pytest.mark.parametrize("cache_dtype", FP8)
@pytest.mark.parametrize("backend", MHA)
def test_fp8_cache(backend, cache_dtype):
    """torch's fp8 caches with scales on the GPU; bytes that the spec names are the same."""
    scale = torch.tensor([0.25], device="cuda")
    step = Step(backend, cache_dtype, k_scale=scale, v_scale=scale)
    out = step.run(step.plan())
    close(out, step.expected(), 0.15 if cache_dtype == "fp8_e4m3fn" else 0.3)
    other = Step(backend, cache_dtype, k_scale=scale, v_scale=scale)
    torch.testing.assert_close(other.run(other.plan(), k_cache=other.k_cache.view(torch.uint8), v_cache=other.v_cache.view(torch.uint8)), out)


@pytest.mark.parametrize("backend", MLA)
def test_mla(backend):
    step = MlaStep(backend)
    compiled = lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")  # noqa: E731
    close(torch.cat([step.run(0, 40), step.run(40, 41, compiled)]), step.expected(), 4e-2)


@pytest.mark.parametrize("backend", MLA)
def test_mla_with_an_fp8_cache(backend):
    step = MlaStep(backend, "fp8_e4m3fn", torch.tensor([0.25], device="cuda"))
    close(torch.cat([step.run(0, 40), step.run(40, 41)]), step.expected(), 0.2)


def test_single_ops_take_their_device_from_the_tensors():
    step = Step("TRITON_ATTN")
    q, k, v = step.q[1:], step.k[1:], step.v[1:]
    (first, first_lse), (second, second_lse) = (st.varlen_attention(q, k[part], v[part], [18], [9], 0.125, causal=False) for part in (slice(9), slice(9, 18)))
    out, lse = torch.empty_like(q), torch.empty_like(first_lse)
    sextant.merge_attn_states(first, first_lse, second, second_lse, out, lse)
    close(out, sdpa(*(x.transpose(0, 1)[None] for x in (q, k, v)))[0].transpose(0, 1))


def late(stream, tensor):
    """On `stream`, after work that takes a while: the tensor's values. Who does not wait for the stream reads NaN."""
    with torch.cuda.stream(stream):
        result = torch.full_like(tensor, float("nan"))
        torch.cuda._sleep(50_000_000)
        result.copy_(tensor)
    return result


def test_dense_attention_on_the_current_stream():
    q, k, v = dense_inputs()
    expected = sdpa(q, k, v)
    st.attention(q, k, v)  # plans and loads, which may synchronise
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    slow = late(side, q)
    with torch.cuda.stream(side):
        out = st.attention(slow, k, v)
    side.synchronize()
    close(out, expected)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("backend", MHA)
def test_paged_run_on_another_stream(backend, named):
    """The current stream, or the one that `stream=` names. Neither the workspace nor the result is touched from elsewhere."""
    step = Step(backend)
    made = step.plan(sextant.plan)
    out = torch.empty_like(step.q)
    tensors = dict(q=step.q, k=step.k, v=step.v, out=out, k_cache=step.k_cache, v_cache=step.v_cache, **step.batch)
    made.run(**tensors)
    out.fill_(float("nan"))
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    tensors["q"] = late(side, step.q)
    if named:
        made.run(**tensors, stream=side.cuda_stream)
        for _ in range(8):  # memory that the workspace would lie in, were it free already
            torch.full((made.workspace_bytes // 4 + 64,), float("nan"), device="cuda")
    else:
        with torch.cuda.stream(side):
            made.run(**tensors)
    side.synchronize()
    close(out, step.expected())


def test_cuda_graph_of_dense_attention():
    q, k, v = dense_inputs()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        st.attention(q, k, v, is_causal=True)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = st.attention(q, k, v, is_causal=True)
    for _ in range(2):
        for x in (q, k, v):
            x.normal_()
        graph.replay()
        close(out, sdpa(q, k, v, is_causal=True))
    with pytest.raises(sextant.SextantUnsupported, match="capture"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            st.attention(q[:, :, :5], k, v)


@pytest.mark.parametrize("backend", MHA)
def test_cuda_graph_of_decode_steps(backend):
    """The replay reads the lengths and slots of the moment."""
    step = Step(backend)
    q, k, v = step.q[:1].clone(), step.k[:1].clone(), step.v[:1].clone()
    made = st.plan(backend, SPEC, step.cache, query_start_loc=[0, 1], seq_lens=[1], max_blocks_per_request=2, max_query_len=1, max_seq_len=32, device="cuda")
    ints = {"dtype": torch.int32, "device": "cuda"}
    batch = dict(query_start_loc=torch.tensor([0, 1], **ints), seq_lens=torch.tensor([1], **ints), block_table=torch.tensor([[3, 1]], **ints),
                 slot_mapping=torch.tensor([48], device="cuda"))  # fmt: skip
    st.run(made, q, k, v, step.k_cache, step.v_cache, **batch)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = st.run(made, q, k, v, step.k_cache, step.v_cache, **batch)
    keys, values = [], []
    for token in range(20):
        for x in (q, k, v):
            x.normal_()
        batch["seq_lens"].fill_(token + 1)
        batch["slot_mapping"].copy_(step.slots(0, [token]))
        graph.replay()
        keys.append(k.clone()), values.append(v.clone())
        close(out, sdpa(q.transpose(0, 1)[None], torch.cat(keys).transpose(0, 1)[None], torch.cat(values).transpose(0, 1)[None])[0].transpose(0, 1))
    st.release(made)


@pytest.mark.parametrize("backend", MLA)
def test_cuda_graph_of_mla_decode(backend):
    step = MlaStep(backend)
    step.run(0, 40)
    step.run(40, 41)
    made = st.plan(backend, step.spec, step.cache, query_start_loc=[0, 1], seq_lens=[41], block_table=[[2]], device="cuda")
    ints = {"dtype": torch.int32, "device": "cuda"}
    batch = dict(query_start_loc=torch.tensor([0, 1], **ints), seq_lens=torch.tensor([41], **ints), block_table=torch.tensor([[2]], **ints),
                 slot_mapping=step.slots[40:])  # fmt: skip
    new = [x[40:].clone() for x in (step.q, step.kv_c, step.k_pe)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = st.run_mla(made, new[0], new[1], new[2], step.weight, step.kv_cache, **batch)
    out.zero_()
    graph.replay()
    close(out, step.expected()[40:], 4e-2)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_attention(mode):
    q, k, v = dense_inputs()
    compiled = torch.compile(lambda q, k, v: st.attention(q * 2, k, v, is_causal=True) + 1, fullgraph=True, mode=mode)
    for _ in range(4):
        q.normal_()
        torch.testing.assert_close(compiled(q, k, v).clone(), st.attention(q * 2, k, v, is_causal=True) + 1)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_paged_run(mode):
    """The caches are written in place, also where Inductor replays a graph of its own."""
    step = Step("ROCM_AITER_UNIFIED_ATTN")
    made = step.plan()
    compiled = torch.compile(lambda q, k, v: step.run(made, q=q * 1, k=k, v=v) + 0, fullgraph=True, mode=mode)
    for _ in range(4):
        for x in (step.q, step.k, step.v):
            x.normal_()
        close(compiled(step.q, step.k, step.v), step.expected())
    st.release(made)


class TestRefused:
    """A clear error, nothing written, and the GPU still works afterwards."""

    @pytest.mark.parametrize("name", ["q", "k", "v", "out", "k_cache", "v_cache", "query_start_loc", "seq_lens", "block_table", "slot_mapping"])
    def test_one_tensor_on_the_cpu(self, name):
        step = Step("ROCM_AITER_FA")
        made = step.plan(sextant.plan)
        tensors = dict(q=step.q, k=step.k, v=step.v, out=torch.full_like(step.q, 7.0), k_cache=step.k_cache, v_cache=step.v_cache, **step.batch)
        with pytest.raises(sextant.SextantInvalidArgument, match=f"{name} is on cpu; allowed: a tensor on cuda:0"):
            made.run(**{**tensors, name: tensors[name].cpu()})
        assert (tensors["out"] == 7).all()
        made.run(**tensors)
        close(tensors["out"], step.expected())

    def test_gpu_tensors_with_a_cpu_plan(self):
        step = Step("ROCM_AITER_FA")
        step.device = "cpu"
        with pytest.raises(sextant.SextantInvalidArgument, match="is on cuda:0; allowed: a tensor on cpu"):
            step.run(step.plan())

    def test_mixed_devices_of_dense_attention(self):
        q, k, v = dense_inputs()
        with pytest.raises((sextant.SextantInvalidArgument, RuntimeError), match="device|cpu"):
            st.attention(q, k.cpu(), v)
        with pytest.raises((sextant.SextantInvalidArgument, RuntimeError), match="device|cpu"):
            sextant.merge_attn_states(q[0], q[0], q[0].cpu(), q[0], q[0])

    def test_freed_memory(self):
        step = Step("ROCM_AITER_FA")
        made = step.plan()
        freed = step.q.clone()
        freed.untyped_storage().resize_(0)
        with pytest.raises((sextant.SextantError, RuntimeError, ValueError)):
            step.run(made, q=freed)
        close(step.run(made), step.expected())

    def test_no_such_gpu(self):
        with pytest.raises(sextant.SextantInvalidArgument, match="device index is 99; cuda allows 0"):
            Step("TRITON_ATTN").plan(make=lambda *a, **k: sextant.plan(*a, **{**k, "device": "cuda:99"}))

    @pytest.mark.parametrize("changes, message", [({"q": torch.float16}, "q has dtype fp16; allowed: bf16"), ({"k_cache": torch.float16}, "k_cache has dtype"),
                                                  ({"seq_lens": torch.int64}, "seq_lens has dtype"), ({"slot_mapping": torch.int32}, "slot_mapping has dtype")])  # fmt: skip
    def test_dtypes(self, changes, message):
        step = Step("ROCM_AITER_FA")
        made = step.plan()
        name, dtype = next(iter(changes.items()))
        value = getattr(step, name, None)
        with pytest.raises(sextant.SextantInvalidArgument, match=message):
            step.run(made, **{name: (step.batch[name] if value is None else value).to(dtype)})


@needs_two_gpus
class TestTwoGpus:
    def test_the_other_gpu(self):
        """A plan of cuda:1 runs while cuda:0 is current, and leaves it current."""
        torch.cuda.set_device(0)
        step = Step("ROCM_AITER_UNIFIED_ATTN", device="cuda:1")
        out = step.run(step.plan())
        assert out.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
        torch.cuda.synchronize(1)
        close(out, step.expected())
        q, k, v = dense_inputs(device="cuda:1")
        close(st.attention(q, k, v), sdpa(q, k, v))
        assert torch.cuda.current_device() == 0

    def test_tensors_of_the_other_gpu(self):
        """Memory of another GPU may even be readable; it is refused all the same."""
        step = Step("ROCM_AITER_FA")
        with pytest.raises(sextant.SextantInvalidArgument, match="q is on cuda:1; allowed: a tensor on cuda:0"):
            step.run(step.plan(), q=step.q.to("cuda:1"), out=torch.empty_like(step.q))


def test_cupy():
    """CuPy's arrays, on its current stream and in its graph capture."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy: pip install cupy-cuda13x")
    step = Step("ROCM_AITER_FA")
    spec, cache = (type(x)(**{**x.__dict__, "dtype": "fp16"}) for x in (SPEC, step.cache))
    made = sextant.plan(step.backend, spec, cache, query_start_loc=[0, 18], seq_lens=[18], block_table=cupy.asarray([[6, 4]]), device="cuda")
    q, k, v = (cupy.asarray(x[1:].float()).astype(cupy.float16) for x in (step.q, step.k, step.v))
    k_cache, v_cache = (cupy.zeros(shape, cupy.float16) for shape in sextant.cache_shape(cache, step.backend, "cuda")[:2])
    out = cupy.full_like(q, cupy.nan)
    batch = dict(query_start_loc=cupy.asarray([0, 18], cupy.int32), seq_lens=cupy.asarray([18], cupy.int32), block_table=cupy.asarray([[6, 4]], cupy.int32),
                 slot_mapping=cupy.asarray(step.slots(1, range(18))))  # fmt: skip
    workspace = cupy.empty(max(1, made.workspace_bytes), cupy.uint8)
    arguments = dict(q=q, k=k, v=v, out=out, k_cache=k_cache, v_cache=v_cache, **batch)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        made.run(**arguments)
    stream.synchronize()
    close(torch.as_tensor(out, device="cuda"), step.expected()[1:])
    with stream:
        out.fill(cupy.nan)
        stream.begin_capture()
        made.run(**arguments, workspace=workspace)
        graph = stream.end_capture()
        graph.launch(stream)
    stream.synchronize()
    close(torch.as_tensor(out, device="cuda"), step.expected()[1:])


def test_jax():
    """JAX's arrays: what is read is waited for, and may go as soon as the call returns."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU's memory is PyTorch's too
    jax = pytest.importorskip("jax", reason="needs JAX: pip install jax[cuda13]")
    if jax.default_backend() != "gpu":
        pytest.skip("needs JAX for GPUs: pip install jax[cuda13]")
    step = Step("ROCM_AITER_FA")
    made = sextant.plan(step.backend, SPEC, step.cache, query_start_loc=[0, 18], seq_lens=[18], block_table=[[6, 4]], device="cuda")
    batch = dict(query_start_loc=torch.tensor([0, 18], dtype=torch.int32, device="cuda"), seq_lens=torch.tensor([18], dtype=torch.int32, device="cuda"),
                 block_table=step.batch["block_table"][1:], slot_mapping=step.slots(1, range(18)))  # fmt: skip
    slow = jax.jit(lambda x, y: x + 0 * jax.lax.fori_loop(0, 50, lambda i, y: jax.numpy.tanh(y @ y), y)[0, 0].astype(x.dtype))
    noise = jax.random.normal(jax.random.key(0), (2048, 2048))
    out = torch.full_like(step.q[1:], float("nan"))
    torch.cuda.synchronize()
    q, k, v = (slow(jax.numpy.from_dlpack(x[1:].clone()), noise) for x in (step.q, step.k, step.v))
    made.run(q=q, k=k, v=v, out=out, k_cache=step.k_cache, v_cache=step.v_cache, **batch)
    del q, k, v
    jax.block_until_ready(jax.numpy.full((64, 1024, 1024), jax.numpy.nan))
    close(out, step.expected()[1:])
