"""Requests sent so that always as many are under way; what came when."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

_numbers = itertools.count()


@dataclass
class Timeline:
    """Of one request, in seconds from the start of the load."""

    sent: float
    prompt_len: int
    times: "list[float]" = field(default_factory=list)  # of each token
    finished: bool = False


def closed_loop(engine: Any, requests: "list[Any]", concurrency: int, seconds: float) -> "dict[str, Any]":
    """Runs the engine until all requests are answered or the time is up, and sums up."""
    from vllm import SamplingParams

    waiting = iter(requests)
    lines: dict[str, Timeline] = {}
    began = time.perf_counter()

    def send() -> None:
        request = next(waiting, None)
        if request is None:
            return
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=request.new_tokens, detokenize=False)
        name = f"r{next(_numbers)}"
        lines[name] = Timeline(time.perf_counter() - began, len(request.prompt))
        engine.add_request(name, {"prompt_token_ids": request.prompt}, params)

    for _ in range(concurrency):
        send()
    steps = 0
    while engine.has_unfinished_requests() and time.perf_counter() - began < seconds:
        answers = engine.step()
        steps += 1
        now = time.perf_counter() - began
        for answer in answers:
            line = lines[answer.request_id]
            line.times += [now] * (len(answer.outputs[0].token_ids) - len(line.times))
            if answer.finished:
                line.finished = True
                send()
    elapsed = time.perf_counter() - began
    drop(engine, [name for name, line in lines.items() if not line.finished])
    return {**summary(list(lines.values()), elapsed), "steps": steps}


def drop(engine: Any, names: "list[str]") -> None:
    """Forgets requests that are under way, and waits until the engine has."""
    if names:
        engine.abort_request(names)
    while engine.has_unfinished_requests():
        engine.step()
    for _ in range(3):  # a step that was under way
        engine.step()


def percentile(values: "list[float]", share: float) -> "float | None":
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


def first_token_ms(lines: "list[Timeline]", elapsed: float) -> "list[float]":
    """Time to the first token of every request that was sent. One that has none yet counts with what it has waited:
    else the median of an engine that answered fewer in its time would be of other requests than that of one that
    answered more."""
    return [1e3 * ((line.times[0] if line.times else elapsed) - line.sent) for line in lines]


def summary(lines: "list[Timeline]", elapsed: float) -> "dict[str, Any]":
    """Tokens a second, time to the first token (ms), and time a further token (ms) of requests that got any."""
    answered = [line for line in lines if line.times]
    first = first_token_ms(lines, elapsed)
    further = [
        1e3 * (line.times[-1] - line.times[0]) / (len(line.times) - 1) for line in answered if len(line.times) > 1
    ]
    new = sum(len(line.times) for line in answered)
    return {
        "seconds": elapsed,
        "requests": len(lines),
        "answered": len(answered),
        "finished": sum(line.finished for line in lines),
        "prompt_tokens": sum(line.prompt_len for line in answered),
        "new_tokens": new,
        "new_tokens_per_s": new / elapsed,
        "tokens_per_s": (new + sum(line.prompt_len for line in answered)) / elapsed,
        "ttft_ms": {"p50": percentile(first, 0.5), "p90": percentile(first, 0.9)},
        "ttft_first_ms": [round(ms, 3) for ms in first[:32]],  # in the order sent: the same requests for every engine
        "tpot_ms": {"p50": percentile(further, 0.5), "p90": percentile(further, 0.9)},
    }
