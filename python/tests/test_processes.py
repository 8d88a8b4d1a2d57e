"""Threads and processes: what a fork, a pre-forking server and PyTorch's DataLoader do, and who says how many threads there are."""

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import sextant
from test_api import CACHE, MHA, SPEC, Step, reference

FORK = multiprocessing.get_context("fork")


def right(step) -> bool:
    return bool(np.allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5))


def wait_for(process) -> None:
    process.join(60)
    if process.is_alive():
        process.kill()
        pytest.fail("the forked child hangs")
    assert process.exitcode == 0


def many(backend="ROCM_AITER_FA") -> "tuple[Step, sextant.Plan]":
    step = Step()
    sextant.select(SPEC, CACHE)
    return step, step.plan(backend, lse_out=False)


@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("backend", MHA)
def test_a_forked_child_runs(backend, ran_before):
    step, plan = many(backend)
    if ran_before:
        step.run(plan, lse=None)
        step.out[:] = np.nan
    answer = FORK.SimpleQueue()
    process = FORK.Process(target=lambda: (step.run(plan, lse=None), answer.put(right(step))))
    process.start()
    wait_for(process)
    assert answer.get()


def test_a_pre_forking_server():
    """Loaded and planned once, then several workers that plan and run on their own, and a parent that goes on."""
    step, plan = many()
    step.run(plan, lse=None)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            own = Step(seed=3)
            own.run(own.plan("TRITON_ATTN", lse_out=False), lse=None)
            os._exit(0 if right(own) else 1)
        children.append(child)
    step.run(plan, lse=None)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0] and right(step)


def test_a_data_loader():
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    import sextant.torch as st

    def attended(i):
        q = torch.full((1, 4, 40, 32), float(i))
        return st.attention(q, q, q, is_causal=True)[0, 0, 0, 0].item()

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            return attended(i)

    attended(1)
    loader = torch.utils.data.DataLoader(Items(), num_workers=2, multiprocessing_context="fork", timeout=60)
    assert [round(float(x)) for x in loader] == [0, 1, 2, 3, 4, 5]


def test_threads_share_the_pool():
    """Short calls begin and end while another thread's long one runs; all results are right."""
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=4, head_dim=32, softmax_scale=0.2, dtype="fp32")
    n, short, long_call = 12000, [], []
    q = np.random.default_rng(0).standard_normal((n, 4, 32)).astype(np.float32)
    starts = np.array([0, n], np.int32)
    plan = sextant.varlen_plan(spec, query_start_loc=[0, n], key_start_loc=[0, n])
    tensors = dict(q=q, k=q, v=q, query_start_loc=starts, key_start_loc=starts, seq_lens=np.array([n], np.int32))
    out, expected = np.empty_like(q), np.empty_like(q)

    def run_long():
        start = time.perf_counter()
        plan.run(**tensors, out=out)
        long_call.extend((start, time.perf_counter()))

    def run_short():
        step, small = many("TRITON_ATTN")
        while not long_call:
            start = time.perf_counter()
            step.run(small, lse=None)
            short.append((start, time.perf_counter()))
            assert right(step)

    threads = [threading.Thread(target=target) for target in (run_short, run_long, run_short)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    plan.run(**tensors, out=expected)
    assert np.array_equal(out, expected)
    begin, end = long_call  # which Python notices a little late
    assert [1 for first, last in short if first > begin + 0.02 and last < end - 0.05], (long_call, len(short))


def python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_plans_start_no_threads():
    done = python(
        "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "from test_processes import many\n"
        "import sextant\n"
        "sextant.set_num_threads(4)\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = count(); step, plan = many(); assert count() == before, count()\n"
        "step.run(plan, lse=None); print(count() - before)",
        PYTHONPATH=os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) in (0, 3)  # a small call may need one thread only


@pytest.mark.parametrize("text, threads", [("3", 3), ("2,1", 2), ("nonsense", None), ("0", None)])
def test_omp_num_threads(text, threads):
    usable = python("import sextant; print(sextant.get_num_threads())", OMP_NUM_THREADS="")
    done = python("import sextant; print(sextant.get_num_threads(), sextant.devices()[0]['available'])", OMP_NUM_THREADS=text)
    assert done.stdout.split() == [str(threads or int(usable.stdout)), "True"], done.stderr


def test_set_num_threads():
    before = sextant.get_num_threads()
    try:
        step, old = many()
        for threads in (1, 5):
            sextant.set_num_threads(threads)
            assert sextant.get_num_threads() == threads
            for plan in (old, many()[1]):  # plans that were made before keep their threads
                step.out[:] = np.nan
                step.run(plan, lse=None)
                assert right(step)
        for wrong in (0, -1, 5000, 1.5, "2", True, None):
            with pytest.raises(sextant.SextantInvalidArgument, match=r"num_threads is .*; allowed: 1\.\.4096"):
                sextant.set_num_threads(wrong)
    finally:
        sextant.set_num_threads(before)


def test_plans_are_copied_as_themselves():
    step, plan = many()
    assert copy.copy(plan) is plan and copy.deepcopy({"plan": plan})["plan"] is plan
    text = repr(plan)
    assert text.startswith("Plan(ROCM_AITER_FA on cpu, 1 requests, layout NHD, workspace") and plan.steps[0] in text
    with pytest.raises(sextant.SextantUnsupported, match="cannot be pickled"):
        pickle.dumps(plan)
    varlen = sextant.varlen_plan(SPEC, query_start_loc=[0, 3], key_start_loc=[0, 5])
    assert copy.copy(varlen) is varlen and repr(varlen).startswith("VarlenPlan(on cpu")


def test_torch_plans_live_as_long_as_the_caller_keeps_them():
    pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    import sextant.torch as st

    plan = st.plan("TRITON_ATTN", SPEC, CACHE, query_start_loc=[0, 1], seq_lens=[1], max_blocks_per_request=2)
    handle, seen = plan._handle, weakref.ref(plan)
    assert st._kept(handle) is plan
    del plan
    gc.collect()
    assert seen() is None and handle not in st._plans
    with pytest.raises(sextant.SextantInvalidArgument, match="that the caller keeps"):
        st._kept(handle)


@pytest.mark.parametrize("arguments", [["report", "--help"], ["--version"]])
def test_python_dash_m(arguments):
    done = subprocess.run([sys.executable, "-m", "sextant", *arguments], capture_output=True, text=True, timeout=60)
    if "the tool is missing" in done.stderr:
        pytest.skip("needs an installed package: pip install .")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_the_help_names_the_report(arguments, tmp_path, monkeypatch, capfd):
    """The C++ tool prints its help, then comes what the package adds."""
    import sextant._cli as cli

    tool = tmp_path / "sextant"
    tool.write_text("#!/bin/sh\necho verbs\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setattr(cli, "_tool", lambda: tool)
    monkeypatch.setattr(sys, "argv", ["sextant", *arguments])
    assert cli.main() == 3
    assert capfd.readouterr().out.startswith("verbs\n\nAlso in the Python package:\n  report ")


def test_an_editable_install_finds_what_was_built(tmp_path, monkeypatch):
    """`pip install -e .` keeps the Python files in the repository and the built ones in site-packages."""
    import sextant._library as loading

    built = tmp_path / "sextant" / "_sextant.so"
    built.parent.mkdir()
    built.touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert built in loading.installed("_sextant.so")
