#!/usr/bin/env python3
"""What the compiler made of the HIP kernels: gates for CI, and the table of docs/amd.md.

  scripts/amd_table.py --check build/release/src/devices/hip/*_gfx*.co
  scripts/amd_table.py --write docs/amd.md build/release/src/devices/hip/*_gfx*.co

--check fails on a spill to memory, on scratch, on fewer waves a SIMD than the kernel is meant for, and on missing matrix
instructions. Needs llvm-readelf and llvm-objdump (Debian: llvm-19, llvm-22); --write also llvm-mca.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

# Kernel name: waves a SIMD that it is meant for.
INTENDED_WAVES = {"decode_": 2, "forward_": 2, "tile_attention_": 1, "mla_attention_": 1, "sextant_": 2}
LDS_BYTES = {"gfx90a": 64 << 10, "gfx942": 64 << 10, "gfx950": 160 << 10}
# Cycles of a SIMD that a matrix instruction takes, from the dense rates that AMD publishes.
MFMA_CYCLES = {
    "gfx90a": {"16x16x16": 32, "16x16x4": 32},
    "gfx942": {"16x16x16": 16, "16x16x4": 32},
    "gfx950": {"16x16x16": 16, "16x16x32": 16, "16x16x4": 32},
}
EXP_EXTRA_CYCLES = 12  # llvm-mca takes v_exp at full rate; it runs at a quarter
BEGIN, END = "<!-- table: scripts/amd_table.py -->\n", "<!-- end of table -->\n"


def find_tool(name, arch):
    for version in ("22", "19") if arch == "gfx950" else ("19", "22"):
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
        self.arch, self.name = arch, fields["name"]
        self.vgprs, self.agprs = int(fields["vgpr_count"]), int(fields["agpr_count"])  # vgpr_count holds both kinds
        self.sgprs, self.lds = int(fields["sgpr_count"]), int(fields["group_segment_fixed_size"])
        self.scratch = int(fields["private_segment_fixed_size"])
        self.vgpr_spills, self.sgpr_spills = int(fields["vgpr_spill_count"]), int(fields["sgpr_spill_count"])
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


def read_kernels(path):
    arch = re.search(r"_(gfx\w+)\.co$", path.name).group(1)
    notes = run(find_tool("llvm-readelf", arch), "--notes", str(path))
    kernels = {}
    # A kernel's entry starts with "  - ." and its own fields are indented by four; those of its arguments by more.
    for entry in re.split(r"^  - ", notes.split("amdhsa.kernels:", 1)[1].split("amdhsa.target", 1)[0], flags=re.M)[1:]:
        fields = dict(re.findall(r"^(?:    )?\.(\w+): +(\S+)$", entry, flags=re.M))
        kernels[fields["name"]] = Kernel(arch, fields)
    current = None
    for line in run(find_tool("llvm-objdump", arch), "-d", str(path)).splitlines():
        header = re.match(r"[0-9a-f]+ <(\w+)>:", line)
        if header:
            current = kernels.get(header.group(1))
            start = int(line.split()[0], 16)
            continue
        body = re.match(r"\t(.+?)\s*// ([0-9A-F]+):", line)
        if not body or current is None:
            continue
        target = re.search(r"<\w+\+0x([0-9a-f]+)>", line)
        current.code.append((int(body.group(2), 16), body.group(1), start + int(target.group(1), 16) if target else None))
    return list(kernels.values())


def intended_waves(name):
    return next(waves for prefix, waves in INTENDED_WAVES.items() if name.startswith(prefix))


def faults(kernel):
    found = []
    if kernel.vgpr_spills:
        found.append(f"{kernel.vgpr_spills} vector registers spilled; allowed: 0")
    if kernel.scratch or kernel.count("scratch_|buffer_(load|store)"):
        found.append(f"{kernel.scratch} bytes of scratch; allowed: 0")
    if kernel.lds > LDS_BYTES[kernel.arch]:
        found.append(f"{kernel.lds} bytes of LDS; allowed: {LDS_BYTES[kernel.arch]}")
    if kernel.waves_per_simd() < intended_waves(kernel.name):
        found.append(f"{kernel.waves_per_simd():g} waves a SIMD; intended: {intended_waves(kernel.name)}")
    if re.search("attention|gemm|decode|forward", kernel.name):
        kind = re.search(r"_(bf16|f16|f32)", kernel.name).group(1)
        shape = "16x16x4" if kind == "f32" else "16x16x32" if kernel.arch == "gfx950" else "16x16x16"
        expected = f"v_mfma_f32_{shape}_?{kind}"
        if not kernel.count(expected):
            found.append(f"no matrix instruction {expected}")
    return found


def predicted_fraction(kernel):
    loop = kernel.main_loop()
    if not loop:
        return None
    busy = 0
    for _, text, _ in loop:
        shape = re.match(r"v_mfma_f32_(\d+x\d+x\d+)", text)
        if shape:
            busy += MFMA_CYCLES[kernel.arch][shape.group(1)]
    # Branches and barriers have no cost in the model, and their operands do not parse without the code around them.
    text = "\n".join(line[1] for line in loop if not re.match("s_(c?branch|barrier|setprio|endpgm|getpc|swappc)", line[1]))
    try:
        report = run(find_tool("llvm-mca", kernel.arch), "-mtriple=amdgcn", f"-mcpu={kernel.arch}", "--iterations=1", "-",
                     text_in=text, timeout=5)
    except subprocess.TimeoutExpired:
        return None  # some loops, taken out of the code around them, stall the model for ever
    cycles = int(re.search(r"Total Cycles: +(\d+)", report).group(1))
    cycles += EXP_EXTRA_CYCLES * kernel.count("v_exp_f32", loop)
    return busy / max(cycles, busy)


def table(kernels):
    rows = ["| kernel | chip | VGPRs (of them AGPRs) | SGPRs | LDS bytes | waves a SIMD | MFMA, in the loop | exp in the loop "
            "| predicted fraction of the MFMA bound |",
            "|---|---|---|---|---|---|---|---|---|"]
    for k in sorted(kernels, key=lambda k: (k.name, k.arch)):
        fraction = predicted_fraction(k)
        loop = k.main_loop()
        rows.append(f"| `{k.name}` | {k.arch} | {k.vgprs} ({k.agprs}) | {k.sgprs} | {k.lds} | {k.waves_per_simd():g} | "
                    f"{k.count('v_mfma')}, {k.count('v_mfma', loop)} | {k.count('v_exp_f32', loop)} | "
                    f"{'-' if fraction is None else f'{fraction:.2f}'} |")
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a kernel misses its gates")
    parser.add_argument("--write", metavar="FILE", help="put the table between the markers in FILE")
    parser.add_argument("objects", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    kernels = [kernel for path in arguments.objects for kernel in read_kernels(path)]
    if arguments.write:
        page = pathlib.Path(arguments.write)
        before, rest = page.read_text().split(BEGIN)
        page.write_text(before + BEGIN + table(kernels) + END + rest.split(END)[1])
    failed = [f"{k.name} on {k.arch}: {fault}" for k in kernels for fault in faults(k)]
    if arguments.check:
        print("\n".join(failed) or f"{len(kernels)} kernels: no spill, no scratch, budgets kept, matrix instructions present")
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
