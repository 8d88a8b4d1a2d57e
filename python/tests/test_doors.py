"""The list of bad runs through torch's doors: refused like NumPy's, with nothing written."""

import numpy as np
import pytest
from bad_runs import BAD_RUNS, IDS, arguments
from test_api import CACHE, MHA, SPEC, Step

import sextant

torch = pytest.importorskip("torch")
sextant_torch = pytest.importorskip("sextant.torch")


def as_tensors(given):
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in given.items()}


def custom_op(plan, given):
    sextant_torch.run(plan, **given)


def plan_run(plan, given):
    plan.run(**given)


def planned(backend, step):
    return sextant_torch.plan(
        backend, SPEC, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, slot_mapping=step.new_slots, lse_out=True
    )


@pytest.mark.parametrize("door", [custom_op, plan_run])
@pytest.mark.parametrize(("what", "changes", "message"), BAD_RUNS, ids=IDS)
def test_refused_with_nothing_written(what, changes, message, door):
    if door is custom_op and what == "no out":
        return  # it makes one
    step = Step()
    given = as_tensors(arguments(step, changes))
    written = [given[name] for name in ("out", "lse", "k_cache", "v_cache") if name not in changes]
    before = [tensor.clone() for tensor in written]
    for backend in MHA:
        with pytest.raises(sextant.SextantInvalidArgument, match=message):
            door(planned(backend, step), given)
        for tensor, was in zip(written, before):
            assert torch.equal(tensor.view(torch.int32), was.view(torch.int32)), what


@pytest.mark.parametrize("backend", MHA)
def test_without_slots_keys_come_from_the_cache(backend):
    step = Step()
    plan = planned(backend, step)
    given = as_tensors(step.arguments())
    expected = sextant_torch.run(plan, **given).clone()
    given.update(k=None, v=None, slot_mapping=None)
    given["out"].fill_(float("nan"))
    torch.testing.assert_close(sextant_torch.run(plan, **given), expected)
    with pytest.raises(sextant.SextantInvalidArgument, match="out is None without v, which tells its type and size"):
        sextant_torch.run(plan, **{**given, "out": None})
