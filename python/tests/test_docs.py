"""The commands of docs/get-started, run as they stand.

In each page, `sh` and `python` blocks run in order in one empty folder that has the clone as `sextant`. A block after the comment
`<!-- run by FILE -->` is not repeated: its lines must stand in that script. `cpp` blocks are excerpts: their lines must stand in examples/.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import ROOT, smollm2

PAGES = ROOT / "docs" / "get-started"
BLOCK = re.compile(r"(?:<!-- run by (?P<script>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)
NEEDS = {
    "torch": "pip install torch",
    "transformers": "pip install transformers accelerate gguf",
    "accelerate": "pip install accelerate",
    "vllm": "see docs/get-started/vllm.md",
    "plotly": "pip install plotly",
}


def blocks(page: str) -> list:
    return [(m["kind"], m["text"], m["script"]) for m in BLOCK.finditer((PAGES / page).read_text())]


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
    for kind, text, script in blocks(page):
        if script:
            known = (ROOT / script).read_text()
            assert all(line in known for line in lines(text)), f"{page}: {script} does not run {text}"
        elif kind == "cpp":
            known = "\n".join(p.read_text() for p in (ROOT / "examples").glob("*.cpp"))
            assert all(line in known for line in lines(text)), f"{page}: not in examples/: {text}"
        elif kind in ("sh", "python"):
            command = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
            done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{page}:\n{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            output.append(done.stdout)
    return "\n".join(output)


def test_every_page_is_tested():
    assert {p.name for p in PAGES.glob("*.md")} == {"cpp.md", "python.md", "transformers.md", "vllm.md"}


def test_cpp(tmp_path):
    build = Path(os.environ.get("SEXTANT_BUILD", ROOT / "build" / "release"))
    if not (build / "CMakeCache.txt").exists():
        pytest.skip(f"needs a build: no CMakeCache.txt in {build}; run scripts/test, or set SEXTANT_BUILD")
    assert "ROCM_AITER_UNIFIED_ATTN" in run_page("cpp.md", tmp_path, SEXTANT_BUILD=str(build))


def test_python(tmp_path):
    need("torch", "plotly")
    assert "report.html" in run_page("python.md", tmp_path)


def test_transformers(tmp_path):
    need("torch", "transformers", "accelerate")
    assert "the same text" in run_page("transformers.md", tmp_path, GGUF=str(smollm2()))


def test_vllm(tmp_path):
    need("vllm", "accelerate")
    output = run_page("vllm.md", tmp_path, GGUF=str(smollm2()))
    assert '"choices"' in output and "ROCM_AITER_FA" in output
