"""The commands of the pages that a user follows, run as they stand.

In each page, `sh` and `python` blocks run in order in one empty folder that has the clone as `sextant`. A comment before a block changes that:
`<!-- run by FILE -->`: not repeated here, its lines must stand in that script; `<!-- run in a clone -->`: what it says;
`<!-- smaller: --batch q64 -->`: with this value of the option, because the page's would take minutes.
`cpp` blocks are excerpts: their lines must stand in examples/.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import ROOT, smollm2

PAGES = ROOT / "docs"
BLOCK = re.compile(r"(?:<!-- (?P<how>run by|run in a|smaller:) (?P<what>[^\n]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)
NEEDS = {
    "torch": "pip install torch",
    "transformers": "pip install transformers accelerate gguf",
    "accelerate": "pip install accelerate",
    "vllm": "see docs/get-started/vllm.md",
    "vl_convert": "pip install vl-convert-python",
}


def blocks(page: str) -> list:
    return [(m["kind"], m["text"], m["how"], m["what"]) for m in BLOCK.finditer((PAGES / page).read_text())]


def smaller(text: str, option: str) -> str:
    name, value = option.split()
    made, count = re.subn(rf"{name} \S+", f"{name} {value}", text)
    assert count == 1, f"{option} belongs to no option of {text}"
    return made


def expect_lines(page: str, text: str, files: list) -> None:
    known = "\n".join(path.read_text() for path in files)
    missing = [line for line in lines(text) if line not in known]
    assert not missing, f"{page}: not in {', '.join(path.name for path in files)}: {missing}"


def need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: {NEEDS[module]}")


def lines(text: str) -> list:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def run_page(page: str, folder: Path, **environment: str) -> str:
    """Runs the page's blocks; gives their output."""
    (folder / "sextant").symlink_to(ROOT)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = []
    for kind, text, how, what in blocks(page):
        if how == "run by":
            expect_lines(page, text, [ROOT / what])
        elif kind == "cpp":
            expect_lines(page, text, list((ROOT / "examples").glob("*.cpp")))
        elif kind in ("sh", "python"):
            if how == "smaller:":
                text = smaller(text, what)
            command = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
            done = subprocess.run(command, cwd=ROOT if how == "run in a" else folder, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{page}:\n{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            output.append(done.stdout)
    return "\n".join(output)


def test_every_page_is_tested():
    assert {p.name for p in (PAGES / "get-started").glob("*.md")} == {"cpp.md", "python.md", "sglang.md", "transformers.md", "vllm.md"}
    assert {p.name for p in (PAGES / "compare").glob("*.md")} == {"mha.md", "mla.md"}


def build_folder() -> str:
    build = Path(os.environ.get("SEXTANT_BUILD", ROOT / "build" / "release"))
    if not (build / "CMakeCache.txt").exists():
        pytest.skip(f"needs a build: no CMakeCache.txt in {build}; run scripts/test, or set SEXTANT_BUILD")
    return str(build)


def test_readme():
    """Its examples are excerpts, and its two commands are those of the start page."""
    for match in BLOCK.finditer((ROOT / "README.md").read_text()):
        if match["kind"] == "sh":
            expect_lines("README.md", re.sub(r" +#.*", "", match["text"]), [PAGES / "index.md"])
        else:
            text = re.sub(r" +//.*", "", match["text"])
            expect_lines("README.md", text, [ROOT / "examples" / "decode_step.cpp", PAGES / "get-started" / "python.md"])
    assert len((ROOT / "README.md").read_text().splitlines()) < 100


# Figures and logs whose rows are wider, and the promises, whose rows name tests.
WIDE_PAGES = {"amd.md", "contract.md", "performance-cpu.md", "performance-cuda.md", "verification.md", "dev/gpu-log.md"}


def test_lines_are_short():
    pages = [ROOT / "README.md", *(path for path in PAGES.rglob("*.md") if str(path.relative_to(PAGES)) not in WIDE_PAGES)]
    long = [f"{path.name}: {line}" for path in pages for line in path.read_text().splitlines() if len(line) > 120]
    assert not long, "\n".join(long)


def test_start(tmp_path):
    assert "all backends agree" in run_page("index.md", tmp_path, SEXTANT_BUILD=build_folder())


@pytest.mark.parametrize("page", ["choose.md", "compare/mha.md", "compare/mla.md", "tool.md"])
def test_tool_pages(page, tmp_path):
    assert run_page(page, tmp_path)


def test_cpp(tmp_path):
    assert "ROCM_AITER_UNIFIED_ATTN" in run_page("get-started/cpp.md", tmp_path, SEXTANT_BUILD=build_folder())


def test_python(tmp_path):
    need("torch", "vl_convert")
    assert "report.html" in run_page("get-started/python.md", tmp_path)


def test_transformers(tmp_path):
    need("torch", "transformers", "accelerate")
    assert "the same text" in run_page("get-started/transformers.md", tmp_path, GGUF=str(smollm2()))


def test_vllm(tmp_path):
    need("vllm", "accelerate")
    output = run_page("get-started/vllm.md", tmp_path, GGUF=str(smollm2()))
    assert '"choices"' in output and "ROCM_AITER_FA" in output
