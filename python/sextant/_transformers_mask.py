"""transformers' masks as batches that the library serves: runs of queries over lists of keys, exactly what `eager` would attend to.

A mask comes as None (plain causal or plain bidirectional), as a padding mask [B, Sk], or as [B, 1, Sq, Sk]. The last is cut into runs:
queries in a row whose keys grow by one (causal, with a window), whose keys are the same, that form a band around the diagonal, or that are
causal but for spans whose tokens see one another (images).
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Iterator, NamedTuple, Optional, Union

import numpy as np
import numpy.typing as npt
import torch

from sextant.errors import SextantUnsupported

_KEY_READS = 32  # how often the runs of a mask may read a key, on average
_LONG = 1024  # tokens from which a causal mask is not made

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


class Part(NamedTuple):
    """Sequences under one mask rule: rows of [B, Sq] queries over rows of [B, Sk] keys."""

    rule: "tuple[tuple[str, Any], ...]"  # fields of AttentionSpec: causal, sliding_window, window_left, window_right, max_span_len
    queries: "tuple[torch.Tensor, torch.Tensor]"  # batch entry and row, int64 [T]
    keys: "tuple[torch.Tensor, torch.Tensor]"  # batch entry and row, int64 [Tk]
    query_lens: "tuple[int, ...]"
    key_lens: "tuple[int, ...]"
    spans: Optional[torch.Tensor] = None  # int32 [T, 2] where the rule has max_span_len
    columns: int = -1  # the first key of every entry, where each has one run of keys in a row; -1: it is not so


class _Run(NamedTuple):
    rule: "tuple[tuple[str, Any], ...]"
    batch: int
    queries: Integers
    keys: Integers
    truncated: bool = False  # by the window
    spans: Optional[Integers] = None  # [queries, 2]


class _Found(NamedTuple):
    """The parts that a mask was cut into, for the other layers of the step: kept on the mask."""

    parts: "list[Part]"
    call: "tuple[Any, ...]"  # what else they follow from: the call's queries, and more where it matters
    mask: "Union[None, int, torch.Tensor]"  # its version or, of an inference tensor, which counts none, its values; None: it does not change

    def still_of(self, mask: torch.Tensor, call: "tuple[Any, ...]") -> bool:
        if call[: len(self.call)] != self.call:
            return False
        if isinstance(self.mask, torch.Tensor):
            return torch.equal(self.mask, mask)
        return self.mask is None or (not mask.is_inference() and self.mask == mask._version)


_FULL = (("causal", False),)
_CAUSAL = (("causal", True),)


def exact_mask(batch_size: int, q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: Any = 0, mask_function: Any = None,
               attention_mask: Optional[torch.Tensor] = None, **kwargs: Any) -> Optional[torch.Tensor]:  # fmt: skip
    """What transformers' mask interface calls: `eager`'s mask [B, 1, Sq, Sk]; None for plain causal attention of one query or of many that ends with
    the last key.

    Long packed sequences (positions that begin again) give an empty mask that carries their runs, since [T, T] would be large.
    """
    from transformers import masking_utils

    mask_function = masking_utils.causal_mask_function if mask_function is None else mask_function
    rule = None if torch.compiler.is_compiling() else _rule_of(mask_function, masking_utils)
    paged = getattr(kv_length, "cache", None)  # a PagedCache, which knows by itself what is in it
    if paged is not None:
        plain = bool(kwargs.get("allow_is_causal_skip", True))
        made_of_blocks: torch.Tensor = paged.mask(batch_size, q_length, int(q_offset), rule, mask_function, attention_mask, kwargs.get("device", "cpu"), plain)
        return made_of_blocks
    if rule is not None and rule.causal and int(q_offset) + q_length == int(kv_offset) + kv_length:
        if rule.sequences is not None and attention_mask is None and q_length > _LONG:
            return _packed_marker(rule, q_length)
        skip = kwargs.get("allow_is_causal_skip", True)  # False: the model wants to add to the mask
        # Small masks say it better, since not every causal module says that it is; a single query sees all keys either way.
        skip = skip and (q_length == 1 or q_length * kv_length > _LONG * _LONG)
        if skip and rule.sequences is None and kv_length <= rule.window and _nothing_padded(attention_mask, kv_length, int(kv_offset)):
            return None
    kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)  # of floats, as some models add to their masks
    made: Optional[torch.Tensor] = masking_utils.eager_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset, mask_function=mask_function,
        attention_mask=attention_mask, **kwargs,
    )  # fmt: skip
    if made is not None and rule is not None and rule.causal and rule.sequences is None and attention_mask is None:
        setattr(made, "_sextant_plain", True)  # some models tell the packed sequences to the layers only
    return made


class _Rule(NamedTuple):
    causal: bool = False
    window: int = 1 << 62
    sequences: Optional[torch.Tensor] = None  # [B, T]: the number of each token's packed sequence


def _rule_of(function: Callable[..., Any], masking: Any) -> Optional[_Rule]:
    """What a mask function of transformers says, where it is one that is known; None for others, which are evaluated."""
    if function is masking.causal_mask_function:
        return _Rule(causal=True)
    kind = getattr(function, "__qualname__", "").partition(".")[0]
    if getattr(function, "__module__", "") != masking.__name__ or getattr(function, "__closure__", None) is None:
        return None
    inside = dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ())))
    if kind == "sliding_window_overlay":
        return _Rule(window=int(inside["sliding_window"]))
    if kind == "packed_sequence_mask_function":
        return _Rule(sequences=inside["packed_sequence_mask"])
    if kind == "remap_positions_for_packed_sequence":  # positions count within a sequence: causality and windows are the same
        return _rule_of(inside["mask_function"], masking)
    if kind != "and_masks":
        return None
    parts = [_rule_of(part, masking) for part in inside["mask_functions"]]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    sequences = [part.sequences for part in known if part.sequences is not None]
    if len(sequences) > 1:
        return None
    return _Rule(any(part.causal for part in known), min(part.window for part in known), sequences[0] if sequences else None)


def _nothing_padded(mask: Optional[torch.Tensor], length: int, offset: int) -> bool:
    return mask is None or (mask.shape[-1] >= offset + length and bool(mask[:, offset : offset + length].all()))


def _packed_marker(rule: _Rule, queries: int) -> torch.Tensor:
    assert rule.sequences is not None
    runs = []
    for b, numbers in enumerate(rule.sequences.cpu().numpy()):
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
        for start, end in zip(starts, [*starts[1:], queries]):
            rows = np.arange(start, end)
            runs.append(_Run(_CAUSAL, b, rows, rows, len(rows) > rule.window))
    marker = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=rule.sequences.device)
    setattr(marker, "_sextant_parts", _Found(_parts(runs, min(rule.window, queries), marker.device), (queries,), None))
    return marker


@functools.lru_cache(maxsize=4)  # the layers of a step
def plain_part(rule: "tuple[tuple[str, Any], ...]", batch: int, queries: int, keys: int, device: torch.device) -> Part:
    """All queries of all entries over all keys, under a rule that says the rest."""

    def rows(of: int) -> "tuple[torch.Tensor, torch.Tensor]":
        return torch.arange(batch, device=device).repeat_interleave(of), torch.arange(of, device=device).repeat(batch)

    with torch.inference_mode(False):  # kept: a later call may want gradients around it
        return Part(rule, rows(queries), rows(keys), (queries,) * batch, (keys,) * batch, columns=0)


def parts_of(mask: torch.Tensor, batch: int, queries: int, keys: int, causal: bool, window: int) -> "list[Part]":
    """The runs of a mask, by rule. A padding mask [B, Sk] takes causality and the window (0: none) from the call, larger ones say all themselves."""
    found = getattr(mask, "_sextant_parts", None)
    call = (queries, batch, keys, *((causal, window) if mask.dim() == 2 else ()))
    if isinstance(found, _Found) and found.still_of(mask, call):
        return found.parts
    visible = _visible(mask, batch, queries, keys, causal, window)
    width = max([1, *map(_window, visible)])
    runs = [run for b, rows in enumerate(visible) for run in _runs(rows, b, width)]
    total = sum(len(run.keys) for run in runs)
    allowed = max(1 << 16, _KEY_READS * batch * keys)
    if total > allowed:
        raise SextantUnsupported(
            f"attention_mask {list(mask.shape)} reads {total} keys in {len(runs)} runs, since its rows follow no rule (causal, window, equal); "
            f"allowed: at most {allowed} for {batch * keys} keys"
        )
    with torch.inference_mode(False):
        parts = _parts(runs, width, mask.device)
    setattr(mask, "_sextant_parts", _Found(parts, call, mask.clone() if mask.is_inference() else mask._version))
    return parts


def chosen_keys(mask: Optional[torch.Tensor], indices: torch.Tensor, batch: int, queries: int, keys: int) -> torch.Tensor:
    """A mask that leaves each query the keys [B, Sq, topk] that sparse attention chose for it."""
    chosen = torch.zeros(batch, queries, keys, dtype=torch.bool, device=indices.device)
    chosen = chosen.scatter(-1, indices.long().clamp(min=0).expand(batch, queries, -1), True).unsqueeze(1)
    if mask is None:
        return chosen & torch.ones_like(chosen).tril(keys - queries)
    if mask.dim() != 4:
        raise SextantUnsupported(f"attention_mask has shape {list(mask.shape)} with indices; allowed: [B, 1, Sq, Sk]")
    return chosen & (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2)[..., :keys]


def _visible(mask: torch.Tensor, batch: int, queries: int, keys: int, causal: bool, window: int) -> "list[Bools]":
    """Of each batch entry, which query sees which key: [Sq, Sk]."""
    if mask.dim() == 2:
        padding = mask[:, -keys:].bool().cpu().numpy()  # a shorter mask: a cache with room for more keys than there are
        at = np.arange(padding.shape[1])[None] - (padding.shape[1] - queries + np.arange(queries)[:, None])  # key minus query
        near = np.ones_like(at, bool) if not window else (at > -window) & (at < window)
        return [(row & near & (at <= 0)) if causal else (row & near) for row in padding]
    if mask.dim() != 4 or mask.shape[0] not in (1, batch) or mask.shape[2] not in (1, queries) or mask.numel() == 0:
        raise SextantUnsupported(f"attention_mask has shape {list(mask.shape)}; allowed: [{batch}, Sk] or [{batch}, 1, {queries}, Sk]")
    heads = mask[:, :1] if mask.stride(1) == 0 else mask
    rows = heads[:, :, :1] if heads.stride(2) == 0 or heads.shape[2] == 1 else heads
    rows = rows[..., :keys]
    if rows.dtype != torch.bool:
        if not rows.is_floating_point():
            raise SextantUnsupported(f"attention_mask has dtype {rows.dtype}; allowed: torch.bool, or floats that are 0 and -inf")
        seen = rows > torch.finfo(rows.dtype).min / 2
        if bool((seen & (rows != 0)).any()):
            raise SextantUnsupported("attention_mask holds biases that are added to the scores; allowed: 0 and -inf (or the dtype's lowest number)")
        rows = seen
    if rows.shape[1] > 1:
        if not bool((rows == rows[:, :1]).all()):
            raise SextantUnsupported(f"attention_mask {list(mask.shape)} differs between heads; allowed: one mask for all heads")
        rows = rows[:, :1]
    return list(rows[:, 0].cpu().expand(batch, queries, -1).numpy())


def _window(visible: Bools) -> int:
    """The width of rows that slide by one key a query; where none does, of the widest row."""
    width, first = visible.sum(1), visible.argmax(1)
    slides = (np.diff(first) == 1) & (np.diff(width) == 0) & (width[1:] > 0)
    return int(width[1:][slides].max() if slides.any() else width.max(initial=0))


def _runs(visible: Bools, batch: int, window: int) -> "Iterator[_Run]":
    kept = np.flatnonzero(visible.any(0))
    if not len(kept):
        return
    seen = visible if len(kept) == visible.shape[1] else visible[:, kept]
    rows, keys = seen.shape
    width = seen.sum(1)
    first = seen.argmax(1)
    last = keys - seen[:, ::-1].argmax(1)
    dense = (width > 0) & (last - first == width)
    done = np.zeros(rows, bool)
    band = _band(kept, first, last, dense) if rows == visible.shape[1] and rows > 1 else None
    if band is not None:
        yield _Run(band, batch, kept, kept)
        done[kept] = True
    spanned = _with_spans(batch, kept, first, last, dense, width > 0, window) if band is None else None
    if spanned is not None:
        yield spanned
        return
    at = 0
    while at < rows:
        if width[at] == 0 or done[at]:
            at += 1
            continue
        steps = np.arange(rows - at)
        if dense[at]:
            equal = dense[at:] & (first[at:] == first[at]) & (last[at:] == last[at])
            grows = dense[at:] & (last[at:] == last[at] + steps) & (first[at:] == np.maximum(first[at], last[at:] - window))
            same, growing = _length(equal & ~done[at:]), _length(grows & ~done[at:])
            n = max(same, growing)
            span = kept[first[at] : last[at + n - 1]]
            rule = _FULL if same > growing else _CAUSAL
            yield _Run(rule, batch, np.arange(at, at + n), span, rule is _CAUSAL and bool(first[at + n - 1] > first[at]))
        else:
            n = _length((seen[at:] == seen[at]).all(1))
            yield _Run(_FULL, batch, np.arange(at, at + n), kept[seen[at]])
        at += n


def _length(holds: Bools) -> int:
    """How many hold from the first on."""
    return len(holds) if holds.all() else int(holds.argmin())


def _band(kept: Integers, first: Integers, last: Integers, dense: Bools) -> "Optional[tuple[tuple[str, Any], ...]]":
    """The window of an encoder, which reaches to both sides of the query's own key; None where the rows are no such band."""
    own = np.arange(len(kept))
    first, last = first[kept], last[kept]
    left, right = int((own - first).max()), int((last - 1 - own).max())
    if right <= 0 or left < 0 or not dense[kept].all() or (left >= len(own) - 1 and right >= len(own) - 1):
        return None
    if (first != np.maximum(0, own - left)).any() or (last != np.minimum(len(own), own + right + 1)).any():
        return None
    return (("causal", False), ("window_left", left), ("window_right", right))


