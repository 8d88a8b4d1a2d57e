"""The `sextant` command: `sextant report` is Python, every other verb is the C++ tool inside the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

_HELP = """
Also in the Python package:
  report                      One page of figures from the JSON of bench, replay and bench/peers (sextant report --help)
"""


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["report"]:
        from sextant.report import main as report

        return report(arguments[1:])
    tool = _tool()
    if tool is None:
        print(f"sextant: the tool is missing at {_beside()}; reinstall with `pip install .`", file=sys.stderr)
        return 1
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        status = subprocess.run([str(tool), *arguments]).returncode
        print(_HELP, end="", flush=True)
        return status
    os.execv(tool, [str(tool), *arguments])
    return 0


def _beside() -> Path:
    return Path(__file__).parent / "bin" / "sextant"


def _tool() -> Optional[Path]:
    """The tool of this installation: beside this file, or in site-packages where an editable install keeps what was built."""
    from sextant._library import installed

    return next((path for path in (_beside(), *installed("bin/sextant")) if path.exists()), None)
