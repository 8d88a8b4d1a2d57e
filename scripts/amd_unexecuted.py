#!/usr/bin/env python3
"""Which source lines of the AMD kernels no run of the machine code executed.

    build/cpu/tests/sextant_machine_code execute --architecture gfx942 --seconds 0 --json unexecuted.json
    scripts/amd_unexecuted.py unexecuted.json --architecture gfx942 [--kernel forward] [--lines 40]

The kernels are compiled once more with line tables, which changes no instruction, to a folder of temporary files
(--objects keeps them). An instruction counts for the innermost line of ours that it comes from; --callers counts by
the whole way there.
"""
import argparse
import collections
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "src/devices/hip/kernels"
SOURCES = ("ops", "portable", "mla", "decode", "forward")
FLAGS = ["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpuinc", "-nogpulib", "-O3", "-std=c++20",
         "-mcode-object-version=5", "-gline-tables-only", f"-I{ROOT}/src", f"-I{ROOT}/include"]


def tool(name, versions):
    for version in versions:
        if path := shutil.which(f"{name}-{version}"):
            return path
    sys.exit(f"amd_unexecuted.py: no {name} of versions {versions} (scripts/install_packages hip)")


def compile_objects(architecture, folder):
    """The build's own choice of compiler: 19 where it knows the chip."""
    compiler = tool("clang++", [22] if architecture == "gfx950" else [19, 22])
    for source in SOURCES:
        target = folder / f"{source}_{architecture}.co"
        if not target.exists():
            subprocess.run([compiler, f"--offload-arch={architecture}", *FLAGS, KERNELS / f"{source}_kernels.cpp", "-o",
                            target], check=True)


def source_of(kernel):
    first = kernel.split("_")[0]
    return {"sextant": "ops", "tile": "portable"}.get(first, first)


def ways_to(addresses, objects):
    """By address the lines from the innermost to the kernel, as "file:line"."""
    command = [tool("llvm-symbolizer", [22, 19]), f"--obj={objects}", "--inlines", "--functions=none"]
    text = subprocess.run(command, input="\n".join(hex(a) for a in addresses), text=True, capture_output=True,
                          check=True).stdout
    ways = {}
    for address, block in zip(addresses, re.split(r"\n\n+", text.strip())):
        lines = [re.match(r"(.*):(\d+):\d+$", line) for line in block.splitlines()]
        ways[address] = tuple(f"{pathlib.Path(m[1]).name}:{m[2]}" for m in lines if m) or ("?:0",)
    return ways


def text_of(place):
    name, number = place.rsplit(":", 1)
    path = KERNELS / name
    if number == "0" or not path.exists():
        return ""
    return path.read_text().splitlines()[int(number) - 1].strip()[:90]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unexecuted", help="what `sextant_machine_code execute --json` wrote")
    parser.add_argument("--architecture", default="gfx942")
    parser.add_argument("--objects", type=pathlib.Path, help="folder of objects with line tables, made where missing")
    parser.add_argument("--kernel", default="", help="only kernels whose name begins so")
    parser.add_argument("--lines", type=int, default=40, help="how many to show")
    parser.add_argument("--callers", action="store_true")
    options = parser.parse_args()
    unexecuted = json.loads(pathlib.Path(options.unexecuted).read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.objects or pathlib.Path(temporary)
        folder.mkdir(exist_ok=True)
        compile_objects(options.architecture, folder)
        counts, kernels = collections.Counter(), collections.defaultdict(collections.Counter)
        for kernel, addresses in unexecuted.items():
            if not kernel.startswith(options.kernel) or not addresses:
                continue
            ways = ways_to(addresses, folder / f"{source_of(kernel)}_{options.architecture}.co")
            for way in ways.values():
                place = " < ".join(way) if options.callers else way[0]
                counts[place] += 1
                kernels[place][kernel] += 1
    print(f"{sum(counts.values())} instructions not executed")
    for place, count in counts.most_common(options.lines):
        most = ", ".join(f"{k} {n}" for k, n in kernels[place].most_common(3))
        print(f"{count:6} {place}  {text_of(place.split(' < ')[0])}\n       in {len(kernels[place])} kernels: {most}")


if __name__ == "__main__":
    main()
