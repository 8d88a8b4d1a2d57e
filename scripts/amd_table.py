#!/usr/bin/env python3
"""What the compiler made of the HIP kernels: gates for CI, and the table of docs/amd.md.

  scripts/amd_table.py --check build/release/src/devices/hip/*_gfx*.co
  scripts/amd_table.py --compilers [build/release/src/devices/hip/*_gfx*.co]   # both compilers, all chips: no spills
  build/cpu/tests/sextant_machine_code trace --architecture gfx942 --json trace.json
  scripts/amd_table.py --traces trace.json [...] --write docs/amd.md build/release/src/devices/hip/*_gfx*.co
  scripts/amd_table.py --traces trace.json [...] --softcap build/release/src/devices/hip/forward_gfx*.co
  scripts/amd_table.py --peers                                            # what is installed of AITER and Triton

--check fails on a spill to memory, on scratch, on fewer waves a SIMD than the kernel is meant for, and on missing matrix
instructions. Needs llvm-readelf and llvm-objdump (Debian: llvm-19, llvm-22); --write also llvm-mca.

Units: q is four clocks, what a SIMD of 16 lanes needs for one vector instruction of a wave of 64, and what llvm-mca counts in. --traces gives
the instructions that a wave executed for one tile (the interpreter's record); without them a kernel has no figures of its loop.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Kernel name: waves a SIMD that it is meant for.
INTENDED_WAVES = {"decode_": 2, "forward_bf16_256": 1, "forward_f16_256": 1, "forward_": 2, "tile_attention_": 1,
                  "mla_ahead_": 1, "mla_attention_": 1, "sextant_gemm_f32": 1, "sextant_": 2}  # the first that fits
MOVED_REGISTERS = 8
LDS_BYTES = {"gfx90a": 64 << 10, "gfx942": 64 << 10, "gfx950": 160 << 10}
# Vector instructions that take four times as long as others: transcendental ones and 32-bit integer products.
SLOW = r"v_(exp|log|rcp|rsq|sqrt|mul_lo_u32|mul_hi_[ui]32|mad_u64_u32|mad_i64_i32)"
SLOW_EXTRA_Q = 3  # llvm-mca takes them at full rate
BEGIN, END = "<!-- table: scripts/amd_table.py -->\n", "<!-- end of table -->\n"


def mfma_q(text, arch):
    """Of a matrix instruction; None: it is none. From the dense rates that AMD publishes for the chips."""
    shape = re.match(r"v_mfma_f32_(\d+)x\d+x(\d+)_?(\w+)", text)
    if not shape:
        return None
    rows, k, kind = int(shape.group(1)), int(shape.group(2)), shape.group(3)
    products = rows * rows * k
    if kind.startswith("f32"):
        a_q = 128
    elif kind.startswith(("fp8", "bf8", "_fp8")):
        a_q = {"gfx942": 2048, "gfx950": 4096}.get(arch, 1024)
    else:
        a_q = {"gfx90a": 512, "gfx942": 1024, "gfx950": 2048}[arch]
    return products / a_q


def find_tool(name, arch):
    newer = arch == "gfx950" or name == "llvm-mca"  # 19's model crashes on loops with 32x32 products
    for version in ("22", "19") if newer else ("19", "22"):
        tool = shutil.which(f"{name}-{version}")
        if tool:
            return tool
    return shutil.which(name) or sys.exit(f"amd_table: {name} was not found; scripts/install_packages hip installs it")


def run(*command, text_in=None, timeout=60):
    done = subprocess.run(command, input=text_in, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        sys.exit(f"amd_table: {' '.join(command[:3])} failed: {done.stderr.strip()[:400]}")
    return done.stdout


class Kernel:
    def __init__(self, arch, fields):
        self.arch, self.name = arch, fields["symbol"].removesuffix(".kd")
        self.vgprs, self.agprs = int(fields["vgpr_count"]), int(fields.get("agpr_count", 0))  # vgpr_count holds both kinds
        self.sgprs, self.lds = int(fields["sgpr_count"]), int(fields["group_segment_fixed_size"])
        self.scratch = int(fields["private_segment_fixed_size"])
        self.vgpr_spills, self.sgpr_spills = int(fields.get("vgpr_spill_count", 0)), int(fields.get("sgpr_spill_count", 0))
        self.threads = int(fields["max_flat_workgroup_size"])
        self.code = []  # (address, text, branch target or None)

    def waves_per_simd(self):
        by_registers = 512 // ((self.vgprs + 7) // 8 * 8)
        by_lds = LDS_BYTES[self.arch] // self.lds * (self.threads // 64) / 4 if self.lds else 8
        return min(8, by_registers, by_lds)

    def count(self, pattern, code=None):
        return sum(1 for _, text, _ in (self.code if code is None else code) if re.match(pattern, text))

    def main_loop(self):
        """The loop with the most matrix instructions, and the shortest of those."""
        best, best_key = [], (0, 0)
        for address, _, target in self.code:
            if target is not None and target < address:
                body = [line for line in self.code if target <= line[0] <= address]
                key = (self.count("v_mfma", body), -len(body))
                if key > best_key and key[0] > 0:
                    best, best_key = body, key
        return best


def read_kernels(path, arch=None):
    arch = arch or re.search(r"_(gfx\w+)\.co$", path.name).group(1)
    notes = run(find_tool("llvm-readelf", arch), "--notes", str(path))
    kernels = {}
    # A kernel's entry starts with "  - ." and its own fields are indented by four; those of its arguments by more.
    for entry in re.split(r"^  - ", notes.split("amdhsa.kernels:", 1)[1].split("amdhsa.target", 1)[0], flags=re.M)[1:]:
        fields = dict(re.findall(r"^(?:    )?\.(\w+): +'?([^\s']+)'?$", entry, flags=re.M))
        if "symbol" not in fields:
            continue
        kernel = Kernel(arch, fields)
        kernels[kernel.name] = kernel
    lines = run(find_tool("llvm-objdump", arch), "-d", str(path)).splitlines()
    headers = [re.match(r"([0-9a-f]+) <([^>]+)>:", line) for line in lines]
    labels = {header.group(2): int(header.group(1), 16) for header in headers if header}  # kernels, and labels of assembly
    current = None
    for line, header in zip(lines, headers):
        if header:
            current = kernels.get(header.group(2), current)
            continue
        body = re.match(r"\t(.+?)\s*// ([0-9A-F]+):", line)
        if not body or current is None:
            continue
        text, target = body.group(1), None
        place = re.search(r"<([^>+]+)(?:\+0x([0-9a-f]+))?>\s*$", line) or re.match(r"s_c?branch\S* (\w+)()", text)
        if place and place.group(1) in labels:
            target = labels[place.group(1)] + int(place.group(2) or "0", 16)
        current.code.append((int(body.group(2), 16), text, target))
    return list(kernels.values())


def intended_waves(name):
    return next(waves for prefix, waves in INTENDED_WAVES.items() if name.startswith(prefix))


def faults(kernel):
    found = []
    # Spills without scratch are moves to accumulation registers: a few of them, once a tile or less, in the D 256 kernels.
    allowed = MOVED_REGISTERS if kernel.scratch == 0 and "256" in kernel.name else 0
    if kernel.vgpr_spills > allowed:
        found.append(f"{kernel.vgpr_spills} vector registers spilled; allowed: {allowed}")
    if kernel.scratch or kernel.count("scratch_"):
        found.append(f"{kernel.scratch} bytes of scratch; allowed: 0")
    if kernel.lds > LDS_BYTES[kernel.arch]:
        found.append(f"{kernel.lds} bytes of LDS; allowed: {LDS_BYTES[kernel.arch]}")
    if kernel.waves_per_simd() < intended_waves(kernel.name):
        found.append(f"{kernel.waves_per_simd():g} waves a SIMD; intended: {intended_waves(kernel.name)}")
    if re.search("attention|gemm|decode|forward", kernel.name):
        kind = re.search(r"_(bf16|f16|f32)", kernel.name).group(1)
        shape = "16x16x4" if kind == "f32" else "(16x16x32|32x32x16)" if kernel.arch == "gfx950" else "(16x16x16|32x32x8)"
        expected = f"v_mfma_f32_{shape}_?{kind}"
        if not kernel.count(expected):
            found.append(f"no matrix instruction {expected}")
    return found


class Way:
    """Instructions in the order of execution, counted."""

    def __init__(self, texts, arch):
        self.texts, self.arch = texts, arch
        self.instructions = len(texts)
        products = [q for q in (mfma_q(text, arch) for text in texts) if q is not None]
        self.mfma, self.mfma_q = len(products), sum(products)
        vector = [text for text in texts if text.startswith("v_") and not text.startswith("v_mfma")]
        self.exp = sum(1 for text in vector if text.startswith("v_exp"))
        self.slow = sum(1 for text in vector if re.match(SLOW, text))
        self.valu_q = len(vector) + SLOW_EXTRA_Q * self.slow
        waits = [text for text in texts if text.startswith("s_waitcnt")]
        self.waits, self.drains = len(waits), sum(1 for text in waits if "vmcnt(0)" in text)
        self.nops = sum(1 for text in texts if text.startswith("s_nop"))
        self.barriers = sum(1 for text in texts if text.startswith("s_barrier"))

    def predicted_share(self):
        """Of the time of one wave alone that its matrix instructions take, by llvm-mca; memory always in time."""
        if not self.mfma:
            return None
        # Branches and barriers have no cost in the model, and their operands do not parse without the code around them.
        text = "\n".join(t for t in self.texts if not re.match("s_(c?branch|barrier|setprio|endpgm|getpc|swappc)", t))
        try:
            report = run(find_tool("llvm-mca", self.arch), "-mtriple=amdgcn", f"-mcpu={self.arch}", "--iterations=1", "-",
                         text_in=text, timeout=60)
        except (subprocess.TimeoutExpired, SystemExit):  # the model crashes on some loops
            return None
        q = int(re.search(r"Total Cycles: +(\d+)", report).group(1)) + SLOW_EXTRA_Q * self.slow
        return min(1.0, self.mfma_q / q)


def way_of(kernel, traces, label=""):
    way = traces.get(kernel.arch, {}).get(kernel.name + label)
    if way is None:
        return None
    texts = {address: text for address, text, _ in kernel.code}
    return Way([texts[address] for address in way["way"]], kernel.arch)


def table(kernels, traces):
    rows = ["| kernel | chip | VGPRs (of them AGPRs) | SGPRs | LDS bytes | waves a SIMD | a tile: instructions | MFMA, their q | other vector q | "
            "waits, of them `vmcnt(0)`; barriers | predicted share of MFMA |",
            "|---|---|---|---|---|---|---|---|---|---|---|"]
    for k in sorted(kernels, key=lambda k: (k.name, k.arch)):
        way = way_of(k, traces)
        loop = ["-"] * 5
        if way is not None:
            share = way.predicted_share()
            loop = [str(way.instructions), f"{way.mfma}, {way.mfma_q:g}", str(way.valu_q), f"{way.waits}, {way.drains}; {way.barriers}",
                    "-" if share is None else f"{share:.2f}"]
        rows.append(f"| `{k.name}` | {k.arch} | {k.vgprs} ({k.agprs}) | {k.sgprs} | {k.lds} | {k.waves_per_simd():g} | " + " | ".join(loop) + " |")
    return "\n".join(rows) + "\n"


def print_labelled(kernels, traces, label):
    """The ways of `trace` with a label beside the kernels' usual ones."""
    print("| kernel | chip | instructions | with" + label + " | more | vector q | with" + label + " |\n|---|---|---|---|---|---|---|")
    for k in sorted(kernels, key=lambda k: (k.name, k.arch)):
        usual, other = way_of(k, traces), way_of(k, traces, label)
        if usual and other:
            more = 100 * (other.instructions / usual.instructions - 1)
            print(f"| `{k.name}` | {k.arch} | {usual.instructions} | {other.instructions} | {more:.1f} % | {usual.valu_q} | {other.valu_q} |")


