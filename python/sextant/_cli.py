"""The `sextant` command: `sextant report` is Python, every other verb is the C++ tool inside the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["report"]:
        from sextant.report import main as report

        return report(arguments[1:])
    tool = Path(__file__).parent / "bin" / "sextant"
    if not tool.exists():
        print(f"sextant: the tool is missing at {tool}; reinstall with `pip install .`", file=sys.stderr)
        return 1
    os.execv(tool, [str(tool), *arguments])
    return 0
