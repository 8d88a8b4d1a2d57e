"""PyTorch: custom ops through torch.library (torch.compile and CUDA graphs work), dense attention, and paged plan / run.

    out = sextant.torch.attention(q, k, v, is_causal=True)          # [B, H, S, D], as scaled_dot_product_attention

    plan = sextant.torch.plan("ROCM_AITER_FA", spec, cache, query_start_loc=..., seq_lens=..., block_table=...)
    out = sextant.torch.run(plan, q, k, v, k_cache, v_cache, ...)          # MHA backends
    out = sextant.torch.run_mla(plan, q, kv_c, k_pe, kv_b_proj, kv_cache, ...)  # MLA backends

In a CUDA graph: run the same shapes once before the capture, as PyTorch asks for anyway. Plans and the lengths that live on the device are made
then; a call in a capture makes none.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Any, NamedTuple, Optional, Sequence

import torch

from sextant import api
from sextant.errors import SextantInvalidArgument, SextantUnsupported

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def dtype_name(dtype: torch.dtype) -> str:
    """"bf16" for torch.bfloat16, ..."""
    if dtype not in _DTYPES:
        raise SextantInvalidArgument(f"dtype is {dtype}; allowed: torch.float32, torch.float16, torch.bfloat16")
    return _DTYPES[dtype]


class _Varlen(NamedTuple):
    """A plan and the lengths that its kernels read, on the device."""

    plan: api.VarlenPlan
    query_start_loc: torch.Tensor  # int32 [B + 1]
    key_start_loc: torch.Tensor  # int32 [B + 1]
    seq_lens: torch.Tensor  # int32 [B]


_CACHED_PLANS = 256
_varlen_plans: "OrderedDict[tuple[Any, ...], _Varlen]" = OrderedDict()
_varlen_lock = threading.Lock()
_captured: "set[_Varlen]" = set()  # a captured graph reads these at every replay: they stay


def _varlen(spec: api.AttentionSpec, query_lens: tuple[int, ...], key_lens: tuple[int, ...], device: torch.device, family: str) -> _Varlen:
    key = (spec, query_lens, key_lens, device, family)
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    with _varlen_lock:
        found = _varlen_plans.get(key)
        if found is not None:
            _varlen_plans.move_to_end(key)
            if capturing:
                _captured.add(found)
            return found
    if capturing:
        raise SextantUnsupported(
            f"query_lens {_short(query_lens)} and key_lens {_short(key_lens)} are new in a CUDA graph capture; allowed: lengths that ran once before it"
        )
    query_start_loc, key_start_loc = _start_loc(query_lens), _start_loc(key_lens)
    plan = api.varlen_plan(
        spec, query_start_loc=query_start_loc, key_start_loc=key_start_loc, device=device_name(device), family=family, lse_out=True
    )

    def on_device(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    made = _Varlen(plan, on_device(query_start_loc), on_device(key_start_loc), on_device(key_lens))
    with _varlen_lock:
        _varlen_plans[key] = made
        while len(_varlen_plans) > _CACHED_PLANS:
            _varlen_plans.popitem(last=False)
    return made


def _short(lens: tuple[int, ...]) -> str:
    return str(list(lens)) if len(lens) <= 8 else f"[{', '.join(map(str, lens[:8]))}, ...]"


def device_name(device: "torch.device | str") -> str:
    """Sextant's name of a torch device: PyTorch's builds for ROCm call their GPUs cuda."""
    name = str(device)
    return name.replace("cuda", "hip", 1) if torch.version.hip is not None else name


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

    query_lens and key_lens give the tokens of each sequence; causal is bottom-right aligned. Rows of q past them give 0 and an lse of -inf.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 3:
            raise SextantInvalidArgument(f"{name} has shape {list(tensor.shape)}; allowed: [T, H, D]")
    if sum(query_lens) > q.shape[0] or sum(key_lens) > k.shape[0]:
        raise SextantInvalidArgument(
            f"query_lens sum to {sum(query_lens)} and key_lens to {sum(key_lens)}; allowed: at most {q.shape[0]} and {k.shape[0]}"
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
    made = _varlen(spec, tuple(query_lens), tuple(key_lens), q.device, family)
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)
    tokens = sum(query_lens)
    out[tokens:], lse[:, tokens:] = 0, -math.inf
    made.plan.run(
        q=_last_dense(q),
        k=_last_dense(k),
        v=_last_dense(v),
        out=out,
        lse=lse,
        query_start_loc=made.query_start_loc,
        key_start_loc=made.key_start_loc,
        seq_lens=made.seq_lens,
        sinks=None if sinks is None else sinks.float().contiguous(),
        alibi_slopes=None if alibi_slopes is None else alibi_slopes.float().contiguous(),
    )
    return out, lse


@varlen_attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
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
    alibi_slopes: Optional[torch.Tensor],
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
        alibi_slopes,
        family,
    )
    return out.view(batch, queries, heads, value.shape[3]).transpose(1, 2).contiguous()


@_dense_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
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
    alibi_slopes: Optional[torch.Tensor] = None,
    family: str = "tuned",
) -> torch.Tensor:
    """Dense attention: query [B, Hq, Sq, D], key [B, Hkv, Sk, D], value [B, Hkv, Sk, Dv] -> [B, Hq, Sq, Dv].

    Hq may be a multiple of Hkv (GQA). is_causal aligns the last query with the last key. scale: default 1/sqrt(D).
    sinks, alibi_slopes: [Hq]. Raises SextantInvalidArgument and SextantUnsupported; gradients do not flow.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, torch.Tensor):
            raise SextantInvalidArgument(f"{name} is a {type(tensor).__name__}; allowed: a torch.Tensor [B, H, S, D]")
        if tensor.dim() != 4:
            raise SextantInvalidArgument(f"{name} has shape {list(tensor.shape)}; allowed: [B, H, S, D]")
    expected = [query.shape[0], key.shape[1], key.shape[2]]
    for name, tensor, shape in (("key", key, [*expected, query.shape[3]]), ("value", value, [*expected, value.shape[3]])):
        if list(tensor.shape) != shape:
            raise SextantInvalidArgument(f"{name} has shape {list(tensor.shape)}; allowed: {shape}")
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    out: torch.Tensor = torch.ops.sextant.dense_attention(
        query, key, value, scale, is_causal, sliding_window, logits_soft_cap, sinks, alibi_slopes, family
    )
    return out