def _with_spans(batch: int, kept: Integers, first: Integers, last: Integers, dense: Bools, seen: Bools, window: int) -> Optional[_Run]:
    """Causal rows, with a window or without, of which some see the whole of a span that their own key lies in; None where they are not that."""
    rows = np.flatnonzero(seen)
    if len(rows) < 2 or len(rows) != rows[-1] + 1 - rows[0] or not dense[rows].all():
        return None
    first, last = first[rows], last[rows]
    step = np.arange(len(rows))
    own = step + (last - 1 - step).min()  # where a row ends that no span makes longer
    if own[0] < 0 or (last <= own + 1).all() or last.max() > own[-1] + 1:
        return None
    begins = np.zeros((len(rows), 2), np.int64)
    inside = (last > own + 1) | np.r_[False, (last[:-1] > own[:-1] + 1) & (last[:-1] == own[1:] + 1)]
    spans = np.flatnonzero(inside)
    new = np.r_[True, (np.diff(spans) > 1) | (np.diff(last[spans]) != 0)] if len(spans) else np.zeros(0, bool)
    for group in np.split(spans, np.flatnonzero(new)[1:]):
        begin = own[group[0]] if group[0] else min(own[0], first[group].min())  # of the first row's span some may be in the cache
        begins[group] = begin, last[group[0]]
    joined = (begins[:-1, 0] <= own[1:]) & (own[1:] < begins[:-1, 1]) | (begins[1:, 0] < np.minimum(own[1:], begins[1:, 1]))
    if (joined & (begins[1:] != begins[:-1]).any(1)).any():  # a span is what all of its tokens have
        return None
    for width in (int(own[-1]) + 1, window):  # without a window, and with it
        expected = np.maximum(0, own + 1 - width)
        expected[inside] = np.minimum(expected[inside], begins[inside, 0])
        if (expected == first).all():
            start = int(first.min())
            longest = int((begins[:, 1] - begins[:, 0]).max())
            rule: tuple[tuple[str, Any], ...] = (*_CAUSAL, ("max_span_len", 1 << (longest - 1).bit_length()))
            rule = rule if width > own[-1] else (*rule, ("sliding_window", width))
            begins[inside] -= start
            return _Run(rule, batch, rows, kept[start : own[-1] + 1], spans=begins)
    return None


