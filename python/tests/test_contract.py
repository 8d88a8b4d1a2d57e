"""What docs/contract.md promises, at Python's door."""

import dataclasses
import inspect
import json

import numpy as np
import pytest

import sextant
from sextant._library import library
from bad_runs import BAD_RUNS, arguments
from test_api import CACHE, MHA, SPEC, Step, reference

DEVICES = ("cpu", "hip-emulated")


def test_signatures_are_the_librarys_fields():
    """Names and defaults of the C++ structs; what has no default there (0 or an empty shape) may be required here."""
    known = json.loads(library["fields"]())
    for name, described in (("spec", sextant.AttentionSpec), ("cache", sextant.KvCacheSpec)):
        fields = {f.name: f.default for f in dataclasses.fields(described)}
        assert set(fields) == set(known[name])
        for field, default in fields.items():
            if default is not dataclasses.MISSING and field != "layout":  # "preferred": a backend's own
                assert default == known[name][field], field
    parameters = inspect.signature(sextant.plan).parameters
    for field, default in known["options"].items():
        assert parameters[field].default == default, field


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", MHA)
def test_without_slots_keys_come_from_the_cache(backend, device):
    step = Step()
    plan = step.plan(backend, lse_out=True, device=device)
    step.run(plan)
    expected = step.out.copy()
    step.out[:] = np.nan
    step.run(plan, k=None, v=None, slot_mapping=None)
    np.testing.assert_allclose(step.out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", MHA)
def test_lengths_are_those_of_the_run(backend, device):
    step = Step()
    plan = sextant.plan(backend, SPEC, CACHE, query_start_loc=[0, 3], seq_lens=[4], block_table=step.table, device=device, max_query_len=3, max_seq_len=12)
    step.run(plan, lse=None)
    np.testing.assert_allclose(step.out, reference(step.q, step.k, step.v, 0.35), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", MHA)
def test_refused_means_nothing_written(backend, device):
    step = Step()
    plan = step.plan(backend, lse_out=True, device=device)
    before = step.k_cache.copy(), step.v_cache.copy()
    for what, changes, message in BAD_RUNS:
        with pytest.raises(sextant.SextantInvalidArgument, match=message):
            plan.run(**arguments(step, changes))
        np.testing.assert_array_equal(step.k_cache, before[0], err_msg=what)
        np.testing.assert_array_equal(step.v_cache, before[1], err_msg=what)
        assert np.isnan(step.out).all() and np.isnan(step.lse).all(), what


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", MHA)
def test_windows_to_both_sides(backend, device):
    step = Step()
    spec = dataclasses.replace(SPEC, causal=False, window_left=4, window_right=1)
    plan = sextant.plan(backend, spec, CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, device=device)
    step.run(plan, lse=None)
    expected = np.zeros_like(step.out)
    for i in range(3):
        seen = slice(max(0, 8 + i - 4), min(11, 8 + i + 2))
        for h in range(4):
            p = np.exp(step.k[seen, h // 2].astype(np.float64) @ step.q[i, h] * 0.35)
            expected[i, h] = p / p.sum() @ step.v[seen, h // 2]
    np.testing.assert_allclose(step.out, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(sextant.SextantInvalidArgument, match="sliding_window is 4 and causal false; allowed: 0, with window_left and window_right"):
        step.plan(backend) and sextant.plan(backend, dataclasses.replace(SPEC, causal=False, sliding_window=4), CACHE, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table)


@pytest.mark.parametrize("backend", MHA)
def test_fewer_keys_than_queries(backend):
    step = Step()
    plan = sextant.plan(backend, SPEC, CACHE, query_start_loc=[0, 3], seq_lens=[1], block_table=step.table, lse_out=True)
    step.run(plan, seq_lens=np.array([1], np.int32), k=None, v=None, slot_mapping=None)
    assert (step.out[:2] == 0).all() and (step.lse[:, :2] == -np.inf).all()
    np.testing.assert_allclose(step.out[2], np.repeat(step.v[0], 2, axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", MHA)
def test_int8_cache_with_a_scale_a_token_and_head(backend, device):
    step = Step()
    cache = dataclasses.replace(CACHE, dtype="int8", scales="token_head")
    k_cache, v_cache = np.zeros((4, 4, 2, 8), np.int8), np.zeros((4, 4, 2, 8), np.int8)
    k_scale, v_scale = (np.full((4, 4, 2), np.nan, np.float32) for _ in range(2))
    slots = step.table[0][np.arange(8) // 4].astype(np.int64) * 4 + np.arange(8) % 4
    sextant.reshape_and_cache(step.k[:8], step.v[:8], slots, k_cache, v_cache, cache, k_scale=k_scale, v_scale=v_scale)
    plan = sextant.plan(backend, SPEC, cache, query_start_loc=[0, 3], seq_lens=[11], block_table=step.table, device=device)
    step.run(plan, lse=None, k_cache=k_cache, v_cache=v_cache, k_scale=k_scale, v_scale=v_scale)

    def stored(rows):
        scale = np.maximum(np.abs(rows).max(axis=-1, keepdims=True) / 127, 1e-6)
        return np.round(rows / scale).clip(-128, 127) * scale

    np.testing.assert_allclose(step.out, reference(step.q, stored(step.k), stored(step.v), 0.35), rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(k_scale[2, 1], np.abs(step.k[1]).max(axis=-1) / 127, rtol=1e-6)
    with pytest.raises(sextant.SextantInvalidArgument, match="k_scale has 1 elements; allowed: at least 32"):
        step.run(plan, lse=None, k_cache=k_cache, v_cache=v_cache, k_scale=np.ones(1, np.float32), v_scale=v_scale)
