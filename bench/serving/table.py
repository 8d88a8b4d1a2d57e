"""Results in words: outputs compared, and the printed table."""

from __future__ import annotations

from typing import Any


def first(run: "dict[str, Any]", kind: str) -> "dict[str, Any] | None":
    return next((result for result in run["results"] if result["kind"] == kind), None)


def compare(reference: "list[dict[str, Any]]", made: "list[dict[str, Any]]") -> "dict[str, Any]":
    """Greedy tokens against the first backend's: how many prompts agree to the end; where one does not, at which token,
    and by how much the two candidates were apart for the reference. A gap of a rounding error is a tie, a large one a
    mistake. drift: of the likeliest token's logprob, as long as the tokens agree."""
    equal, differing, drift = 0, [], 0.0
    for index, (ours, theirs) in enumerate(zip(made, reference)):
        place = next((i for i, (a, b) in enumerate(zip(ours["tokens"], theirs["tokens"])) if a != b), None)
        agreed = len(theirs["tokens"]) if place is None else place
        drift = max([drift] + [abs(ours["top"][i][0][0] - theirs["top"][i][0][0]) for i in range(agreed)])
        if place is None:
            equal += 1
            continue
        top = theirs["top"][place]
        differing.append(
            {"prompt": index, "prompt_len": theirs["prompt_len"], "token": place, "gap": top[0][0] - top[1][0]}
        )
    return {"prompts": len(reference), "equal": equal, "drift": drift, "differing": differing}


def last_error(log: str) -> str:
    """The line that says why, of an engine's log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and not line.startswith("File ")]
    return (named or lines or ["no output"])[-1][:300]


def outputs_text(compared: "dict[str, Any] | None") -> str:
    if compared is None:
        return "-"
    if not compared["differing"]:
        return f"{compared['equal']}/{compared['prompts']}"
    return f"{compared['equal']}/{compared['prompts']}, gap {max(d['gap'] for d in compared['differing']):.3f}"


def shares(run: "dict[str, Any]") -> "dict[str, float]":
    """Attention's part of the kernels' time, by profiled step, in per cent."""
    profiles = [result for result in run["results"] if result["kind"] == "profile" and result["kernels_ms"]]
    return {p["step"]: 100 * p["attention_ms"] / p["kernels_ms"] for p in profiles}


def line(run: "dict[str, Any]") -> str:
    """What just ran, in one line."""
    job = run["job"]
    text = f"{job['model']} {job['kv_cache_dtype']} {job['backend']}: {run['wall_s']} s"
    started = first(run, "start")
    if started:
        text += f" (start {started['seconds']}), outputs {outputs_text(run.get('compared'))}"
    return text + (f"; FAILED: {run['error']}" if run["error"] else "")


def number(value: Any, form: str = ".0f") -> str:
    return "-" if value is None else format(value, form)


def rows(runs: "list[dict[str, Any]]") -> "list[list[str]]":
    made = []
    for run in runs:
        job, share = run["job"], shares(run)
        head = [
            job["model"],
            "bf16" if job["kv_cache_dtype"] == "auto" else job["kv_cache_dtype"],
            job["backend"],
            outputs_text(run.get("compared")),
        ]
        attention = "/".join(number(share.get(step)) for step in ("prefill", "decode")) if share else "-"
        measured = [result for result in run["results"] if result["kind"] == "load"]
        for r in measured:
            made.append(
                [
                    *head,
                    r["load"],
                    number(r["new_tokens_per_s"]),
                    number(r["tokens_per_s"]),
                    number(r["ttft_ms"]["p50"]),
                    number(r["tpot_ms"]["p50"], ".2f"),
                    attention,
                ]
            )
        if not measured:
            made.append([*head, "failed" if run["error"] else "-", "-", "-", "-", "-", attention])
    return made


COLUMNS = [
    "model",
    "cache",
    "backend",
    "outputs",
    "load",
    "new tok/s",
    "all tok/s",
    "TTFT ms",
    "TPOT ms",
    "attention % (prefill/decode)",
]


def text(runs: "list[dict[str, Any]]") -> str:
    """A Markdown table."""
    lines = [COLUMNS, *rows(runs)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(COLUMNS))]
    form = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"  # noqa: E731
    return "\n".join(
        [form(COLUMNS), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(form, lines[1:])]
    )
