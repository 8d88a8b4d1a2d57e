"""bench/flashinfer_bench: definitions and solutions are valid, and each solution agrees with its definition's reference."""

import importlib.util
import json
import sys

import pytest
from models import ROOT

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
import sextant  # noqa: E402, F401

SPEC = importlib.util.spec_from_file_location("trace_set", ROOT / "bench" / "flashinfer_bench" / "trace_set.py")
trace_set = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(trace_set)
DEFINITIONS = {d["name"]: d for d in trace_set.definitions()}
# Short requests with an empty one, a full last page and a page of one token; new tokens where the op has prompts.
SEQ_LENS = [5, 64, 0, 65, 130]
QUERY_LENS = [5, 1, 0, 30, 64]


def tensors(of: dict, dtype=None) -> dict:
    """Inputs as the definition wants them, of `dtype` where it says bfloat16."""
    decode = "qo_indptr" not in of["inputs"]
    axes, integers = trace_set.integers(of, [1] * len(SEQ_LENS) if decode else QUERY_LENS, SEQ_LENS, seed=3)
    axes |= {name: axis["value"] for name, axis in of["axes"].items() if axis["type"] == "const"}
    axes.setdefault("batch_size", len(SEQ_LENS))  # of decode with pages of one token: the rows of q
    made = {}
    for name, tensor in of["inputs"].items():
        if name in integers:
            made[name] = integers[name]
        elif tensor["shape"] is None:
            made[name] = trace_set.scale(of)
        else:
            shape = [axes[axis] for axis in tensor["shape"]]
            made[name] = (torch.randn(shape, generator=torch.Generator().manual_seed(len(made))) * 0.5).to(dtype or torch.bfloat16)
    return made


def outputs(of: dict, inputs: dict) -> list:
    rows = next(iter(inputs.values()))
    return [torch.full(rows.shape if name == "output" else rows.shape[:2], torch.nan, dtype=rows.dtype if name == "output" else torch.float32) for name in of["outputs"]]


def reference(of: dict):
    scope = {}
    exec(compile(of["reference"], of["name"], "exec"), scope)
    return scope["run"]


def solution(of: dict, folder):
    """Its `run`, imported as the harness does: from a package of its sources."""
    package = f"solution_{of['name']}"
    (folder / package).mkdir()
    for source in trace_set.solution(of)["sources"]:
        (folder / package / source["path"]).write_text(source["content"])
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{package}.main").run
    finally:
        sys.path.remove(str(folder))


def expect_close(of: dict, ours: list, expected: tuple, tolerance: float) -> None:
    for name, found, wanted in zip(of["outputs"], ours, expected):
        torch.testing.assert_close(found.float(), wanted.float(), atol=tolerance, rtol=tolerance, msg=lambda text: f"{of['name']} {name}: {text}")


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_solution_agrees_with_its_reference(name, dtype, tolerance, tmp_path):
    of = DEFINITIONS[name]
    inputs = tensors(of, dtype)
    ours = outputs(of, inputs)
    solution(of, tmp_path)(*inputs.values(), *ours)
    expect_close(of, ours, reference(of)(*inputs.values()), tolerance)


def test_latents_that_lie_together_are_not_copied(tmp_path):
    of = DEFINITIONS["mla_paged_decode_h16_ckv512_kpe64_ps64"]
    solution(of, tmp_path)
    latent_rows = sys.modules[f"solution_{of['name']}.mla_paged"].latent_rows
    rows = torch.randn(3, 64, 576)
    assert latent_rows(rows[..., :512], rows[..., 512:]).data_ptr() == rows.data_ptr()
    apart = latent_rows(rows[..., :512].contiguous(), rows[..., 512:].contiguous())
    assert torch.equal(apart, rows) and apart.data_ptr() != rows.data_ptr()


def test_the_package_takes_the_trace_set(tmp_path):
    bench = pytest.importorskip("flashinfer_bench", reason="needs flashinfer-bench: pip install --no-deps flashinfer-bench docstring-parser")
    pytest.importorskip("safetensors", reason="needs safetensors: pip install safetensors")
    trace_set.write(tmp_path)
    loaded = bench.TraceSet.from_path(str(tmp_path))
    assert set(loaded.definitions) == set(DEFINITIONS) == set(loaded.workloads)
    for name, definition in loaded.definitions.items():
        (ours,) = loaded.solutions[name]
        assert ours.author == "sextant" and ours.spec.destination_passing_style
        for trace in loaded.workloads[name]:
            assert set(trace.workload.axes) == set(definition.var_axes), name
            assert set(trace.workload.inputs) == set(definition.inputs), name


@pytest.mark.parametrize("name", ["gqa_paged_prefill_causal_h32_kv8_d128_ps64", "mla_paged_decode_h16_ckv512_kpe64_ps1"])
def test_the_package_builds_solution_and_reference(name, tmp_path, monkeypatch):
    pytest.importorskip("flashinfer_bench", reason="needs flashinfer-bench: pip install --no-deps flashinfer-bench docstring-parser")
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path))
    from flashinfer_bench import Definition, Solution
    from flashinfer_bench.compile import BuilderRegistry

    of = DEFINITIONS[name]
    definition, ours = Definition(**of), Solution(**json.loads(json.dumps(trace_set.solution(of))))
    registry = BuilderRegistry.get_instance()
    inputs = tensors(of)
    found = outputs(of, inputs)
    registry.build(definition, ours)(*inputs.values(), *found)
    expect_close(of, found, registry.build_reference(definition)(*inputs.values()), 2e-2)
