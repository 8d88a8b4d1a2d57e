"""A decode step of transformers' continuous batching over its own blocks: nothing is gathered or copied. What the
layers share is made once a step, on the device, so that a CUDA graph may hold the step.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

from sextant import api
from sextant._dlpack import current_stream, workspace_beside
from sextant.errors import SextantUnsupported
from sextant.torch import device_name, dtype_name


def packed_lengths(query_starts: torch.Tensor, key_starts: torch.Tensor) -> "tuple[list[int], list[int]]":
    """Lengths of the requests of a packed batch, whose first rows are given (int [B + 1]), without those at the end
    that are padding. Read from the device once a step: kept on `query_starts`, for the other layers.
    """
    kept: "dict[Any, tuple[torch.Tensor, list[int], list[int]]]" = getattr(query_starts, "_sextant_lengths", None) or {}
    tracked = not query_starts.is_inference() and not key_starts.is_inference()
    key = (id(key_starts), query_starts._version, key_starts._version) if tracked else None
    if key not in kept:
        lens = torch.stack([query_starts.diff().long(), key_starts.diff().long()]).tolist()
        while len(lens[0]) > 1 and not lens[0][-1] and not lens[1][-1]:
            lens = [lens[0][:-1], lens[1][:-1]]
        if key is None:
            return lens[0], lens[1]
        kept[key] = key_starts, lens[0], lens[1]  # with key_starts, so that its id stays its own
        setattr(query_starts, "_sextant_lengths", kept)
    return kept[key][1:]


class _Step(NamedTuple):
    """What all layers of a step share."""

    seq_lens: torch.Tensor  # int32 [B]
    slots: torch.Tensor  # int64 [B]; -1 for rows that are padding
    requests: int  # without those that are padding; of tensors on a GPU all
    workspaces: "dict[api.Plan, Any]"


def attend_in_blocks(
    backend: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, given: "dict[str, Any]", features: Any
) -> torch.Tensor:
    """query [1, Hq, B, D] of B requests, key [1, Hkv, B, D] and value [1, Hkv, B, Dv], which are written to the blocks
    -> [B, Hq, Dv].

    given: block_table int32 [B, blocks], k_cache and v_cache [blocks, tokens, Hkv, D], and the lengths
    cu_seq_lens_q and cu_seq_lens_k int32 [B + 1]. Requests at the end may be padding, of length 0.
    """
    scale, rule, sinks = features
    table, k_cache, v_cache = given["block_table"], given["k_cache"], given["v_cache"]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if len(table) != len(q):
        raise SextantUnsupported(f"{len(q)} queries came with block tables of {len(table)} requests; allowed: one each")
    step = _step_of(given, k_cache.shape[1])
    out = q.new_zeros(q.shape[0], q.shape[1], v.shape[2])
    rows = len(q) if q.is_cuda else step.requests  # a GPU's kernels find themselves what is padding
    plan = _planned(
        backend, q.shape[1], tuple(k_cache.shape), v_cache.shape[3], scale, q.dtype, tuple(rule.items()),
        sinks is not None, (rows, table.shape[1]), q.device,
    )  # fmt: skip
    if plan not in step.workspaces:
        step.workspaces[plan] = workspace_beside(q, plan.workspace_bytes, current_stream(q))
    plan.run(
        q=q[:rows], k=k[:rows], v=v[:rows], out=out[:rows], k_cache=k_cache, v_cache=v_cache,
        query_start_loc=given["cu_seq_lens_q"][: rows + 1], seq_lens=step.seq_lens[:rows], block_table=table[:rows],
        slot_mapping=step.slots[:rows], workspace=step.workspaces[plan],
        sinks=None if sinks is None else sinks.detach().float().contiguous(),
    )  # fmt: skip
    return out


def _step_of(given: "dict[str, Any]", block_size: int) -> _Step:
    """Made by the step's first layer, and once more inside a graph's capture: the graph has to make it anew each time.

    Kept on the lengths of the queries, which are one object for all layers and another one in each step.
    """
    lengths, table = given["cu_seq_lens_q"], given["block_table"]
    captured = lengths.is_cuda and torch.cuda.is_current_stream_capturing()
    steps: "dict[Any, _Step]" = getattr(lengths, "_sextant_steps", None) or {}
    setattr(lengths, "_sextant_steps", steps)
    key = captured, table.data_ptr()
    if key not in steps:
        seq_lens = given["cu_seq_lens_k"].diff().int()
        last = (seq_lens - 1).clamp(min=0)  # the new token's position
        block = table.gather(1, (last // block_size).long()[:, None])[:, 0].long()
        slots = torch.where(seq_lens > 0, block * block_size + last % block_size, -1)
        steps[key] = _Step(seq_lens, slots, len(table) if lengths.is_cuda else int(lengths[-1]), {})
    return steps[key]


@functools.lru_cache(maxsize=256)
def _planned(
    backend: str, heads: int, shape: Any, dim_v: int, scale: float, dtype: torch.dtype, rule: Any, sinks: bool,
    table: "tuple[int, int]", device: torch.device,
) -> api.Plan:  # fmt: skip
    """For every step of so many requests, whatever their lengths are."""
    num_blocks, block_size, kv_heads, dim = shape
    requests, columns = table
    spec = api.AttentionSpec(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, head_dim_v=dim_v, softmax_scale=scale,
        dtype=dtype_name(dtype), has_sinks=sinks, **dict(rule),
    )  # fmt: skip
    cache = api.KvCacheSpec(
        num_blocks=num_blocks, block_size=block_size, num_kv_heads=kv_heads, head_dim=dim, head_dim_v=dim_v,
        dtype=spec.dtype, layout="NHD",
    )  # fmt: skip
    return api.plan(
        backend, spec, cache, query_start_loc=range(requests + 1), seq_lens=[columns * block_size] * requests,
        max_blocks_per_request=columns, max_query_len=1, max_seq_len=columns * block_size, device=device_name(device),
    )  # fmt: skip


api._forget_plans.append(_planned.cache_clear)
