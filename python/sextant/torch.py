"""PyTorch: custom ops through torch.library (torch.compile and CUDA graphs work), dense attention, and paged plan / run.

    out = sextant.torch.attention(q, k, v, is_causal=True)          # [B, H, S, D], as scaled_dot_product_attention

    plan = sextant.torch.plan("ROCM_AITER_FA", spec, cache, query_start_loc=..., seq_lens=..., block_table=...)
    out = sextant.torch.run(plan, q, k, v, k_cache, v_cache, ...)
"""

from __future__ import annotations

import functools
import math
from typing import Optional

import torch

from sextant import api
from sextant.errors import SextantInvalidArgument

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def dtype_name(dtype: torch.dtype) -> str:
    """"bf16" for torch.bfloat16, ..."""
    if dtype not in _DTYPES:
        raise SextantInvalidArgument(f"dtype is {dtype}; allowed: torch.float32, torch.float16, torch.bfloat16")
    return _DTYPES[dtype]


@functools.lru_cache(maxsize=256)
def _varlen_plan(spec: api.AttentionSpec, query_start_loc: tuple, key_start_loc: tuple, device: str, family: str, lse_out: bool):
    return api.varlen_plan(
        spec, query_start_loc=query_start_loc, key_start_loc=key_start_loc, device=device, family=family, lse_out=lse_out
    )


@torch.library.custom_op("sextant::varlen_attention", mutates_args=())
def varlen_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_lens: list[int],
    key_lens: list[int],
    softmax_scale: float,
    causal: bool = True,
    sliding_window: int = 0,
    logits_soft_cap: float = 0.0,
    sinks: Optional[torch.Tensor] = None,
    alibi_slopes: Optional[torch.Tensor] = None,
    family: str = "tuned",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of packed q [T, Hq, D] over packed k [Tk, Hkv, D], v [Tk, Hkv, Dv]: (out [T, Hq, Dv], lse fp32 [Hq, T]).

    query_lens and key_lens give the tokens of each sequence; causal is bottom-right aligned.
    """
    query_start_loc, key_start_loc = _start_loc(query_lens), _start_loc(key_lens)
    if query_start_loc[-1] > q.shape[0] or key_start_loc[-1] > k.shape[0]:
        raise SextantInvalidArgument(
            f"query_lens sum to {query_start_loc[-1]} and key_lens to {key_start_loc[-1]}; allowed: at most {q.shape[0]} and {k.shape[0]}"
        )
    spec = api.AttentionSpec(
        num_heads=q.shape[1],
        num_kv_heads=k.shape[1],
        head_dim=q.shape[2],
        head_dim_v=v.shape[2],
        softmax_scale=softmax_scale,
        dtype=dtype_name(q.dtype),
        causal=causal,
        sliding_window=sliding_window,
        logits_soft_cap=logits_soft_cap,
        has_sinks=sinks is not None,
        has_alibi=alibi_slopes is not None,
    )
    plan = _varlen_plan(spec, query_start_loc, key_start_loc, str(q.device), family, True)
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)

    def on_device(values):
        return torch.tensor(values, dtype=torch.int32, device=q.device)

    plan.run(
        q=_last_dense(q),
        k=_last_dense(k),
        v=_last_dense(v),
        out=out,
        lse=lse,
        query_start_loc=on_device(query_start_loc),
        key_start_loc=on_device(key_start_loc),
        seq_lens=on_device(key_lens),
        sinks=None if sinks is None else sinks.float().contiguous(),
        alibi_slopes=None if alibi_slopes is None else alibi_slopes.float().contiguous(),
    )
    return out, lse


@varlen_attention.register_fake
def _(q, k, v, query_lens, key_lens, softmax_scale, causal=True, sliding_window=0, logits_soft_cap=0.0, sinks=None, alibi_slopes=None,
      family="tuned"):
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2]), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


@torch.library.custom_op("sextant::dense_attention", mutates_args=())
def _dense_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax_scale: float,
    causal: bool,
    sliding_window: int,
    logits_soft_cap: float,
    sinks: Optional[torch.Tensor],
    family: str,
) -> torch.Tensor:
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    out, _ = varlen_attention(
        _packed(query),
        _packed(key),
        _packed(value),
        [queries] * batch,
        [keys] * batch,
        softmax_scale,
        causal,
        sliding_window,
        logits_soft_cap,
        sinks,
        None,
        family,
    )
    return out.view(batch, queries, heads, value.shape[3]).transpose(1, 2).contiguous()


@_dense_attention.register_fake
def _(query, key, value, softmax_scale, causal, sliding_window, logits_soft_cap, sinks, family):
    return query.new_empty(query.shape[0], query.shape[1], query.shape[2], value.shape[3])


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    is_causal: bool = False,
    scale: Optional[float] = None,
    sliding_window: int = 0,
    logits_soft_cap: float = 0.0,
    sinks: Optional[torch.Tensor] = None,
    family: str = "tuned",
) -> torch.Tensor:
    """Dense attention: query [B, Hq, Sq, D], key [B, Hkv, Sk, D], value [B, Hkv, Sk, Dv] -> [B, Hq, Sq, Dv].

    Hq may be a multiple of Hkv (GQA). is_causal aligns the last query with the last key. scale: default 1/sqrt(D).
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise SextantInvalidArgument(f"{name} has shape {list(tensor.shape)}; allowed: [B, H, S, D]")
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    return torch.ops.sextant.dense_attention(
        query, key, value, scale, is_causal, sliding_window, logits_soft_cap, sinks, family
    )


