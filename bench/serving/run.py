#!/usr/bin/env python3
"""Serves models by vLLM with each attention backend and compares.

Outputs first, then tokens a second, latency and attention's share of a step:

    python bench/serving/run.py --models llama-3.1-8b --layers 8 --loads decode,prefill --seconds 20 --output out.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import backends  # noqa: E402
import loads  # noqa: E402
import shapes  # noqa: E402
import table  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    parser.add_argument("--models", type=names, default=list(shapes.MODELS), help=f"of {', '.join(shapes.MODELS)}")
    parser.add_argument(
        "--backends",
        type=names,
        default=[],
        help="default: all that fit the model; the first is what others are compared with",
    )
    parser.add_argument("--kv-cache-dtypes", type=names, default=["auto", "fp8"], help="auto is bf16")
    parser.add_argument(
        "--loads", type=names, default=list(loads.LOADS), help=f"of {', '.join(loads.LOADS)}; empty: outputs alone"
    )
    parser.add_argument("--layers", type=int, default=0, help="how many of a model's layers; 0: all")
    parser.add_argument("--seconds", type=float, default=60, help="of each load at most")
    parser.add_argument(
        "--limit",
        type=float,
        default=600,
        help="seconds for one engine, start and all; then it is ended and the next one started",
    )
    parser.add_argument("--max-model-len", type=int, default=0, help="default: what the loads need")
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192)
    parser.add_argument(
        "--block-size", type=int, default=0, help="tokens a block; default: what vLLM takes for the backend"
    )
    parser.add_argument("--gpu-memory", type=float, default=0.9, help="share of the GPU's memory")
    parser.add_argument("--enforce-eager", action="store_true", help="no CUDA graphs")
    parser.add_argument(
        "--cudagraph-mode", default="FULL_DECODE_ONLY", help="FULL_DECODE_ONLY or FULL, without compilation"
    )
    parser.add_argument("--tensor-parallel", "--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--decode-context-parallel", "--decode-context-parallel-size", type=int, default=1)
    parser.add_argument("--no-profile", dest="profile", action="store_false")
    parser.add_argument("--output", type=Path, help="JSON of all results")
    parser.add_argument("--logs", type=Path, help="folder for the engines' logs; default: a temporary one")
    options = parser.parse_args()
    for what, given, allowed in (("models", options.models, shapes.MODELS), ("loads", options.loads, loads.LOADS)):
        for name in given:
            if name not in allowed:
                parser.error(f"--{what} has {name!r}; allowed: {', '.join(allowed)}")
    return options


def job_of(options: argparse.Namespace, model: str, dtype: str, backend: str, folder: Path) -> "dict[str, Any]":
    longest = max([loads.LOADS[name].max_len for name in options.loads] + [8192])
    longest = min(options.max_model_len or longest, shapes.MODELS[model]["max_position_embeddings"])
    return {
        "model": model,
        "backend": backend,
        "kv_cache_dtype": dtype,
        "layers": options.layers,
        "loads": options.loads,
        "seconds": options.seconds,
        "max_model_len": longest,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "block_size": options.block_size,
        "gpu_memory": options.gpu_memory,
        "enforce_eager": options.enforce_eager,
        "cudagraph_mode": options.cudagraph_mode,
        "tensor_parallel": options.tensor_parallel,
        "decode_context_parallel": options.decode_context_parallel,
        "profile": options.profile,
        "folder": str(folder),
    }


def run_engine(job: "dict[str, Any]", limit: float, logs: Path) -> "dict[str, Any]":
    """One engine in a process of its own, ended after its limit. Never raises: what went wrong is in the result."""
    name = f"{job['model']}-{job['kv_cache_dtype']}-{job['backend']}"
    out, log = logs / f"{name}.jsonl", logs / f"{name}.log"
    out.write_text("")
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    environment = {**defaults, **os.environ, **backends.environment(job["backend"])}
    began, error = time.perf_counter(), None
    with open(log, "w") as file:
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "engine.py"), json.dumps({**job, "output": str(out)})],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
        try:
            code = child.wait(limit)
            error = None if code == 0 else f"exit {code}"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
            child.wait()
            error = f"not done after {limit:.0f} s"
    results = [json.loads(line) for line in out.read_text().splitlines()]
    if error:
        error += ": " + table.last_error(log.read_text(errors="replace"))
    return {"job": job, "results": results, "error": error, "wall_s": round(time.perf_counter() - began, 1)}


def main() -> None:
    options = arguments()
    temporary = tempfile.mkdtemp(prefix="serving-")
    logs = options.logs or Path(temporary)
    logs.mkdir(parents=True, exist_ok=True)
    print(f"logs: {logs}", flush=True)
    runs: "list[dict[str, Any]]" = []
    for model in options.models:
        for dtype in options.kv_cache_dtypes:
            reference = None
            for backend in options.backends or backends.all_for(shapes.is_mla(model)):
                run = run_engine(job_of(options, model, dtype, backend, Path(temporary)), options.limit, logs)
                made = table.first(run, "outputs")
                if made and reference is None:
                    reference = made["outputs"]
                if made and reference is not None:
                    run["compared"] = table.compare(reference, made["outputs"])
                runs.append(run)
                print(table.line(run), flush=True)
                if options.output:
                    options.output.write_text(json.dumps({"runs": runs}, indent=1))
    print(table.text(runs), flush=True)


if __name__ == "__main__":
    main()
