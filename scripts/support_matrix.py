#!/usr/bin/env python3
"""Writes docs/support-matrix.md from what the program answers: which backend serves what on which device.

scripts/support_matrix.py --sextant build/release/apps/sextant/sextant [more.json ...]   # writes the page
scripts/support_matrix.py --sextant build/release/apps/sextant/sextant --check           # a test: is it still right?

Further JSON files are answers of `sextant backends --json` on other machines, for the devices that this one lacks. --check compares
only what this machine can answer.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "support-matrix.md"
DEVICES = {"cpu": "CPU", "cuda": "CUDA", "hip": "HIP", "hip-emulated": "HIP, emulated"}


def answers(sextant, files):
    """{device kind: {backend: {feature: served}}}, and the backends' categories."""
    found, categories = {}, {}
    texts = [subprocess.run([sextant, "backends", "--json"], capture_output=True, check=True, text=True).stdout]
    for text in texts + [pathlib.Path(f).read_text() for f in files]:
        for backend in json.loads(text):
            categories[backend["name"]] = backend["category"]
            for device, features in backend["features_by_device"].items():
                found.setdefault(device.split(":")[0], {}).setdefault(backend["name"], {}).update(features)
    return found, categories


def table(found, categories, category):
    names = [name for name, own in categories.items() if own == category]
    kinds = [kind for kind in DEVICES if kind in found]
    features = list(dict.fromkeys(f for kind in kinds for name in names for f in found[kind].get(name, {})))
    lines = [f"| {category} | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---|" * len(names)]
    for feature in features:
        cells = []
        for name in names:
            served = [DEVICES[kind] for kind in kinds if found[kind].get(name, {}).get(feature)]
            cells.append("yes" if len(served) == len(kinds) else ", ".join(served) or "no")
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return lines


def page(found, categories):
    kinds = ", ".join(DEVICES[kind] for kind in DEVICES if kind in found)
    lines = [
        "# Support matrix",
        "",
        "Made by `scripts/support_matrix.py` from the answers of `sextant backends --json`, which asks each backend on each",
        "device about one small case a feature. What a backend says it serves is checked against the oracle by",
        "`sextant verify`; a test compares this page with the program.",
        "",
        f"Devices asked: {kinds}. *yes*: on all of them.",
        "",
    ]
    for category in dict.fromkeys(categories.values()):
        lines += table(found, categories, category) + [""]
    lines += [
        "Everywhere: fp32, fp16 and bf16; decode, extend, prefill and mixed batches; speculative decode; shared prefixes; LSE",
        "out; deterministic mode. The HIP device runs the same plans and kernels as its emulation, on gfx90a, gfx942 and",
        "gfx950; no AMD GPU has run them yet ([amd.md](amd.md)).",
    ]
    return "\n".join(lines) + "\n"


def contradictions(found, text):
    wrong = []
    for header, body in re.findall(r"^\| (?:MHA|MLA) \|(.*)\n\|[-|]+\n((?:\|.*\n)+)", text, flags=re.M):
        names = re.findall(r"`(\w+)`", header)
        for row in body.splitlines():
            feature, *cells = [cell.strip() for cell in row.strip("|").split("|")]
            for name, cell in zip(names, cells):
                for kind, backends in found.items():
                    says = cell == "yes" or DEVICES[kind] in cell.split(", ")
                    if says != backends.get(name, {}).get(feature):
                        wrong.append(f"{name}, {feature}, {kind}: the page says {cell}, the program {backends.get(name, {}).get(feature)}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sextant", required=True, help="the program")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("json", nargs="*", help="answers of other machines")
    arguments = parser.parse_args()
    found, categories = answers(arguments.sextant, arguments.json)
    if not arguments.check:
        PAGE.write_text(page(found, categories))
        return
    text = PAGE.read_text()
    wrong = contradictions(found, text) + [f"{name} is not on the page" for name in categories if f"`{name}`" not in text]
    features = {feature for backends in found.values() for own in backends.values() for feature in own}
    wrong += [f"{feature} is not on the page" for feature in sorted(features) if f"\n| {feature} |" not in text]
    print("\n".join(wrong) or f"{PAGE.name} agrees with the program")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
