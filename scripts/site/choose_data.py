#!/usr/bin/env python3
"""Asks `sextant select --json` about every built-in model and writes the answers to docs/assets/choose-data.js, for docs/choose.md.

    python3 scripts/site/choose_data.py --sextant build/release/apps/sextant/sextant [--devices cpu,hip-emulated] [--check]

Devices that are not asked keep the answers that the file has: run it with `--devices cuda` on a machine with an NVIDIA GPU.
With --check nothing is written; the exit status says whether the file says what the program answers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "docs" / "assets" / "choose-data.js"
BEGIN, END = "window.SEXTANT_CHOICES = ", ";\n"
LABELS = {"cpu": "CPU (x86-64)", "cuda": "NVIDIA GPU", "hip": "AMD GPU", "hip-emulated": "AMD GPU (gfx942, as its emulator answers)"}
CACHES = {"auto": "as the model", "fp8": "fp8"}
QUERY_LENS = (128, 512, 2048, 8192)
CONTEXT_LENS = (4096, 16384, 65536, 131072)


def models(sextant: str) -> list[str]:
    """The built-in models, as the error about an unknown one names them."""
    refusal = subprocess.run([sextant, "select", "--model", "?"], capture_output=True, text=True).stderr
    return refusal.split("one of ", 1)[1].strip().split(", ")


def describe(attention: dict) -> str:
    if attention["kv_lora_rank"]:
        return f"MLA, {attention['num_heads']} heads, latent {attention['kv_lora_rank']}+{attention['qk_rope_head_dim']}"
    words = f"{attention['num_heads']}/{attention['num_kv_heads']} heads of {attention['head_dim']}"
    if attention["sliding_window"]:
        words += f", window {attention['sliding_window']}"
    if attention["logits_soft_cap"]:
        words += f", softcap {attention['logits_soft_cap']:g}"
    return words + (", sinks" if attention["has_sinks"] else "")


class Asker:
    def __init__(self, sextant: str):
        self.sextant = sextant

    def kinds(self, device: str, model: str, cache: str, query_len: int = 0, context_len: int = 0) -> list:
        command = [self.sextant, "select", "--model", model, "--device", device, "--kv-cache-dtype", cache, "--json"]
        command += ["--query-len", str(query_len), "--context-len", str(context_len)]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.stdout:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
        return [
            {"count": kind["count"], "what": describe(kind["attention"]), "chosen": kind["chosen"],
             "reasons": {c["name"]: c["reasons"] for c in kind["candidates"]}}
            for kind in json.loads(done.stdout)["layer_kinds"]
        ]  # fmt: skip

    def device(self, device: str) -> dict:
        names = models(self.sextant)
        answers = {m: {c: self.kinds(device, m, c) for c in CACHES} for m in names}
        # Lengths matter where the selector has a measured table; elsewhere the first model's answers show that they do not.
        lengths = {}
        measured = self.kinds(device, names[0], "auto", QUERY_LENS[0], CONTEXT_LENS[0]) != answers[names[0]]["auto"]
        for model in names if measured else ():
            for cache in CACHES:
                for q in QUERY_LENS:
                    for c in CONTEXT_LENS:
                        found = self.kinds(device, model, cache, q, c)
                        if found != answers[model][cache]:
                            lengths.setdefault(model, {}).setdefault(cache, {})[f"{q},{c}"] = found
        return {"label": LABELS[device], "answers": answers, "lengths": lengths}


def intern(data: dict) -> dict:
    """The same with every list of reasons written once."""
    texts: list[str] = []
    index: dict[str, int] = {}

    def number(reasons: list[str]) -> int:
        text = "\n".join(reasons)
        if text not in index:
            index[text] = len(texts)
            texts.append(text)
        return index[text]

    def walk(node):
        if isinstance(node, dict):
            return {k: ({n: number(r) for n, r in v.items()} if k == "reasons" else walk(v)) for k, v in node.items()}
        return [walk(v) for v in node] if isinstance(node, list) else node

    devices = walk(data["devices"])
    return {**data, "devices": devices, "texts": texts}


def restore(data: dict) -> dict:
    """intern() undone."""

    def walk(node):
        if isinstance(node, dict):
            return {k: ({n: data["texts"][i].split("\n") for n, i in v.items()} if k == "reasons" else walk(v)) for k, v in node.items()}
        return [walk(v) for v in node] if isinstance(node, list) else node

    return {key: walk(value) for key, value in data.items() if key != "texts"}


def as_file(data: dict) -> str:
    """One line a model, so that a change can be read."""
    text = json.dumps(data, indent=None, separators=(",", ":"))
    for mark in ('"answers":{', '"lengths":{', '"texts":[', '"devices":{'):
        text = text.replace(mark, mark + "\n")
    return "// Made by scripts/site/choose_data.py.\n" + BEGIN + text.replace('}]},"', '}]},\n"') + END


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sextant", required=True)
    parser.add_argument("--devices", default="cpu,hip-emulated")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    version = subprocess.run([options.sextant, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    old = {}
    if FILE.exists():
        old = restore(json.loads(FILE.read_text().split(BEGIN, 1)[1].removesuffix(END)))
    asked = {d: Asker(options.sextant).device(d) for d in options.devices.split(",")}
    devices = {**old.get("devices", {}), **asked}
    data = {"version": version, "caches": CACHES, "query_lens": QUERY_LENS, "context_lens": CONTEXT_LENS,
            "devices": {d: devices[d] for d in LABELS if d in devices}}  # fmt: skip
    text = as_file(intern(data))
    if options.check:
        if FILE.exists() and FILE.read_text() == text:
            return 0
        print(f"{FILE.name} does not say what the program answers: run python3 {sys.argv[0]} --sextant {options.sextant}")
        return 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