# ---- other compilers, other people's kernels -----------------------------------------------------------------------

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "src/devices/hip/kernels"
FLAGS = ["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpuinc", "-nogpulib", "-O3", "-std=c++20", "-mcode-object-version=5"]
COMPILERS = {"clang++-19": ("gfx90a", "gfx942"), "clang++-22": ("gfx90a", "gfx942", "gfx950")}


# The longest to compile first, so that none is left alone at the end.
SLOWEST_FIRST = ["forward", "portable", "mla", "decode", "ops"]


def made_by(path, arch):
    """The compiler that made a code object, as COMPILERS names it."""
    version = re.search(r"clang version (\d+)", run(find_tool("llvm-readelf", arch), "-p", ".comment", str(path)))
    return f"clang++-{version.group(1)}" if version else None


def check_object(compiler, arch, source, folder):
    """What one compiler makes of one source for one chip: number of kernels, and their faults."""
    made, root = pathlib.Path(folder) / f"{compiler}_{source.stem}_{arch}.co", SOURCES.parents[3]
    run(compiler, f"--offload-arch={arch}", *FLAGS, f"-I{root / 'src'}", f"-I{root / 'include'}", str(source), "-o", str(made), timeout=3600)
    kernels = read_kernels(made, arch)
    return len(kernels), [f"{k.name} on {k.arch} by {compiler}: {fault}" for k in kernels for fault in faults(k)]


