"""What share of a step attention takes: the kernels of a few steps, summed by name."""

from __future__ import annotations

import time
from typing import Any

import closed_loop

# Parts of the names of attention's kernels, the cache write and the merge of partial results included.
ATTENTION = (
    "sextant",
    "flash",
    "fmha",
    "attention",
    "attn",
    "paged",
    "mla",
    "reshape_and_cache",
    "concat_and_cache",
    "reduce_segments",
    "merge_attn",
    "batch_decode",
    "batch_prefill",
    "splitkv",
    "decode_att",
    "prepare_varlen",
)


def is_attention(kernel: str) -> bool:
    name = kernel.lower()
    return any(part in name for part in ATTENTION) and "fused_moe" not in name


def shapes(max_model_len: int, max_num_seqs: int) -> "list[tuple[str, int, int, int]]":
    """(name, requests, context, steps) of what is profiled."""
    context = min(8192, max_model_len // 2)
    return [("prefill", 1, min(8000, max_model_len - 8), 0), ("decode", min(32, max_num_seqs), context, 8)]


def measure(engine: Any, vocab: int, name: str, requests: int, context: int, steps: int) -> "dict[str, Any]":
    """One prefill of a prompt (steps 0), or that many decode steps of requests with such a context."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0.0, ignore_eos=True, max_tokens=steps + 2 * requests + 64 if steps else 1, detokenize=False
    )

    def send(first: int) -> "list[str]":
        names = [f"p{next(closed_loop._numbers)}" for _ in range(requests)]
        for i, request in enumerate(names):
            prompt = [3 + (7919 * (first + i) + 31 * j) % (vocab - 3) for j in range(context)]
            engine.add_request(request, {"prompt_token_ids": prompt}, params)
        return names

    def until_first_tokens(names: "list[str]") -> None:
        seen: set[str] = set()
        while len(seen) < len(names):
            seen.update(answer.request_id for answer in engine.step())

    if not steps:  # once before, so that nothing is compiled in the profile
        closed_loop.drop(engine, send_and_wait(send, until_first_tokens, 1))
        names = send(1000)
    else:
        names = send(1)
        until_first_tokens(names)
        for _ in range(2):
            engine.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        began = time.perf_counter()
        if steps:
            for _ in range(steps):
                engine.step()
        else:
            until_first_tokens(names)
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
    closed_loop.drop(engine, names)
    kernels = {
        event.key: event.device_time_total / 1e3 for event in recorded.key_averages() if event.device_time_total > 0
    }
    attention = sum(ms for key, ms in kernels.items() if is_attention(key))
    largest = sorted(kernels.items(), key=lambda item: -item[1])[:14]
    return {
        "step": name,
        "requests": requests,
        "context": context,
        "steps": steps or 1,
        "wall_ms": 1e3 * wall,
        "kernels_ms": sum(kernels.values()),
        "attention_ms": attention,
        "largest": [[key[:100], round(ms, 4), is_attention(key)] for key, ms in largest],
    }


def send_and_wait(send: Any, wait: Any, first: int) -> "list[str]":
    names = send(first)
    wait(names)
    return names
