"""Loads the extension module."""

from __future__ import annotations

import os
from pathlib import Path

import tvm_ffi

import sextant.errors  # noqa: F401  (registers the exception classes before the first call)


def _find() -> Path:
    override = os.environ.get("SEXTANT_PYTHON_LIBRARY")  # a build folder's library, for development
    candidates = [Path(override)] if override else [Path(__file__).parent / "_sextant.so"]
    for path in candidates:
        if path.exists():
            return path
    raise ImportError(f"sextant's extension module is missing: no file at {candidates[0]}; reinstall with `pip install .`")


library = tvm_ffi.load_module(str(_find()))