def check_compilers(objects):
    """The gates for what each compiler makes of each source: a list of what misses them. `objects`: made already, and
    judged by --check."""
    made = {(made_by(path, arch), arch, path.name.split("_")[0])
            for path in objects for arch in [re.search(r"_(gfx\w+)\.co$", path.name).group(1)]}
    left = []
    for compiler, archs in COMPILERS.items():
        if not shutil.which(compiler):
            print(f"{compiler} is not installed: skipped (scripts/install_packages hip)")
            continue
        left += [(compiler, arch, SOURCES / f"{kernels}_kernels.cpp") for kernels in SLOWEST_FIRST for arch in archs
                 if (compiler, arch, kernels) not in made]
    left.sort(key=lambda one: SLOWEST_FIRST.index(one[2].stem.removesuffix("_kernels")))
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda one: check_object(*one, folder), left))
    failed = [fault for _, one in found for fault in one]
    print("\n".join(failed) or f"{sum(count for count, _ in found)} kernels of {len(left)} objects by {', '.join(COMPILERS)}: "
          f"no spill, no scratch, budgets kept; {len(made)} objects were given")
    return failed


def peer_objects():
    """Code objects of attention kernels that lie in installed packages, and what Triton has compiled on this machine."""
    for package in ("aiter_meta", "aiter"):
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations or [] if spec else []:
            for path in sorted(pathlib.Path(root).rglob("*.co")):
                if re.search(r"/(fmha_v3_fwd|pa|mla)/", str(path)):
                    yield "AITER", path
    cache = pathlib.Path.home() / ".triton/cache"
    for path in sorted(cache.rglob("*.hsaco")) if cache.is_dir() else []:
        yield "Triton", path


