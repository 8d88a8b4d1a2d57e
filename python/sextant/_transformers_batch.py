"""One call of transformers' as a batch over a paged cache: over the caller's own keys where they lie, or over blocks
that they are written to.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Optional, Sequence

import torch

from sextant import api
from sextant._transformers_mask import Part
from sextant.torch import device_name, dtype_name, last_dense

_BLOCK_SIZE = 16

Features = "tuple[float, dict[str, Any], Optional[torch.Tensor]]"  # softmax scale, fields of the spec, sinks


def may_attend_in_place(part: Part, q: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether [B, H, S, D] can be read as blocks of one request each: a step after the first, all of whose requests
    see the keys from the same column on.

    The prompt itself goes through the backend's own prefill. On GPUs blocks of any length are served, but their tuned
    kernels want blocks of the usual sizes.
    """
    return (
        part.columns >= 0
        and q.device.type == "cpu"
        and key.shape[0] == len(part.key_lens) == value.shape[0]
        and key.shape[2] == value.shape[2]
        and 0 not in (*key.stride(), *value.stride())  # expanded tensors, which the library takes for no cache
        and all(keys > queries for queries, keys in zip(part.query_lens, part.key_lens))
    )


def attend_in_place(
    backend: str, q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, part: Part, features: Any
) -> torch.Tensor:
    """Packed q [T, Hq, D] over key [B, Hkv, S, D] and value [B, Hkv, S, Dv] as a cache of B blocks of S tokens."""
    scale, rule, sinks = features
    if part.columns:
        key, value = key[:, :, part.columns :], value[:, :, part.columns :]
    step = _planned_in_place(
        backend, q.shape[1], key.shape[1:], value.shape[3], scale, q.dtype, tuple(rule.items()), sinks is not None,
        part.query_lens, part.key_lens, q.device,
    )  # fmt: skip
    out = q.new_empty(q.shape[0], q.shape[1], value.shape[3])
    step.plan.run(
        q=q, out=out, k_cache=last_dense(key), v_cache=last_dense(value), query_start_loc=step.query_start_loc,
        seq_lens=step.seq_lens, block_table=step.block_table, sinks=_floats(sinks), token_spans=part.spans,
    )  # fmt: skip
    return out


