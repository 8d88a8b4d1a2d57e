#!/usr/bin/env python3
"""Sextant and its peers on the same tensors: one table, one JSON. See README.md beside this file."""

import argparse
import json
import sys
import time

import torch
from adapters import all_peers
from cases import GROUPS
from sextant_c import Sextant
from tensors import Tensors
from timing import Timer, ceilings

MAX_ERROR = 2e-2


def sextant_variants(sextant, t, backends):
    kind = t.case.kind
    if kind == "paged":
        for backend in backends:
            yield f"sextant {backend}", lambda b=backend: sextant.paged(t, b)[:2]
    elif kind == "mla_decode":
        yield "sextant mla_decode", lambda: sextant.mla_decode(t)
    else:
        yield "sextant varlen", lambda: sextant.varlen(t)


def measure(name, make, t, timer):
    """One row of the table; errors become its note."""
    row = {"name": name, "case": t.case.name}
    try:
        made = make()
        if made is None:
            return None
        launch, out = made
        launch()
        torch.cuda.synchronize()
        row["error"], row["rms_error"] = t.errors(out() if callable(out) else out)
        if not row["error"] < MAX_ERROR:
            row["note"] = "wrong: not timed"
            return row
        row.update(timer.measure(launch))
        row["tflops"] = t.case.flops / row["us"] / 1e6
        row["tbs"] = t.case.kv_bytes / row["us"] / 1e6
    except Exception as error:  # noqa: BLE001  (a peer's failure must not end the comparison)
        row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
    return row


def print_case(case, rows):
    print(f"\n{case.name}")
    for row in sorted(rows, key=lambda r: r.get("us", float("inf"))):
        if "us" in row:
            print(f"  {row['name']:36} {row['us']:9.1f} us  {row['tflops']:7.1f} TFLOP/s  {row['tbs']:5.2f} TB/s  err {row['error']:.1e} rms {row['rms_error']:.2e}{'  graph' if row['graph'] else ''}")
        else:
            print(f"  {row['name']:36} {row.get('note', '')}")


def run_random(arguments) -> int:
    from grid import draw_cases, KINDS
    from grid_peers import SextantGrid, SglFlashMla, VllmFlashAttention3
    from grid_run import print_summary, run_grid

    contestants, timer = [SextantGrid(Sextant(arguments.library))], Timer(arguments.repeats)
    for peer in (lambda: VllmFlashAttention3(arguments.fa3), SglFlashMla):
        if arguments.only == "none":
            break
        try:
            contestants.append(peer())
        except Exception as error:  # noqa: BLE001
            print(f"not here: {type(error).__name__}: {str(error)[:150]}")
    report = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "ceilings": ceilings(), "seed": arguments.seed}
    print(report["device"], report["ceilings"])
    cases = draw_cases(arguments.random, arguments.seed, kinds=arguments.kinds.split(",") if arguments.kinds else KINDS)
    report["results"] = run_grid(contestants, cases, timer, arguments.budget, arguments.first)
    print_summary(report["results"])
    with open(arguments.output, "w") as file:
        json.dump(report, file, indent=1)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True, help="path of libsextant.so")
    parser.add_argument("--groups", default="decode,mla_decode,prefill,mla_prefill", help=f"of {','.join(GROUPS)}")
    parser.add_argument("--backends", default="ROCM_AITER_UNIFIED_ATTN", help="MHA backends of Sextant, comma-separated")
    parser.add_argument("--vllm", default="", help="folder of an unpacked vLLM wheel")
    parser.add_argument("--only", default="", help="only peers whose name contains this; 'none' for no peers")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--random", type=int, default=0, help="draw so many cases instead of the groups; peers: --fa3 and flash_mla")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="of the drawn cases, comma-separated; all without")
    parser.add_argument("--first", type=int, default=0, help="leave out so many of the drawn cases")
    parser.add_argument("--fa3", default="", help="path of vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so of a vLLM wheel")
    parser.add_argument("--budget", type=float, default=1e9, help="stop starting new cases after this many seconds")
    parser.add_argument("--output", default="peers.json")
    arguments = parser.parse_args()
    if arguments.random:
        return run_random(arguments)

    peers, missing = [], {}
    for peer in all_peers(arguments.vllm):
        if arguments.only and arguments.only.lower() not in peer.name.lower():
            continue
        try:
            peer.load()
            peers.append(peer)
        except Exception as error:  # noqa: BLE001
            missing[peer.name] = f"needs {peer.needs} ({type(error).__name__}: {error})"
    sextant, timer, start = Sextant(arguments.library), Timer(arguments.repeats), time.monotonic()
    report = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "ceilings": ceilings(), "missing": missing, "results": []}
    print(report["device"], report["ceilings"])
    for name, reason in missing.items():
        print(f"not here: {name}: {reason[:150]}")

    for group in arguments.groups.split(","):
        for case in GROUPS[group]:
            if time.monotonic() - start > arguments.budget:
                print(f"\nout of time before {case.name}")
                break
            t = Tensors(case)
            rows = [measure(name, make, t, timer) for name, make in sextant_variants(sextant, t, arguments.backends.split(","))]
            rows += [measure(peer.name, lambda p=peer: p.make(t), t, timer) for peer in peers if case.kind in peer.kinds]
            rows = [row for row in rows if row]
            report["results"] += rows
            print_case(case, rows)
            del t
            torch.cuda.empty_cache()
    with open(arguments.output, "w") as file:
        json.dump(report, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
