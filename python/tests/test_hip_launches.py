"""What a step of several layers launches on a GPU of AMD, with a stand-in for the HIP runtime that notes each call: work is divided once a step, and
nothing waits for the GPU or copies from it."""

import ctypes
import json
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

import sextant
from sextant import _dlpack, api
from sextant._layer_turns import LayerTurns, Memory

torch = pytest.importorskip("torch")
import sextant.torch  # noqa: E402

STAND_IN = pathlib.Path(__file__).parents[2] / "tests/hip/stand_in/gpu.cpp"
LAYERS, BLOCKS, HEADS, KV_HEADS, DIM = 3, 32, 8, 2, 128
DECODE = ["sextant_cache_write", "sextant_plan_work", "decode_bf16_128_kv16_dims", "sextant_reduce_partials"]
NEXT = [name for name in DECODE if name != "sextant_plan_work"]


class OnGpu:
    """A CPU tensor that says it lies on the stand-in's GPU, whose memory is the host's."""

    def __init__(self, tensor):
        self.tensor = tensor

    def detach(self):  # PyTorch's: its streams are known, so nothing need wait
        return self

    def __dlpack_device__(self):
        return 10, 0

    def __dlpack__(self, **_):
        capsule = self.tensor.__dlpack__()
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        # DLManagedTensor begins with DLTensor: data, then the device's type and index.
        ctypes.cast(get(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int32))[0] = 10
        return capsule


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    built = json.loads(api.library["devices"]())
    if not next(device for device in built if device["kind"] == "hip")["built"]:
        pytest.skip("no kernels for AMD GPUs in this build: pip install . -C cmake.define.SEXTANT_HIP=ON, with clang-19 and lld-19")
    if next(device for device in built if device["kind"] == "hip")["available"]:
        pytest.skip("a real HIP runtime is loaded")
    compiler = shutil.which("c++") or shutil.which("clang++-19")
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("rocm") / "libamdhip64-stand-in.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-std=c++17", str(STAND_IN), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.stand_in_calls.restype = ctypes.c_char_p
    return library


@pytest.fixture
def calls(runtime, monkeypatch):
    """Asks what was called since the last time; CPU tensors of torch count as the GPU's."""
    monkeypatch.setitem(_dlpack._WAYS, torch.Tensor, lambda name, value: OnGpu(value))

    def since():
        return runtime.stand_in_calls().decode().split()

    since()
    return since


SPEC = sextant.AttentionSpec(num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, softmax_scale=0.1)