def _parts(runs: "list[_Run]", window: int, device: torch.device) -> "list[Part]":
    windowed = any(run.truncated for run in runs)
    rules: "dict[tuple[tuple[str, Any], ...], list[_Run]]" = {}
    for run in runs:
        rule = (*run.rule, ("sliding_window", window)) if windowed and run.rule is _CAUSAL else run.rule
        rules.setdefault(rule, []).append(run)

    def rows(lists: "list[Integers]", batches: "list[int]") -> "tuple[torch.Tensor, torch.Tensor]":
        entry = np.repeat(np.array(batches, np.int64), [len(x) for x in lists])
        return torch.from_numpy(entry).to(device), torch.from_numpy(np.concatenate(lists).astype(np.int64)).to(device)

    return [
        Part(
            rule,
            rows([run.queries for run in of], [run.batch for run in of]),
            rows([run.keys for run in of], [run.batch for run in of]),
            tuple(len(run.queries) for run in of),
            tuple(len(run.keys) for run in of),
            None if of[0].spans is None else torch.from_numpy(np.concatenate([run.spans for run in of if run.spans is not None])).to(device, torch.int32),
            _columns(of),
        )
        for rule, of in rules.items()
    ]


def _columns(runs: "list[_Run]") -> int:
    """Of runs that are one for each entry, over keys in a row that begin at the same column; else -1."""
    first = int(runs[0].keys[0])
    for entry, run in enumerate(runs):
        if run.batch != entry or run.keys[0] != first or run.keys[-1] - first + 1 != len(run.keys):
            return -1
    return first
