#!/usr/bin/env python3
"""Plots three-path extend against unified attention from the JSON of `sextant bench`. Needs matplotlib.

    sextant bench --device cuda --backends ROCM_AITER_UNIFIED_ATTN,ROCM_AITER_FA --batch q128s4224,... --json > extend.json
    scripts/plot_extend.py extend.json -o docs/unified-against-three-paths.svg
"""

import argparse
import json
import re
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

UNIFIED, THREE_PATHS = "ROCM_AITER_UNIFIED_ATTN", "ROCM_AITER_FA"


def times(report: dict) -> dict[tuple[int, int], dict[str, float]]:
    """(query tokens, context tokens) -> backend -> ms."""
    found = defaultdict(dict)
    for result in report["results"]:
        match = re.fullmatch(r"q(\d+)(?:s(\d+))?", result["batch"])
        if match:
            query = int(match[1])
            found[query, int(match[2] or query) - query][result["backend"]] = result["ms_median"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    with open(arguments.report) as file:
        report = json.load(file)
    ratios = defaultdict(list)
    for (query, context), ms in sorted(times(report).items()):
        if context > 0 and UNIFIED in ms and THREE_PATHS in ms:
            ratios[query].append((context, ms[THREE_PATHS] / ms[UNIFIED]))
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for query, points in ratios.items():
        axes.plot(*zip(*points), marker="o", label=f"{query} new tokens")
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("context tokens")
    axes.set_ylabel("time of three paths / time of unified")
    axes.set_title("Extend: above 1 the unified call is faster")
    axes.legend()
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "sextant"  # the same figures make the same file
    figure.savefig(arguments.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