def plan(backend: str, spec: api.AttentionSpec, cache: api.KvCacheSpec, *, device="cpu", **arguments) -> api.Plan:
    """sextant.plan, kept for `run` by a number that torch.compile can hold."""
    made = api.plan(backend, spec, cache, device=str(device), **arguments)
    _plans[made._handle] = made
    return made


_plans: "dict[int, api.Plan]" = {}


def release(made: api.Plan) -> None:
    """Forgets a plan made by `plan`."""
    _plans.pop(made._handle, None)


@torch.library.custom_op("sextant::paged_attention", mutates_args=("out", "k_cache", "v_cache"))
def _paged_attention(
    plan_handle: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: Optional[torch.Tensor],
    sinks: Optional[torch.Tensor],
    k_scale: Optional[torch.Tensor],
    v_scale: Optional[torch.Tensor],
    workspace: Optional[torch.Tensor],
) -> None:
    if plan_handle not in _plans:
        raise SextantInvalidArgument(f"plan handle is {plan_handle}; allowed: a plan of sextant.torch.plan that was not released")
    _plans[plan_handle].run(
        q=q, k=k, v=v, out=out, k_cache=k_cache, v_cache=v_cache, query_start_loc=query_start_loc, seq_lens=seq_lens,
        block_table=block_table, slot_mapping=slot_mapping, sinks=sinks, k_scale=k_scale, v_scale=v_scale, workspace=workspace,
    )


@_paged_attention.register_fake
def _(plan_handle, q, k, v, out, k_cache, v_cache, query_start_loc, seq_lens, block_table, slot_mapping, sinks, k_scale, v_scale, workspace):
    return None


def run(made: api.Plan, q, k, v, k_cache, v_cache, *, query_start_loc, seq_lens, block_table, slot_mapping=None, sinks=None, k_scale=None,
        v_scale=None, out=None, workspace=None) -> torch.Tensor:
    """Runs a plan of `plan` as a custom op: writes k [T, Hkv, D] and v to the cache, gives out [T, Hq, Dv]."""
    if out is None:
        out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    torch.ops.sextant.paged_attention(
        made._handle, q, k, v, out, k_cache, v_cache, query_start_loc, seq_lens, block_table, slot_mapping, sinks, k_scale, v_scale, workspace
    )
    return out


def _start_loc(lens) -> tuple:
    total, locs = 0, [0]
    for n in lens:
        total += int(n)
        locs.append(total)
    return tuple(locs)


def _packed(tensor: torch.Tensor) -> torch.Tensor:
    """[B, H, S, D] -> [B * S, H, D]; a view when memory allows."""
    batch, heads, length, dim = tensor.shape
    return tensor.transpose(1, 2).reshape(batch * length, heads, dim)


def _last_dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