def print_peers(folder):
    """The loop with the most matrix instructions of each: counted as it stands, both sides of every branch."""
    found = [("given", path) for path in sorted(pathlib.Path(folder).rglob("*.co"))] if folder else list(peer_objects())
    if not found:
        print("no code objects of AITER or Triton: pip install --pre amd-aiter, or run Triton kernels for gfx942 first")
    else:
        print("| whose | kernel | chip | VGPRs | LDS bytes | loop: instructions | MFMA, their q | other vector q | waits, of them `vmcnt(0)` |\n"
              "|---|---|---|---|---|---|---|---|---|")
    for whose, path in found:
        arch = re.search(r"gfx9\w\w", run(find_tool("llvm-readelf", "gfx942"), "--notes", str(path)) + str(path))
        if not arch or arch.group(0) not in LDS_BYTES:
            continue
        for kernel in read_kernels(path, arch.group(0)):
            way = Way([text for _, text, _ in kernel.main_loop()], kernel.arch)
            if way.mfma:
                print(f"| {whose} | `{kernel.name}` | {kernel.arch} | {kernel.vgprs} | {kernel.lds} | {way.instructions} | {way.mfma}, "
                      f"{way.mfma_q:g} | {way.valu_q} | {way.waits}, {way.drains} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a kernel misses its gates")
    parser.add_argument("--write", metavar="FILE", help="put the table between the markers in FILE")
    parser.add_argument("--traces", nargs="+", default=[], metavar="FILE", type=pathlib.Path,
                        help="what sextant_machine_code trace --json wrote, a file a chip")
    parser.add_argument("--compilers", action="store_true",
                        help="compile all sources by each compiler, but for what is among the objects; fail where a kernel misses its gates")
    parser.add_argument("--softcap", action="store_true", help="print the traced ways under a softcap beside the usual ones")
    parser.add_argument("--peers", nargs="?", const="", metavar="FOLDER", help="count the attention kernels of installed packages, or of FOLDER")
    parser.add_argument("objects", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.peers is not None:
        print_peers(arguments.peers)
    if arguments.compilers:
        assert sorted(SLOWEST_FIRST) == sorted(path.stem.removesuffix("_kernels") for path in SOURCES.glob("*_kernels.cpp"))
        sys.exit(1 if check_compilers(arguments.objects) else 0)
    traces = {}
    for path in arguments.traces:
        traces.update(json.loads(path.read_text()))
    kernels = [kernel for path in arguments.objects for kernel in read_kernels(path)]
    if arguments.softcap:
        print_labelled(kernels, traces, " softcap")
    if arguments.write:
        page = pathlib.Path(arguments.write)
        before, rest = page.read_text().split(BEGIN)
        page.write_text(before + BEGIN + table(kernels, traces) + END + rest.split(END)[1])
    failed = [f"{k.name} on {k.arch}: {fault}" for k in kernels for fault in faults(k)]
    if arguments.check:
        print("\n".join(failed) or f"{len(kernels)} kernels: no spill, no scratch, budgets kept, matrix instructions present")
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
