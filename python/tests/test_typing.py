"""py.typed is kept: a client's program passes `mypy --strict`, and mistakes in one are found."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sextant

CLIENT = Path(__file__).with_name("typed_client.py")


def mypy(folder: Path, program: Path) -> str:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy: pip install mypy")
    # The package as the tests run it, installed or from the sources.
    environment = {**os.environ, "MYPYPATH": str(Path(sextant.__file__).parents[1])} if "site-packages" not in sextant.__file__ else dict(os.environ)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache"), str(program)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


def test_a_clients_program_is_typed(tmp_path):
    assert mypy(tmp_path, CLIENT) == ""
    done = subprocess.run([sys.executable, str(CLIENT)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["3.0", "invalid_argument"]


def test_mistakes_are_found(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import sextant\n"
        'spec = sextant.AttentionSpec(num_heads="4", num_kv_heads=2, head_dim=8, softmax_scale=0.35)\n'
        "cache = sextant.KvCacheSpec(4, 4, 2, 8)\n"
        "plan = sextant.plan('TRITON_ATTN', spec, cache, query_start_loc=[0, 1], seq_lens=[1], block_tables=[[2]])\n"
        "plan.run(q=[1.0])\n"
        "plan.steps.nothing\n"
    )
    found = mypy(tmp_path, wrong)
    for line in ("wrong.py:2: error", "wrong.py:4: error", "wrong.py:5: error", "wrong.py:6: error"):
        assert line in found, found


@pytest.mark.parametrize("name", sextant.__all__)
def test_everything_public_is_documented(name):
    """Classes and functions say what they take; the ones that can refuse say how."""
    thing = getattr(sextant, name)
    assert thing.__doc__, name
    if callable(thing) and not isinstance(thing, type) and name not in ("devices", "backends", "get_num_threads"):
        assert "Raises" in thing.__doc__, name