def decode_step(tokens=2, keys=300):
    """A batch of decodes on the host, and a layer's tensors."""
    columns = -(-keys // 16)
    lens = [keys] * tokens
    table = torch.arange(tokens * columns, dtype=torch.int32).reshape(tokens, columns) % BLOCKS
    batch = dict(query_start_loc=list(range(tokens + 1)), seq_lens=lens, max_blocks_per_request=columns)
    tensors = dict(
        query_start_loc=torch.arange(tokens + 1, dtype=torch.int32), seq_lens=torch.tensor(lens, dtype=torch.int32), block_table=table,
        slot_mapping=torch.arange(tokens, dtype=torch.int64),
    )  # fmt: skip
    q = torch.zeros(tokens, HEADS, DIM, dtype=torch.bfloat16)
    k = torch.zeros(tokens, KV_HEADS, DIM, dtype=torch.bfloat16)
    return batch, tensors, q, k


def paged_memory():
    return torch.zeros(BLOCKS, 16, KV_HEADS, DIM, dtype=torch.bfloat16)


def test_the_custom_op_divides_work_once_a_step(calls):
    batch, tensors, q, k = decode_step()
    cache = sextant.KvCacheSpec(BLOCKS, 16, KV_HEADS, DIM, layout="NHD")
    plan = sextant.torch.plan("ROCM_AITER_FA", SPEC, cache, device="hip:0", **batch)
    workspace = _dlpack.workspace_beside(q, plan.workspace_bytes, 0)
    calls()
    for layer in range(LAYERS):
        sextant.torch.run(plan, q, k, k, paged_memory(), paged_memory(), workspace=workspace, next_layer=layer > 0, **tensors)
    assert calls() == DECODE + NEXT * (LAYERS - 1)
    with pytest.raises(sextant.SextantInvalidArgument, match="workspace is None with next_layer; allowed: the workspace of the run before"):
        sextant.torch.run(plan, q, k, k, paged_memory(), paged_memory(), next_layer=True, **tensors)
    assert calls() == []


def test_layers_that_take_turns(calls):
    batch, tensors, q, k = decode_step()
    cache = sextant.KvCacheSpec(BLOCKS, 16, KV_HEADS, DIM, layout="NHD")
    plans = [api.plan("ROCM_AITER_FA", SPEC, cache, device="hip:0", **batch) for _ in range(2)]
    memory = Memory(_dlpack.workspace_beside(q, plans[0].workspace_bytes, 0))
    one, other = (LayerTurns(plan, memory) for plan in plans)

    def run(turns, layer, **changes):
        given = {**dict(q=q, k=k, v=k, out=q.clone(), k_cache=paged_memory(), v_cache=paged_memory()), **tensors, **changes}
        turns.run(layer, **given)
        return "sextant_plan_work" in calls()

    calls()
    assert [run(one, 0), run(one, 1), run(one, 2)] == [True, False, False]
    assert [run(one, 0), run(one, 1)] == [True, False]  # the first layer comes again: a new step
    assert [run(other, 0), run(one, 2), run(one, 3)] == [True, True, False]  # the other's run took the memory over
    assert [run(one, 4, k=None, v=None, slot_mapping=None), run(one, 5)] == [True, True]  # other tensors are there
    with pytest.raises(sextant.SextantInvalidArgument):
        run(one, 6, q=q[:, :, :8])
    assert [run(one, 7), run(one, 8)] == [True, False]  # what failed left nothing behind
    one.begin()
    assert run(one, 9)


# --- vLLM, with stand-ins for its classes ---


@pytest.fixture
def vllm(monkeypatch):
    """sextant's module for vLLM's MHA layers, on the stand-in's GPU."""

    class Plain:
        def __init__(self, *given, **named):
            pass

    class Builder:
        def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
            self.vllm_config = vllm_config

    kinds = types.SimpleNamespace(DECODER="decoder", UNIFORM_BATCH=1)
    platform = types.SimpleNamespace(is_cpu=lambda: False, is_rocm=lambda: True, is_fp8_fnuz=lambda: True)
    modules = {
        "vllm": {"envs": types.SimpleNamespace()},
        "vllm.platforms": {"current_platform": platform},
        "vllm.v1": {}, "vllm.v1.attention": {},
        "vllm.v1.attention.backend": dict(
            AttentionBackend=Plain, AttentionCGSupport=kinds, AttentionImpl=Plain, AttentionMetadataBuilder=Builder, AttentionType=kinds
        ),
        "vllm.v1.kv_cache_interface": {},
    }  # fmt: skip
    for name, members in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "sextant._vllm_attention", raising=False)
    from sextant import _vllm_attention, _vllm_step

    monkeypatch.setattr(_vllm_step, "device_name", lambda device: "hip:0")
    monkeypatch.setattr(_vllm_attention, "host_batch", lambda common, requests: (common.starts, common.lens))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    yield _vllm_attention
    sys.modules.pop("sextant._vllm_attention", None)


def common_metadata(keys):
    batch, tensors, _, _ = decode_step(keys=keys)
    return types.SimpleNamespace(
        num_reqs=2, num_actual_tokens=2, causal=True, query_start_loc=tensors["query_start_loc"], seq_lens=tensors["seq_lens"],
        block_table_tensor=tensors["block_table"], slot_mapping=tensors["slot_mapping"],
        starts=np.array(batch["query_start_loc"], np.int32), lens=np.array(batch["seq_lens"], np.int32),
    )  # fmt: skip


def vllm_layers(module, windows):
    make = module.make_class("ROCM_AITER_FA", "SextantRocmAiterFa").get_impl_cls()
    return [make(HEADS, DIM, 0.1, KV_HEADS, None, window, "auto") for window in windows]


def vllm_step(layers, metadata):
    _, _, q, k = decode_step()
    for layer in layers:
        cache = torch.zeros(BLOCKS, 2, 16, KV_HEADS, DIM, dtype=torch.bfloat16)
        layer.forward(types.SimpleNamespace(), q.flatten(1), k.flatten(1), k.flatten(1), cache, metadata,
                      torch.empty_like(q).flatten(1))  # fmt: skip


def test_a_step_of_vllm_divides_work_once(calls, vllm):
    builder = vllm.Builder(None, [], types.SimpleNamespace(), "hip:0")
    layers = vllm_layers(vllm, [None] * LAYERS)
    for keys in (300, 301):
        vllm_step(layers, builder.build(0, common_metadata(keys)))
        assert calls() == DECODE + NEXT * (LAYERS - 1)
    metadata = builder.build(0, common_metadata(302))
    for _ in range(2):  # a warm-up and what is captured then have the same metadata
        vllm_step(layers, metadata)
        assert calls() == DECODE + NEXT * (LAYERS - 1)


def test_kinds_of_vllm_layers_in_turn_divide_work_once_each(calls, vllm):
    builder = vllm.Builder(None, [], types.SimpleNamespace(), "hip:0")
    vllm_step(vllm_layers(vllm, [None, 64, None, 64]), builder.build(0, common_metadata(300)))
    assert calls().count("sextant_plan_work") == 2
