#!/usr/bin/env python3
"""Plots docs/figures/*.json as docs/plots/*.svg. With --check only says which files are out of date.

    python3 scripts/site/plots.py [--check]

A figure says where it was made (machine, versions, commit, date) and how to make it again (command); a plot shows that
under its bars. `groups`: bars by kind of load, each group in its own unit and scale. `lines`: y over x, x in powers of 2.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap

from pictures import DOCS, write_all
from svg import Picture

NEEDED = ("title", "machine", "versions", "commit", "date", "command", "source")
COLOURS = {"ROCM_AITER_UNIFIED_ATTN": "a", "ROCM_AITER_MLA": "a", "Sextant": "a", "ROCM_AITER_FA": "b", "TRITON_ATTN": "c", "TRITON_MLA": "c", "ROCM_ATTN": "d"}


def footer_lines(figure: dict) -> list[str]:
    return [
        line
        for words in (figure["machine"], figure["versions"], f"Commit {figure['commit']}, {figure['date']}.")
        for line in textwrap.wrap(words, 64)
    ]


def footer(p: Picture, figure: dict, y: float) -> None:
    for i, line in enumerate(footer_lines(figure)):
        p.text(10, y + 15 * i, line, 11, "start", "faint")


def bars(figure: dict) -> Picture:
    height = sum(34 + 20 * len(group["bars"]) for group in figure["groups"]) + 20 + 15 * len(footer_lines(figure))
    p = Picture(figure["title"], height)
    y = 18
    for group in figure["groups"]:
        better = "longer is better" if group["better"] == "higher" else "shorter is better"
        p.text(10, y, group["name"], 13, "start", bold=True)
        p.text(390, y, f"{group['unit']}, {better}", 11, "end", "faint")
        most = max(value for _, value in group["bars"])
        for i, (name, value) in enumerate(group["bars"]):
            top = y + 8 + 20 * i
            length = max(2.0, 150 * value / most)
            p.text(180, top + 12, name, 11, "end")
            p.rect(186, top, length, 15, COLOURS.get(name, "e"), 2, stroke=False)
            p.text(192 + length, top + 12, f"{value:g}", 11, "start")
        y += 34 + 20 * len(group["bars"])
    footer(p, figure, y + 6)
    return p


def lines(figure: dict) -> Picture:
    p = Picture(figure["title"], 330 + 15 * len(footer_lines(figure)))
    left, right, top, bottom = 44, 290, 30, 270
    xs = sorted({x for _, points in figure["lines"] for x, _ in points})
    low, high = figure["y_range"]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log2(x) - math.log2(xs[0])) / (math.log2(xs[-1]) - math.log2(xs[0]))
        return left + across * (right - left), bottom - (y - low) / (high - low) * (bottom - top)

    p.text(10, 16, figure["y_label"], 12, "start", bold=True)
    for tick in figure["y_ticks"]:
        y = place(xs[0], tick)[1]
        p.line((left, y), (right, y), colour="ink" if tick == 1 else "line", width=1.2 if tick == 1 else 0.4)
        p.text(left - 6, y + 4, f"{tick:g}", 11, "end", "faint")
    for x in xs:
        p.text(place(x, low)[0], bottom + 18, f"{x // 1024}k", 11, colour="faint")
    p.text((left + right) / 2, bottom + 38, figure["x_label"], 12, colour="ink")
    used = []
    for colour, (name, points) in zip("abcd", figure["lines"]):
        places = [place(x, y) for x, y in points]
        p.line(*places, colour=colour, width=2.2)
        for x, y in places:
            p.add(f'<circle cx="{x:g}" cy="{y:g}" r="3.2" fill="var(--sx-{colour})"/>')
        y = places[-1][1] + 4
        while any(abs(y - other) < 14 for other in used):
            y += 2
        used.append(y)
        p.text(right + 10, y, name, 11.5, "start", colour)
    footer(p, figure, bottom + 66)
    return p


def plot(path) -> str:
    figure = json.loads(path.read_text())
    missing = [key for key in NEEDED if not figure.get(key)]
    if missing:
        raise SystemExit(f"{path.name} has no {', '.join(missing)}; a figure says where and how it was made")
    return (bars if "groups" in figure else lines)(figure).svg()


if __name__ == "__main__":
    sys.exit(write_all("plots", {f"{path.stem}.svg": plot(path) for path in sorted((DOCS / "figures").glob("*.json"))}))
