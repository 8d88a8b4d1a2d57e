"""One engine: started, asked, loaded and profiled.

Run by run.py in a process of its own; each result is a line of JSON in the file that it is given.

    python bench/serving/engine.py '{"model": ..., "backend": ..., "loads": [...], "output": "out.jsonl", ...}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import backends  # noqa: E402
import loads  # noqa: E402
import shapes  # noqa: E402
import profile_step  # noqa: E402
import weights  # noqa: E402
from closed_loop import closed_loop  # noqa: E402


def start(job: "dict[str, Any]") -> Any:
    """vLLM's engine in this process. No compilation: full CUDA graphs of decode steps, the same for every backend."""
    from vllm import LLM

    folder = shapes.write(job["model"], job["layers"], Path(job["folder"]))
    sizes = sorted(
        {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256} & set(range(job["max_num_seqs"] + 1))
        | {job["max_num_seqs"]}
    )
    compilation = {"mode": 0, "cudagraph_mode": job["cudagraph_mode"], "cudagraph_capture_sizes": sizes}
    more = {"block_size": job["block_size"]} if job["block_size"] else {}
    return LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        load_format="dummy",
        dtype="bfloat16",
        seed=0,
        kv_cache_dtype=job["kv_cache_dtype"],
        max_model_len=job["max_model_len"],
        max_num_seqs=job["max_num_seqs"],
        max_num_batched_tokens=job["max_num_batched_tokens"],
        gpu_memory_utilization=job["gpu_memory"],
        enable_prefix_caching=True,
        enforce_eager=job["enforce_eager"],
        tensor_parallel_size=job["tensor_parallel"],
        decode_context_parallel_size=job["decode_context_parallel"],
        compilation_config={"mode": 0} if job["enforce_eager"] else compilation,
        disable_log_stats=True,
        **backends.arguments(job["backend"]),
        **more,
    )


def outputs(llm: Any, prompts: "list[loads.Request]") -> "list[dict[str, Any]]":
    """Greedy tokens, and at each step the two likeliest with their logprobs."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0.0, ignore_eos=True, max_tokens=prompts[0].new_tokens, logprobs=2, detokenize=False
    )
    answers = llm.generate([{"prompt_token_ids": request.prompt} for request in prompts], params, use_tqdm=False)
    made = []
    for answer in answers:
        best = answer.outputs[0]
        steps = [
            sorted(((value.logprob, token) for token, value in step.items()), reverse=True)[:2]
            for step in best.logprobs
        ]
        made.append({"prompt_len": len(answer.prompt_token_ids), "tokens": list(best.token_ids), "top": steps})
    return made


def main() -> None:
    job = json.loads(sys.argv[1])
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    began = time.perf_counter()

    def report(kind: str, **fields: Any) -> None:
        with open(job["output"], "a") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")

    weights.install()
    llm = start(job)
    import vllm

    config = llm.llm_engine.vllm_config
    vocab = shapes.MODELS[job["model"]]["vocab_size"]
    report(
        "start",
        seconds=round(time.perf_counter() - began, 1),
        vllm=vllm.__version__,
        cudagraph_mode=str(config.compilation_config.cudagraph_mode),
        block_size=config.cache_config.block_size,
        gpu_blocks=config.cache_config.num_gpu_blocks,
    )
    longest = job["max_model_len"] - 40
    report(
        "outputs",
        outputs=outputs(llm, [request for request in loads.comparison(vocab) if len(request.prompt) <= longest]),
    )
    for name in job["loads"]:
        load = loads.LOADS[name]
        sent = [r for r in loads.requests(load, vocab) if len(r.prompt) + r.new_tokens <= job["max_model_len"]]
        llm.reset_prefix_cache()
        report(
            "load",
            load=name,
            **closed_loop(llm.llm_engine, sent, min(load.concurrency, job["max_num_seqs"]), job["seconds"]),
        )
    if job["profile"] and job["tensor_parallel"] == 1:
        for shape in profile_step.shapes(job["max_model_len"], job["max_num_seqs"]):
            llm.reset_prefix_cache()
            report("profile", **profile_step.measure(llm.llm_engine, vocab, *shape))
    report("done", seconds=round(time.perf_counter() - began, 1))


if __name__ == "__main__":
    main()
