"""docs/json.md and what the tool prints name the same keys."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from models import ROOT

import sextant

PAGE = (ROOT / "docs" / "json.md").read_text()
COMMANDS = {
    "backends": [],
    "select": ["--model", "gpt-oss-20b"],
    "size": ["--model", "gpt-oss-20b", "--memory", "80G"],
    "bench": ["--model", "DeepSeek-V3", "--batch", "q8", "--seconds", "0.01", "--device", "cpu"],
    "replay": ["--requests", "2", "--model", "Llama-3.1-8B", "--device", "cpu"],
    "verify": ["--reduced", "--backends", "TRITON_ATTN", "--device", "cpu"],
    "doctor": [],
}
MAPS = ("features_by_device", "caches_bytes")  # whose keys are data


def keys_of(value) -> set:
    if isinstance(value, dict):
        return set(value).union(*(keys_of(inner) for key, inner in value.items() if key not in MAPS))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def verb(request):
    tool = Path(sextant.__file__).parent / "bin" / "sextant"
    if not tool.exists():
        pytest.skip("needs the tool inside the package: pip install .")
    done = subprocess.run([tool, request.param, *COMMANDS[request.param], "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    section = re.search(rf"## `sextant {request.param} --json`\n(.*?)(?=\n## |\Z)", PAGE, re.S)[1]
    return keys_of(json.loads(done.stdout)), section


def test_documented_keys_are_there(verb):
    printed, section = verb
    named = re.findall(r"^(?:\||-) ((?:`\w+`(?:, )?)+)(?: \||:)", section, re.M)
    documented = {key for cell in named for key in re.findall(r"`(\w+)`", cell)}
    assert documented and documented <= printed, documented - printed


def test_printed_keys_are_documented(verb):
    printed, _ = verb
    assert {key for key in printed if not re.search(rf"\b{re.escape(key)}\b", PAGE)} == set()
