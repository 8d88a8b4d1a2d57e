"""Writes generated files under docs/, or says with --check which are out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def write_all(folder: str, files: dict[str, str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    stale = [DOCS / folder / name for name, text in files.items() if not (DOCS / folder / name).exists() or (DOCS / folder / name).read_text() != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(DOCS.parent)} is out of date: run python3 {sys.argv[0]}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path.name])
    return 1 if check and stale else 0
