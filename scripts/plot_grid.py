#!/usr/bin/env python3
"""Plots the ratios of drawn cases by kind, from the JSON files of `bench/peers/run.py --random`. Needs matplotlib.

    python bench/peers/run.py --library libsextant.so --fa3 FILE --random 60 --seed 41 --output grid41.json
    scripts/plot_grid.py grid41.json grid42.json -o docs/grid-cuda.svg
"""

import argparse
import json
import math

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def read_ratios(files: list[str]) -> dict[str, list[float]]:
    by_kind: dict[str, list[float]] = {}
    for name in files:
        with open(name) as file:
            for result in json.load(file)["results"]:
                if result["ratio"]:
                    by_kind.setdefault(result["kind"], []).append(result["ratio"])
    return by_kind


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def print_table(by_kind: dict[str, list[float]]) -> None:
    everything = [ratio for ratios in by_kind.values() for ratio in ratios]
    print("| kind | cases | ahead | geometric mean | worst |\n|---|---|---|---|---|")
    for name, ratios in [*sorted(by_kind.items(), key=lambda item: -geometric_mean(item[1])), ("**all**", everything)]:
        ahead = sum(ratio >= 1 for ratio in ratios)
        print(f"| {name} | {len(ratios)} | {ahead} | {geometric_mean(ratios):.2f} | {min(ratios):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    by_kind = read_ratios(arguments.reports)
    print_table(by_kind)
    names = sorted(by_kind, key=lambda name: geometric_mean(by_kind[name]))
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for y, name in enumerate(names):
        ratios = sorted(by_kind[name])
        offsets = [y + 0.24 * ((i % 5) - 2) / 2 for i in range(len(ratios))]
        axes.scatter(ratios, offsets, s=14, color="#2563eb", alpha=0.65, linewidths=0)
        axes.plot([geometric_mean(ratios)] * 2, [y - 0.35, y + 0.35], color="#111827", linewidth=2)
    axes.axvline(1, color="#6b7280", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log", base=2)
    ticks = (0.35, 0.5, 0.7, 1, 1.4, 2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("time of the best peer / time of Sextant (bar: geometric mean)")
    axes.set_title("Cases drawn at random: right of 1 Sextant is ahead")
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "sextant"  # the same figures make the same file
    figure.savefig(arguments.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
