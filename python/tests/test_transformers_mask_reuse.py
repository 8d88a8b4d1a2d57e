"""A mask is read once for the layers of a step, and again where it or the call differs."""

import contextlib

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import sextant._transformers_mask as masks  # noqa: E402
import sextant.transformers as st  # noqa: E402

MODES = [contextlib.nullcontext, torch.inference_mode]


@pytest.fixture
def reads(monkeypatch):
    """Masks that were looked at key by key."""
    seen, look = [], masks._visible
    monkeypatch.setattr(masks, "_visible", lambda *a: seen.append(a[0]) or look(*a))
    return seen


def causal(queries=6):
    return torch.ones(1, 1, queries, queries, dtype=torch.bool).tril().repeat(2, 1, 1, 1)


def attend(mask, queries=6, **arguments):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, heads, queries, 16, generator=generator) for heads in (4, 2, 2))
    return st._forward("ROCM_AITER_FA", torch.nn.Module(), q, k, v, mask, **arguments)[0]


@pytest.mark.parametrize("mode", MODES)
def test_once_a_step(reads, mode):
    with mode():
        mask = causal()
        assert torch.equal(attend(mask), attend(mask))
    assert len(reads) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_that_was_changed_is_read_again(reads, mode):
    with mode():
        mask = causal()
        attend(mask)
        mask[:, :, :, 0] = False
        torch.testing.assert_close(attend(mask), attend(mask.clone()))
    assert len(reads) == 3


@pytest.mark.parametrize("mode", MODES)
def test_layers_with_other_windows_share_a_padding_mask(mode):
    """[B, Sk] says nothing of windows and causality: those are the call's."""
    with mode():
        mask = torch.ones(2, 6, dtype=torch.long)
        for arguments in ({}, {"sliding_window": 2}, {"is_causal": False}, {}):
            torch.testing.assert_close(attend(mask, **arguments), attend(mask.clone(), **arguments))


@pytest.mark.parametrize("mask", [None, causal()])
def test_a_call_with_gradients_after_one_in_inference_mode(mask):
    """What is kept between calls is nothing that autograd refuses."""
    with torch.inference_mode():
        expected = attend(mask)
    q, k, v = (torch.randn(2, heads, 6, 16, requires_grad=True) for heads in (4, 2, 2))
    got, _ = st._forward("ROCM_AITER_FA", torch.nn.Module(), q, k, v, mask)
    assert got.shape == expected.shape and got.requires_grad


def test_a_decode_step_without_padding_makes_no_mask():
    assert st.exact_mask(2, 1, 9, q_offset=8) is None
    assert st.exact_mask(2, 1, 9, q_offset=8, attention_mask=torch.ones(2, 9, dtype=torch.bool)) is None
    padded = torch.ones(2, 9, dtype=torch.bool)
    padded[0, 0] = False
    for mask in (
        st.exact_mask(2, 1, 9, q_offset=8, attention_mask=padded),
        st.exact_mask(2, 1, 9, q_offset=5),  # a static cache with room for more
        st.exact_mask(2, 1, 9, q_offset=8, allow_is_causal_skip=False),  # the model adds to it
    ):
        assert mask is not None and mask.shape == (2, 1, 1, 9)