def plan(backend: str, spec: api.AttentionSpec, cache: api.KvCacheSpec, *, device: "torch.device | str" = "cpu", **arguments: Any) -> api.Plan:
    """sextant.plan, kept for `run` and `run_mla` by a number that torch.compile can hold; `release` forgets it."""
    made = api.plan(backend, spec, cache, device=device_name(device), **arguments)
    _plans[made._handle] = made
    return made


_plans: "dict[int, api.Plan]" = {}


def release(made: api.Plan) -> None:
    """Forgets a plan made by `plan`."""
    _plans.pop(made._handle, None)


def _kept(handle: int) -> api.Plan:
    if handle not in _plans:
        raise SextantInvalidArgument(f"plan handle is {handle}; allowed: a plan of sextant.torch.plan that was not released")
    return _plans[handle]


@torch.library.custom_op("sextant::paged_attention", mutates_args=("out", "lse", "k_cache", "v_cache"))
def _paged_attention(
    plan_handle: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: Optional[torch.Tensor],
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: Optional[torch.Tensor],
    sinks: Optional[torch.Tensor],
    alibi_slopes: Optional[torch.Tensor],
    k_scale: Optional[torch.Tensor],
    v_scale: Optional[torch.Tensor],
    workspace: Optional[torch.Tensor],
    q_scale: Optional[torch.Tensor] = None,
) -> None:
    _kept(plan_handle).run(
        q=q, k=k, v=v, out=out, lse=lse, k_cache=k_cache, v_cache=v_cache, query_start_loc=query_start_loc, seq_lens=seq_lens,
        block_table=block_table, slot_mapping=slot_mapping, sinks=sinks, alibi_slopes=alibi_slopes, k_scale=k_scale, v_scale=v_scale,
        q_scale=q_scale, workspace=workspace,
    )  # fmt: skip


