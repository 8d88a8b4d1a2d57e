"""Loads the extension module."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tvm_ffi

import sextant.errors  # noqa: F401  (registers the exception classes before the first call)


def installed(name: str) -> list[Path]:
    """Where an installation may have put a built file of the package: `pip install -e .` leaves the Python files in the repository."""
    package = sys.modules.get("sextant")
    folders = [Path(folder) for folder in getattr(package, "__path__", [])] + [Path(folder) / "sextant" for folder in sys.path if folder]
    return [folder / name for folder in dict.fromkeys(folders)]


def _find() -> Path:
    override = os.environ.get("SEXTANT_PYTHON_LIBRARY")  # a build folder's library, for development
    candidates = [Path(override)] if override else [Path(__file__).parent / "_sextant.so", *installed("_sextant.so")]
    for path in candidates:
        if path.exists():
            return path
    raise ImportError(f"sextant's extension module is missing: no file at {candidates[0]}; reinstall with `pip install .`")


library = tvm_ffi.load_module(str(_find()))


def _use_threads_of_environment() -> None:
    """OMP_NUM_THREADS, as every other library on the CPU takes it ("4", or "4,2" for nested levels)."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) >= 1:
        library["set_num_threads"](min(int(first), 4096))


_use_threads_of_environment()
