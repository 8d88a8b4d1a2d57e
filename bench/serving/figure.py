#!/usr/bin/env python3
"""Results of run.py as a figures file of the site (docs/figures) and as the table that stands beside its plot.

    python bench/serving/figure.py llama.json --title "..." --machine "..." --versions "..." --commit c --date d \\
        --command "..." --source "..." --output docs/figures/served_mha_h200.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import loads  # noqa: E402
import table  # noqa: E402

TITLES = {
    "decode": "decode: 512 in, 1k out",
    "prefill": "prefill: 10k in, 1k out",
    "mixed": "mixed: 7k in, 180 out",
    "long": "long: 100k in, 256 out",
}
OURS = "SEXTANT_"


def label(backend: str) -> str:
    """Sextant's by their names, the others' with vLLM in front."""
    return backend[len(OURS) :] if backend.startswith(OURS) else f"vLLM {backend}"


def load_of(run: "dict[str, Any]", name: str) -> "dict[str, Any] | None":
    return next((result for result in run["results"] if result["kind"] == "load" and result["load"] == name), None)


def prompt_s(load: "dict[str, Any]") -> "float | None":
    """Seconds a long prompt. They are sent together and taken one after another: the last first token, over how many
    came."""
    long = loads.LOADS["long"]
    answered = min(long.concurrency, load["prompt_tokens"] // long.prompt_len)
    if not answered:
        return None
    # Results from before this field: the 90th percentile is the last one of four.
    first = sorted(load.get("ttft_first_ms", []))[:answered]
    return (first[-1] if first else load["ttft_ms"]["p90"]) / 1e3 / answered


def groups(runs: "list[dict[str, Any]]") -> "list[dict[str, Any]]":
    """Bars of every load. Long: seconds a prompt, since few requests end and a prompt counts whole or not at all."""
    made = []
    for name, title in TITLES.items():
        measured = [(label(run["job"]["backend"]), load) for run in runs if (load := load_of(run, name))]
        if name == "long":
            bars = [[who, round(seconds, 2)] for who, load in measured if (seconds := prompt_s(load))]
            unit, better = "s a prompt", "lower"
        else:
            bars = [[who, round(load["new_tokens_per_s"])] for who, load in measured]
            unit, better = "new tokens/s", "higher"
        if bars:
            made.append({"name": title, "unit": unit, "better": better, "bars": bars})
    return made


def cell(load: "dict[str, Any] | None", latency: str) -> str:
    if load is None:
        return "-"
    form = ".1f" if latency == "tpot_ms" else ".0f"
    return f"{table.number(load['new_tokens_per_s'])}, {table.number(load[latency]['p50'], form)}"


def kernel_ms(run: "dict[str, Any]", step: str) -> str:
    profile = next(
        (result for result in run["results"] if result["kind"] == "profile" and result["step"] == step), None
    )
    return "-" if profile is None else f"{profile['attention_ms'] / profile['steps']:.2f}"


def rows(runs: "list[dict[str, Any]]") -> "list[list[str]]":
    made = []
    for run in runs:
        of = {name: load_of(run, name) for name in TITLES}
        long = of["long"]
        cells = [
            label(run["job"]["backend"]),
            cell(of["decode"], "tpot_ms"),
            cell(of["prefill"], "ttft_ms"),
            cell(of["mixed"], "ttft_ms"),
        ]
        cells.append(
            "-" if long is None else f"{table.number(long['tokens_per_s'])}, {table.number(prompt_s(long), '.2f')}"
        )
        made.append(
            [*cells, kernel_ms(run, "prefill"), kernel_ms(run, "decode"), table.outputs_text(run.get("compared"))]
        )
    return made


COLUMNS = ["backend", "decode", "prefill", "mixed", "long", "prefill step", "decode step", "outputs"]


def text(runs: "list[dict[str, Any]]") -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [COLUMNS, ["---"] * len(COLUMNS), *rows(runs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    for name in ("title", "machine", "versions", "commit", "date", "command", "source"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = vars(parser.parse_args())
    runs = json.loads(options.pop("results").read_text())["runs"]
    output = options.pop("output")
    output.write_text(json.dumps({**options, "groups": groups(runs)}, indent=2) + "\n")
    print(text(runs))


if __name__ == "__main__":
    main()