@_paged_attention.register_fake
def _(*_: Any) -> None:
    return None


@torch.library.custom_op("sextant::paged_mla_attention", mutates_args=("out", "lse", "kv_cache"))
def _paged_mla_attention(
    plan_handle: int,
    q: torch.Tensor,
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    kv_b_proj: torch.Tensor,
    out: torch.Tensor,
    lse: Optional[torch.Tensor],
    kv_cache: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: Optional[torch.Tensor],
    sinks: Optional[torch.Tensor],
    kv_scale: Optional[torch.Tensor],
    workspace: Optional[torch.Tensor],
) -> None:
    _kept(plan_handle).run(
        q=q, kv_c=kv_c, k_pe=k_pe, kv_b_proj=kv_b_proj, out=out, lse=lse, k_cache=kv_cache, query_start_loc=query_start_loc, seq_lens=seq_lens,
        block_table=block_table, slot_mapping=slot_mapping, sinks=sinks, k_scale=kv_scale, v_scale=kv_scale, workspace=workspace,
    )  # fmt: skip


@_paged_mla_attention.register_fake
def _(*_: Any) -> None:
    return None


def run(
    made: api.Plan,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: Optional[torch.Tensor] = None,
    sinks: Optional[torch.Tensor] = None,
    alibi_slopes: Optional[torch.Tensor] = None,
    k_scale: Optional[torch.Tensor] = None,
    v_scale: Optional[torch.Tensor] = None,
    q_scale: Optional[torch.Tensor] = None,
    out: Optional[torch.Tensor] = None,
    lse: Optional[torch.Tensor] = None,
    workspace: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """Runs a plan of `plan` as a custom op: writes k [T, Hkv, D] and v [T, Hkv, Dv] to the cache, gives out [T, Hq, Dv].

    Tensors and errors as in sextant.Plan.run; lse fp32 [Hq, T] is written when given (plan with lse_out=True).
    q may be torch.float8_* where spec.query_dtype says so, with q_scale fp32 [1] or [Hkv].
    """
    if out is None:
        out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])  # v's type: q may be fp8
    torch.ops.sextant.paged_attention(
        made._handle, q, k, v, out, lse, k_cache, v_cache, query_start_loc, seq_lens, block_table, slot_mapping, sinks, alibi_slopes, k_scale,
        v_scale, workspace, q_scale,
    )  # fmt: skip
    return out


def run_mla(
    made: api.Plan,
    q: torch.Tensor,
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    kv_b_proj: torch.Tensor,
    kv_cache: torch.Tensor,
    *,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: Optional[torch.Tensor] = None,
    sinks: Optional[torch.Tensor] = None,
    kv_scale: Optional[torch.Tensor] = None,
    out: Optional[torch.Tensor] = None,
    lse: Optional[torch.Tensor] = None,
    workspace: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """Runs an MLA plan of `plan` as a custom op: writes kv_c and k_pe to the latent cache, gives out [T, N, v_head_dim].

    q [T, N, nope + rope], kv_c [T, rank], k_pe [T, rope], kv_b_proj [N * (nope + v), rank], kv_cache [num_blocks, block_size, rank + rope].
    Errors as in sextant.Plan.run; lse fp32 [N, T] is written when given (plan with lse_out=True).
    """
    if out is None:
        if kv_b_proj.dim() != 2 or kv_b_proj.shape[0] % q.shape[1]:
            raise SextantInvalidArgument(f"kv_b_proj has shape {list(kv_b_proj.shape)}; allowed: [{q.shape[1]} * (nope + v), rank]")
        nope = q.shape[2] - k_pe.shape[-1]
        out = q.new_empty(q.shape[0], q.shape[1], kv_b_proj.shape[0] // q.shape[1] - nope)
    torch.ops.sextant.paged_mla_attention(
        made._handle, q, kv_c, k_pe, kv_b_proj, out, lse, kv_cache, query_start_loc, seq_lens, block_table, slot_mapping, sinks, kv_scale, workspace
    )
    return out


def _start_loc(lens: Sequence[int]) -> tuple[int, ...]:
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