def attend(
    backend: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_lens: Sequence[int],
    key_lens: Sequence[int],
    features: Any,
    spans: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """Packed q [T, Hq, D] over packed k, v [Tk, Hkv, D] through a paged cache of the backend's layout."""
    scale, rule, sinks = features
    step = _planned(
        backend, q.shape[1], k.shape[1:], v.shape[2], scale, q.dtype, tuple(rule.items()), sinks is not None,
        tuple(query_lens), tuple(key_lens), q.device,
    )  # fmt: skip
    k_cache, v_cache = q.new_empty(step.k_shape), q.new_empty(step.v_shape)
    rows = step.rows
    if len(rows.old_slots):
        api.reshape_and_cache(k[rows.old], v[rows.old], rows.old_slots, k_cache, v_cache, step.cache)
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    appended = dict(k=k[rows.new], v=v[rows.new], slot_mapping=rows.new_slots) if len(rows.new_slots) else {}
    step.plan.run(
        q=q, out=out, k_cache=k_cache, v_cache=v_cache, query_start_loc=step.query_start_loc, seq_lens=step.seq_lens,
        block_table=step.block_table, **appended, sinks=_floats(sinks), token_spans=spans,
    )  # fmt: skip
    return out


def attend_latent(
    backend: str,
    spec: api.AttentionSpec,
    q: torch.Tensor,
    latents: torch.Tensor,
    kv_b_proj: torch.Tensor,
    query_lens: Sequence[int],
    key_lens: Sequence[int],
    sinks: Optional[torch.Tensor],
    spans: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """Packed q [T, N, nope + rope] over packed latents [Tk, rank + rope] through a latent cache."""
    rank = spec.kv_lora_rank
    step = _planned_latent(backend, spec, tuple(query_lens), tuple(key_lens), q.device)
    rows = step.rows
    k_cache = q.new_empty(step.k_shape).flatten(0, 1)
    k_cache[rows.old_slots] = latents[rows.old]
    out = q.new_empty(q.shape[0], q.shape[1], spec.v_head_dim)
    fresh = latents[rows.new]
    step.plan.run(
        q=q.contiguous(), out=out, kv_c=fresh[:, :rank].contiguous(), k_pe=fresh[:, rank:].contiguous(),
        kv_b_proj=kv_b_proj, k_cache=k_cache, query_start_loc=step.query_start_loc, seq_lens=step.seq_lens,
        block_table=step.block_table, slot_mapping=rows.new_slots, sinks=_floats(sinks), token_spans=spans,
    )  # fmt: skip
    return out


class _Rows(NamedTuple):
    """Rows of the packed keys that were there before this call, and its own; and the slots of both."""

    old: Any  # int64 or, of one sequence, a slice: a view instead of a copy
    new: Any
    old_slots: torch.Tensor
    new_slots: torch.Tensor


class _Step(NamedTuple):
    """What all layers of a step share."""

    plan: api.Plan
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    cache: Any = None
    k_shape: Any = None
    v_shape: Any = None
    rows: Any = None


def _floats(sinks: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
    return None if sinks is None else sinks.detach().float().contiguous()


def _spec(heads: int, kv_heads: int, dim: int, dim_v: int, scale: float, dtype: torch.dtype, rule: Any, sinks: bool) -> Any:
    return api.AttentionSpec(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, head_dim_v=dim_v, softmax_scale=scale,
        dtype=dtype_name(dtype), has_sinks=sinks, **dict(rule),
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _planned_in_place(
    backend: str, heads: int, shape: Any, dim_v: int, scale: float, dtype: torch.dtype, rule: Any, sinks: bool,
    query_lens: "tuple[int, ...]", key_lens: "tuple[int, ...]", device: torch.device,
) -> _Step:  # fmt: skip
    kv_heads, length, dim = shape
    spec = _spec(heads, kv_heads, dim, dim_v, scale, dtype, rule, sinks)
    cache = api.KvCacheSpec(
        num_blocks=len(key_lens), block_size=length, num_kv_heads=kv_heads, head_dim=dim, head_dim_v=dim_v,
        dtype=spec.dtype, layout="HND",
    )  # fmt: skip
    return _step(backend, spec, cache, query_lens, key_lens, torch.arange(len(key_lens), dtype=torch.int32)[:, None], device)


@functools.lru_cache(maxsize=64)
def _planned(
    backend: str, heads: int, shape: Any, dim_v: int, scale: float, dtype: torch.dtype, rule: Any, sinks: bool,
    query_lens: "tuple[int, ...]", key_lens: "tuple[int, ...]", device: torch.device,
) -> _Step:  # fmt: skip
    kv_heads, dim = shape
    spec = _spec(heads, kv_heads, dim, dim_v, scale, dtype, rule, sinks)
    table, blocks = _pages(key_lens)
    cache = api.KvCacheSpec(
        num_blocks=max(1, blocks), block_size=_BLOCK_SIZE, num_kv_heads=kv_heads, head_dim=dim, head_dim_v=dim_v,
        dtype=spec.dtype,
    )  # fmt: skip
    step = _step(backend, spec, cache, query_lens, key_lens, table, device)
    k_shape, v_shape, layout = api.cache_shape(cache, backend, device_name(device))
    resolved = api.KvCacheSpec(**{**cache.__dict__, "layout": layout})
    return step._replace(
        cache=resolved, k_shape=k_shape, v_shape=v_shape, rows=_rows_of(query_lens, key_lens, table, device)
    )


@functools.lru_cache(maxsize=64)
def _planned_latent(
    backend: str, spec: api.AttentionSpec, query_lens: "tuple[int, ...]", key_lens: "tuple[int, ...]", device: torch.device
) -> _Step:
    table, blocks = _pages(key_lens)
    cache = spec.latent_cache(max(1, blocks), _BLOCK_SIZE)
    step = _step(backend, spec, cache, query_lens, key_lens, table, device)
    shape = [cache.num_blocks, _BLOCK_SIZE, cache.head_dim]
    return step._replace(cache=cache, k_shape=shape, rows=_rows_of(query_lens, key_lens, table, device))


for _kept in (_planned_in_place, _planned, _planned_latent):
    api._forget_plans.append(_kept.cache_clear)


@torch.inference_mode(False)  # kept: a later call may want gradients around what indexes its keys
def _step(backend: str, spec: Any, cache: Any, query_lens: Any, key_lens: Any, table: torch.Tensor, device: torch.device) -> _Step:
    starts = _start(query_lens)
    plan = api.plan(
        backend, spec, cache, query_start_loc=starts, seq_lens=key_lens, block_table=table, device=device_name(device)
    )
    query_start_loc, seq_lens = (torch.tensor(x, dtype=torch.int32).to(device) for x in (starts, key_lens))
    return _Step(plan, query_start_loc, seq_lens, table.to(device))


@torch.inference_mode(False)
def _rows_of(query_lens: Any, key_lens: Any, table: torch.Tensor, device: torch.device) -> _Rows:
    slots = torch.cat([
        table[b].repeat_interleave(_BLOCK_SIZE)[:n].long() * _BLOCK_SIZE + torch.arange(n) % _BLOCK_SIZE
        for b, n in enumerate(key_lens)
    ] or [torch.zeros(0, dtype=torch.int64)])  # fmt: skip
    old_rows, new_rows, at = [], [], 0
    # Else (an encoder's keys) all keys are in the cache before.
    appends = all(queries <= n for queries, n in zip(query_lens, key_lens))
    for queries, n in zip(query_lens, key_lens):
        fresh = queries if appends else 0
        old_rows.append(torch.arange(at, at + n - fresh))
        new_rows.append(torch.arange(at + n - fresh, at + n))
        at += n
    old, new = torch.cat(old_rows), torch.cat(new_rows)
    one = len(key_lens) == 1
    return _Rows(
        slice(0, len(old)) if one else old.to(device), slice(len(old), at) if one else new.to(device),
        slots[old].to(device), slots[new].to(device),
    )  # fmt: skip


def _pages(lens: Sequence[int]) -> "tuple[torch.Tensor, int]":
    """A block table [B, max_blocks] that gives each sequence blocks of its own, and the number of blocks."""
    blocks = [(n + _BLOCK_SIZE - 1) // _BLOCK_SIZE for n in lens]
    table = torch.zeros(len(lens), max([1, *blocks]), dtype=torch.int32)
    at = 0
    for b, n in enumerate(blocks):
        table[b, :n] = torch.arange(at, at + n, dtype=torch.int32)
        at += n
    return table, at


def _start(lens: Sequence[int]) -> "list[int]":
    total, locs = 0, [0]
    for n in lens:
        total += int(n)
        locs.append(total)
    return locs
