"""PyTorch: custom ops through torch.library (torch.compile and CUDA graphs work), dense attention, and paged plan / run.

    out = sextant.torch.attention(q, k, v, is_causal=True)          # [B, H, S, D], as scaled_dot_product_attention

    plan = sextant.torch.plan("ROCM_AITER_FA", spec, cache, query_start_loc=..., seq_lens=..., block_table=...)
    out = sextant.torch.run(plan, q, k, v, k_cache, v_cache, ...)          # MHA backends
    out = sextant.torch.run_mla(plan, q, kv_c, k_pe, kv_b_proj, kv_cache, ...)  # MLA backends

In a CUDA graph: run the same shapes once before the capture, as PyTorch asks for anyway. Plans and the lengths that live on the device are made
then; a call in a capture makes none.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Sequence, cast

import torch
from torch.autograd import forward_ad

from sextant import api
from sextant.errors import SextantInvalidArgument, SextantUnsupported

if TYPE_CHECKING:
    from sextant._torch_mask import masked_attention as masked_attention


def __getattr__(name: str) -> Any:
    if name == "masked_attention":  # made of what stands here
        from sextant._torch_mask import masked_attention

        return masked_attention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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


# Through the dispatcher itself: torch.library.custom_op's wrapper takes several times as long as a small call.
_ops = torch.library.Library("sextant", "DEF")


def _op(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """An op on every device, torch.ops.sextant.NAME. Gradients do not pass it; the functions that call it refuse them (`without_gradient`)."""
    name = schema.partition("(")[0]
    _ops.define(schema)
    _ops.impl(name, implementation, "CompositeExplicitAutograd")
    _ops.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"sextant::{name}", fake, lib=_ops)
    overload: Callable[..., Any] = getattr(torch.ops.sextant, name).default
    return overload


_NO_TRAINING = (
    "of query, key or value is asked for; allowed: forward passes (Sextant serves, it does not train; sinks, slopes and kv_b_proj get no gradient either)"
)


class _NoGradient(torch.autograd.Function):
    """Passes a result on; `backward` is refused by name instead of losing the gradients of what went in."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise SextantUnsupported(f"a gradient {_NO_TRAINING}")


def without_gradient(out: torch.Tensor, *inputs: Optional[torch.Tensor]) -> torch.Tensor:
    """`out`, from which no gradient goes back to the inputs: a `backward` that asks for one raises SextantUnsupported."""
    refuse_derivatives(*inputs)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return cast(torch.Tensor, _NoGradient.apply(out, *(x for x in inputs if x is not None)))  # type: ignore[no-untyped-call]
    return out


def refuse_derivatives(*inputs: Optional[torch.Tensor]) -> None:
    """Of forward mode (`torch.func.jvp`, dual tensors) and of `torch.func.grad`, which would take the result for a constant."""
    if torch.compiler.is_compiling() or (forward_ad._current_level < 0 and torch._C._functorch.peek_interpreter_stack() is None):
        return
    for x in inputs:
        if x is not None and _has_derivative(x):
            raise SextantUnsupported(f"a derivative {_NO_TRAINING}")


def _has_derivative(x: torch.Tensor) -> bool:
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_gradtrackingtensor(x):
            return True
        x = functorch.get_unwrapped(x)  # of vmap
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None


_CACHED_PLANS = 256
_varlen_plans: "OrderedDict[tuple[Any, ...], _Varlen]" = OrderedDict()
_varlen_lock = threading.Lock()
_captured: "set[_Varlen]" = set()  # a captured graph reads these at every replay: they stay
api._forget_plans.append(_varlen_plans.clear)


def _varlen(spec: api.AttentionSpec, query_lens: tuple[int, ...], key_lens: tuple[int, ...], device: torch.device, family: str, lse_out: bool) -> _Varlen:
    key = (spec, query_lens, key_lens, device, family, lse_out)
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
        spec, query_start_loc=query_start_loc, key_start_loc=key_start_loc, device=device_name(device), family=cast(api.Family, family), lse_out=lse_out
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


def _spec(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float, causal: bool, sliding_window: int, logits_soft_cap: float, has_sinks: bool,
    has_alibi: bool, window_left: int, window_right: int, max_span_len: int = 0,
) -> api.AttentionSpec:  # fmt: skip
    return _kept_spec(
        q.shape[1], k.shape[1], q.shape[2], v.shape[2], softmax_scale, q.dtype, causal, sliding_window, logits_soft_cap, has_sinks, has_alibi, window_left,
        window_right, max_span_len,
    )  # fmt: skip


@functools.lru_cache(maxsize=256, typed=True)
def _kept_spec(
    num_heads: int, num_kv_heads: int, head_dim: int, head_dim_v: int, softmax_scale: float, dtype: torch.dtype, causal: bool, sliding_window: int,
    logits_soft_cap: float, has_sinks: bool, has_alibi: bool, window_left: int, window_right: int, max_span_len: int,
) -> api.AttentionSpec:  # fmt: skip
    return api.AttentionSpec(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, head_dim_v=head_dim_v, softmax_scale=softmax_scale, dtype=dtype_name(dtype),
        causal=causal, sliding_window=sliding_window, window_left=window_left, window_right=window_right, logits_soft_cap=logits_soft_cap,
        has_sinks=has_sinks, has_alibi=has_alibi, max_span_len=max_span_len,
    )  # fmt: skip


def _floats(per_head: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
    return None if per_head is None else per_head.float().contiguous()


def _run_varlen(
    spec: api.AttentionSpec, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: Optional[torch.Tensor],
    query_lens: tuple[int, ...], key_lens: tuple[int, ...], sinks: Optional[torch.Tensor], alibi_slopes: Optional[torch.Tensor], family: str,
    token_spans: Optional[torch.Tensor] = None,
) -> None:  # fmt: skip
    made = _varlen(spec, query_lens, key_lens, q.device, family, lse is not None)
    made.plan.run(
        q=last_dense(q), k=last_dense(k), v=last_dense(v), out=out, lse=lse, query_start_loc=made.query_start_loc, key_start_loc=made.key_start_loc,
        seq_lens=made.seq_lens, sinks=_floats(sinks), alibi_slopes=_floats(alibi_slopes),
        token_spans=token_spans.to(torch.int32).contiguous() if token_spans is not None and spec.max_span_len else None,
    )  # fmt: skip


def _varlen_op(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, query_lens: list[int], key_lens: list[int], softmax_scale: float, causal: bool = True,
    sliding_window: int = 0, logits_soft_cap: float = 0.0, sinks: Optional[torch.Tensor] = None, alibi_slopes: Optional[torch.Tensor] = None,
    family: str = "tuned", window_left: int = -1, window_right: int = -1, token_spans: Optional[torch.Tensor] = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 3:
            raise SextantInvalidArgument(f"{name} has shape {list(tensor.shape)}; allowed: [T, H, D]")
    tokens, keys = sum(query_lens), sum(key_lens)
    if tokens > q.shape[0] or keys > k.shape[0]:
        raise SextantInvalidArgument(f"query_lens sum to {tokens} and key_lens to {keys}; allowed: at most {q.shape[0]} and {k.shape[0]}")
    spec = _spec(
        q, k, v, softmax_scale, causal, sliding_window, logits_soft_cap, sinks is not None, alibi_slopes is not None, window_left, window_right,
        _longest_span(token_spans),
    )  # fmt: skip
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)
    if tokens < q.shape[0]:
        out[tokens:], lse[:, tokens:] = 0, -math.inf
    _run_varlen(spec, q, k, v, out, lse, tuple(query_lens), tuple(key_lens), sinks, alibi_slopes, family, token_spans)
    return out, lse


def _varlen_fake(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2]), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


_varlen_overload = _op(
    "varlen_attention(Tensor q, Tensor k, Tensor v, SymInt[] query_lens, SymInt[] key_lens, float softmax_scale, bool causal=True, SymInt sliding_window=0, "
    'float logits_soft_cap=0.0, Tensor? sinks=None, Tensor? alibi_slopes=None, str family="tuned", SymInt window_left=-1, SymInt window_right=-1, '
    "Tensor? token_spans=None) -> (Tensor, Tensor)",
    _varlen_op,
    _varlen_fake,
)


def varlen_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_lens: Sequence[int],
    key_lens: Sequence[int],
    softmax_scale: float,
    causal: bool = True,
    sliding_window: int = 0,
    logits_soft_cap: float = 0.0,
    sinks: Optional[torch.Tensor] = None,
    alibi_slopes: Optional[torch.Tensor] = None,
    family: str = "tuned",
    window_left: int = -1,
    window_right: int = -1,
    token_spans: Optional[torch.Tensor] = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of packed q [T, Hq, D] over packed k [Tk, Hkv, D], v [Tk, Hkv, Dv]: (out [T, Hq, Dv], lse fp32 [Hq, T]).

    query_lens and key_lens give the tokens of each sequence; causal is bottom-right aligned. Rows of q past them give 0 and an lse of -inf.
    token_spans: integers [T, 2], (begin, end) of the span in which a token and all others of it see one another; begin >= end: none.
    The op is torch.ops.sextant.varlen_attention. Raises SextantInvalidArgument and SextantUnsupported; gradients are refused in `backward`.
    """
    out, lse = _varlen_overload(
        q, k, v, list(query_lens), list(key_lens), softmax_scale, causal, sliding_window, logits_soft_cap, sinks, alibi_slopes, family, window_left,
        window_right, token_spans,
    )  # fmt: skip
    return without_gradient(out, q, k, v, sinks, alibi_slopes), without_gradient(lse, q, k, v, sinks, alibi_slopes)


def _longest_span(token_spans: Optional[torch.Tensor]) -> int:
    """The power of two that holds every span, so that plans are found again; 0: there are none."""
    if token_spans is None or token_spans.numel() == 0:
        return 0
    if token_spans.dim() != 2 or token_spans.shape[1] != 2:
        raise SextantInvalidArgument(f"token_spans has shape {list(token_spans.shape)}; allowed: [T, 2]")
    longest = int((token_spans[:, 1] - token_spans[:, 0]).max())
    return 1 << (longest - 1).bit_length() if longest > 0 else 0


def _dense_op(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float, causal: bool, sliding_window: int, logits_soft_cap: float,
    sinks: Optional[torch.Tensor], alibi_slopes: Optional[torch.Tensor], family: str, window_left: int, window_right: int,
    token_spans: Optional[torch.Tensor] = None,
) -> torch.Tensor:  # fmt: skip
    batch, heads, queries, _ = query.shape
    q, k, v = _packed(query), _packed(key), _packed(value)
    spans = None if token_spans is None else token_spans.reshape(batch * queries, 2)
    spec = _spec(
        q, k, v, softmax_scale, causal, sliding_window, logits_soft_cap, sinks is not None, alibi_slopes is not None, window_left, window_right,
        _longest_span(spans),
    )  # fmt: skip
    out = q.new_empty(batch * queries, heads, v.shape[2])
    _run_varlen(spec, q, k, v, out, None, (queries,) * batch, (key.shape[2],) * batch, sinks, alibi_slopes, family, spans)
    return out.view(batch, queries, heads, v.shape[2]).transpose(1, 2)


def _dense_fake(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3]).transpose(1, 2)


_dense_overload = _op(
    "dense_attention(Tensor query, Tensor key, Tensor value, float softmax_scale, bool causal, SymInt sliding_window, float logits_soft_cap, Tensor? sinks, "
    "Tensor? alibi_slopes, str family, SymInt window_left, SymInt window_right, Tensor? token_spans=None) -> Tensor",
    _dense_op,
    _dense_fake,
)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    *,
    is_causal: bool = False,
    scale: Optional[float] = None,
    sliding_window: int = 0,
    window_left: int = -1,
    window_right: int = -1,
    logits_soft_cap: float = 0.0,
    sinks: Optional[torch.Tensor] = None,
    alibi_slopes: Optional[torch.Tensor] = None,
    token_spans: Optional[torch.Tensor] = None,
    family: str = "tuned",
) -> torch.Tensor:
    """Dense attention: query [B, Hq, Sq, D], key [B, Hkv, Sk, D], value [B, Hkv, Sk, Dv] -> [B, Hq, Sq, Dv].

    Hq may be a multiple of Hkv (GQA). is_causal aligns the last query with the last key. scale: default 1/sqrt(D).
    attn_mask: bool (True: seen) or floats of 0 and -inf, [Sq, Sk] or [B, 1, Sq, Sk]; queries that see no key give 0. It is read on the host and cut
    into runs of rows that grow, are equal or form a band, so a mask without any such rule is refused when it is large.
    sliding_window with is_causal; window_left and window_right (-1: all) to both sides.
    token_spans: integers [B, Sq, 2] or [Sq, 2] for all entries: (begin, end) of each query's span in positions of the keys, whose tokens see
    one another whatever the mask says (images of Gemma 3); begin >= end: none. Not beside attn_mask.
    sinks, alibi_slopes: [Hq]. Raises SextantInvalidArgument and SextantUnsupported; gradients are refused in `backward`.
    """
    plain = type(query) is type(key) is type(value) is torch.Tensor
    if not plain or not _fit(query.shape, key.shape, value.shape):
        _check_dense(query, key, value)
    if token_spans is not None:
        if token_spans.shape[-2:] != (query.shape[2], 2) or token_spans.dim() not in (2, 3) or token_spans.shape[:-2] not in ((), query.shape[:1]):
            raise SextantInvalidArgument(f"token_spans has shape {list(token_spans.shape)}; allowed: {[query.shape[0], query.shape[2], 2]}")
        token_spans = token_spans.expand(query.shape[0], -1, -1)
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        if is_causal or sliding_window or window_left >= 0 or window_right >= 0 or alibi_slopes is not None or token_spans is not None:
            raise SextantInvalidArgument(
                "attn_mask was given with is_causal, a window, alibi_slopes or token_spans; allowed: the mask alone, which says all"
            )
        from sextant._torch_mask import masked_attention

        masked, _ = masked_attention(query, key, value, attn_mask, scale=scale, logits_soft_cap=logits_soft_cap, sinks=sinks, family=family)
        shape = query.shape[0], query.shape[2], query.shape[1], value.shape[3]
        return without_gradient(masked.view(shape).transpose(1, 2), query, key, value, sinks)
    how = scale, is_causal, sliding_window, logits_soft_cap, sinks, alibi_slopes, family, window_left, window_right
    plain = plain and token_spans is None and not torch.compiler.is_compiling()
    at_once = plain and _lies_in_order(query) and _lies_in_order(key) and _lies_in_order(value) and not _watched()
    out: torch.Tensor = _dense_at_once(query, key, value, *how) if at_once else _dense_overload(query, key, value, *how, token_spans)
    return without_gradient(out, query, key, value, sinks, alibi_slopes)


def _fit(query: torch.Size, key: torch.Size, value: torch.Size) -> bool:
    """Whether these are shapes of one attention."""
    if len(query) != 4 or len(key) != 4 or len(value) != 4:
        return False
    batch, heads, keys, dim = key
    return query[0] == batch == value[0] and query[3] == dim and value[1] == heads and value[2] == keys


def _check_dense(query: Any, key: Any, value: Any) -> None:
    """Names what does not fit; tensors of other classes than PyTorch's own may."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, torch.Tensor):
            raise SextantInvalidArgument(f"{name} is a {type(tensor).__name__}; allowed: a torch.Tensor [B, H, S, D]")
        if tensor.dim() != 4:
            raise SextantInvalidArgument(f"{name} has shape {list(tensor.shape)}; allowed: [B, H, S, D]")
    _, heads, keys, _ = key.shape
    for name, tensor, width in (("key", key, query.shape[3]), ("value", value, value.shape[3])):
        shape = (query.shape[0], heads, keys, width)
        if tensor.shape != shape:
            raise SextantInvalidArgument(f"{name} has shape {list(tensor.shape)}; allowed: {list(shape)}")


def _lies_in_order(x: torch.Tensor) -> bool:
    """A CPU tensor [B, H, S, D] whose rows follow one another as [B * S, H, D] does."""
    if not x.is_cpu or x.layout is not torch.strided:
        return False
    stride, shape = x.stride(), x.shape
    return stride[3] == 1 and not x.is_neg() and (shape[0] == 1 or stride[0] == shape[2] * stride[2])


def _at_once(q: torch.Tensor, cache: torch.Tensor) -> bool:
    """Whether the op itself is all that the dispatcher would find: tensors with memory, of no subclass, unwatched."""
    return (
        not torch.compiler.is_compiling()
        and type(q) is torch.Tensor
        and type(cache) is torch.Tensor
        and not q.is_meta
        and not _watched()
    )


def _watched() -> bool:
    """Whether something (torch.compile, a tracer, vmap, a mode) wants to see the op and not its result."""
    seen: bool = (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.compiler.is_compiling()
    )
    return seen


def _dense_at_once(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float, causal: bool, sliding_window: int, logits_soft_cap: float,
    sinks: Optional[torch.Tensor], alibi_slopes: Optional[torch.Tensor], family: str, window_left: int, window_right: int,
) -> torch.Tensor:  # fmt: skip
    """What `_dense_op` does, without the dispatcher and without a view of each tensor: half of a small call's time."""
    shape = query.shape
    made = _dense_plan(
        shape, key.shape, value.shape[3], query.dtype, query.device, softmax_scale, causal, sliding_window, logits_soft_cap, sinks is not None,
        alibi_slopes is not None, family, window_left, window_right,
    )  # fmt: skip
    batch, heads, queries, _ = shape
    dim = value.shape[3]
    out = query.new_empty_strided((batch, heads, queries, dim), (queries * heads * dim, dim, heads * dim, 1))  # rows of [B, S, H, D]
    if sinks is None and alibi_slopes is None and not (query.requires_grad or key.requires_grad or value.requires_grad):
        made.plan._run_plain(query, key, value, out)
    else:
        made.plan.run(q=query, k=key, v=value, out=out, sinks=_floats(sinks), alibi_slopes=_floats(alibi_slopes))
    return out


@functools.lru_cache(maxsize=_CACHED_PLANS, typed=True)
def _dense_plan(
    query: torch.Size, key: torch.Size, head_dim_v: int, dtype: torch.dtype, device: torch.device, softmax_scale: float, causal: bool, sliding_window: int,
    logits_soft_cap: float, has_sinks: bool, has_alibi: bool, family: str, window_left: int, window_right: int,
) -> _Varlen:  # fmt: skip
    spec = _kept_spec(
        query[1], key[1], query[3], head_dim_v, softmax_scale, dtype, causal, sliding_window, logits_soft_cap, has_sinks, has_alibi, window_left,
        window_right, 0,
    )  # fmt: skip
    return _varlen(spec, (query[2],) * query[0], (key[2],) * key[0], device, family, False)


api._forget_plans.append(_dense_plan.cache_clear)


def plan(backend: str, spec: api.AttentionSpec, cache: api.KvCacheSpec, *, device: "torch.device | str" = "cpu", **arguments: Any) -> api.Plan:
    """sextant.plan, found by `run` and `run_mla` through a number that torch.compile can hold. It lives as long as the caller keeps it.

    `release` forgets it at once: a later `run` is refused.
    """
    made = api.plan(backend, spec, cache, device=device_name(device), **arguments)
    _plans[made._handle] = made
    return made


_plans: "weakref.WeakValueDictionary[int, api.Plan]" = weakref.WeakValueDictionary()


def release(made: api.Plan) -> None:
    """Forgets a plan made by `plan`."""
    _plans.pop(made._handle, None)


def _kept(handle: int) -> api.Plan:
    found = _plans.get(handle)
    if found is None:
        raise SextantInvalidArgument(f"plan handle is {handle}; allowed: a plan of sextant.torch.plan that the caller keeps and that was not released")
    return found


def _written(*tensors: Optional[torch.Tensor]) -> None:
    """The dispatcher does not count what an op wrote; autograd's check of tensors that it saved needs it."""
    if not torch.is_inference_mode_enabled():
        torch.autograd.graph.increment_version([x for x in tensors if x is not None and not x.is_inference()])  # type: ignore[no-untyped-call]


def _paged_op(
    plan_handle: int, q: torch.Tensor, k: Optional[torch.Tensor], v: Optional[torch.Tensor], out: torch.Tensor, lse: Optional[torch.Tensor], k_cache: torch.Tensor,
    v_cache: torch.Tensor, query_start_loc: torch.Tensor, seq_lens: torch.Tensor, block_table: torch.Tensor, slot_mapping: Optional[torch.Tensor],
    sinks: Optional[torch.Tensor], alibi_slopes: Optional[torch.Tensor], k_scale: Optional[torch.Tensor], v_scale: Optional[torch.Tensor],
    workspace: Optional[torch.Tensor], q_scale: Optional[torch.Tensor] = None,
    token_spans: Optional[torch.Tensor] = None, next_layer: bool = False,
) -> None:  # fmt: skip
    _kept(plan_handle).run(
        q=q, k=k, v=v, out=out, lse=lse, k_cache=k_cache, v_cache=v_cache, query_start_loc=query_start_loc, seq_lens=seq_lens,
        block_table=block_table, slot_mapping=slot_mapping, sinks=sinks, alibi_slopes=alibi_slopes, k_scale=k_scale, v_scale=v_scale,
        q_scale=q_scale, token_spans=token_spans, workspace=workspace, next_layer=next_layer,
    )  # fmt: skip
    _written(out, lse, k_cache, v_cache)


def _nothing(*_: Any) -> None:
    return None


_paged_overload = _op(
    "paged_attention(SymInt plan_handle, Tensor q, Tensor? k, Tensor? v, Tensor(a!) out, Tensor(b!)? lse, Tensor(c!) k_cache, Tensor(d!) v_cache, "
    "Tensor query_start_loc, Tensor seq_lens, Tensor block_table, Tensor? slot_mapping, Tensor? sinks, Tensor? alibi_slopes, Tensor? k_scale, "
    "Tensor? v_scale, Tensor? workspace, Tensor? q_scale=None, Tensor? token_spans=None, bool next_layer=False) -> ()",
    _paged_op,
    _nothing,
)


def _paged_mla_op(
    plan_handle: int, q: torch.Tensor, kv_c: Optional[torch.Tensor], k_pe: Optional[torch.Tensor], kv_b_proj: torch.Tensor, out: torch.Tensor, lse: Optional[torch.Tensor],
    kv_cache: torch.Tensor, query_start_loc: torch.Tensor, seq_lens: torch.Tensor, block_table: torch.Tensor, slot_mapping: Optional[torch.Tensor],
    sinks: Optional[torch.Tensor], kv_scale: Optional[torch.Tensor], workspace: Optional[torch.Tensor],
    token_spans: Optional[torch.Tensor] = None, next_layer: bool = False,
) -> None:  # fmt: skip
    _kept(plan_handle).run(
        q=q, kv_c=kv_c, k_pe=k_pe, kv_b_proj=kv_b_proj, out=out, lse=lse, k_cache=kv_cache, query_start_loc=query_start_loc, seq_lens=seq_lens,
        block_table=block_table, slot_mapping=slot_mapping, sinks=sinks, k_scale=kv_scale, v_scale=kv_scale,
        token_spans=token_spans, workspace=workspace, next_layer=next_layer,
    )  # fmt: skip
    _written(out, lse, kv_cache)


_paged_mla_overload = _op(
    "paged_mla_attention(SymInt plan_handle, Tensor q, Tensor? kv_c, Tensor? k_pe, Tensor kv_b_proj, Tensor(a!) out, Tensor(b!)? lse, Tensor(c!) kv_cache, "
    "Tensor query_start_loc, Tensor seq_lens, Tensor block_table, Tensor? slot_mapping, Tensor? sinks, Tensor? kv_scale, Tensor? workspace, "
    "Tensor? token_spans=None, bool next_layer=False) -> ()",
    _paged_mla_op,
    _nothing,
)


def run(
    made: api.Plan,
    q: torch.Tensor,
    k: Optional[torch.Tensor],
    v: Optional[torch.Tensor],
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
    token_spans: Optional[torch.Tensor] = None,
    out: Optional[torch.Tensor] = None,
    lse: Optional[torch.Tensor] = None,
    workspace: Optional[torch.Tensor] = None,
    next_layer: bool = False,
) -> torch.Tensor:
    """Runs a plan of `plan` as a custom op: writes k [T, Hkv, D] and v [T, Hkv, Dv] to the cache, gives out [T, Hq, Dv].

    k and v may be None without a slot_mapping: all keys come from the cache. Give `out` then.
    Tensors, next_layer and errors as in sextant.Plan.run; lse fp32 [Hq, T] is written when given (plan with lse_out=True).
    q may be torch.float8_* where spec.query_dtype says so, with q_scale fp32 [1] or [Hkv].
    """
    refuse_derivatives(q, k, v, sinks, alibi_slopes)
    if out is None:
        if v is None:
            raise SextantInvalidArgument("out is None without v, which tells its type and size; allowed: out [T, Hq, Dv]")
        out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])  # v's type: q may be fp8
    (_paged_op if _at_once(q, k_cache) else _paged_overload)(
        made._handle, q, k, v, out, lse, k_cache, v_cache, query_start_loc, seq_lens, block_table, slot_mapping, sinks, alibi_slopes, k_scale,
        v_scale, workspace, q_scale, token_spans, next_layer,
    )  # fmt: skip
    return without_gradient(out, q, k, v, sinks, alibi_slopes)


def run_mla(
    made: api.Plan,
    q: torch.Tensor,
    kv_c: Optional[torch.Tensor],
    k_pe: Optional[torch.Tensor],
    kv_b_proj: torch.Tensor,
    kv_cache: torch.Tensor,
    *,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: Optional[torch.Tensor] = None,
    sinks: Optional[torch.Tensor] = None,
    kv_scale: Optional[torch.Tensor] = None,
    token_spans: Optional[torch.Tensor] = None,
    out: Optional[torch.Tensor] = None,
    lse: Optional[torch.Tensor] = None,
    workspace: Optional[torch.Tensor] = None,
    next_layer: bool = False,
) -> torch.Tensor:
    """Runs an MLA plan of `plan` as a custom op: writes kv_c and k_pe to the latent cache, gives out [T, N, v_head_dim].

    q [T, N, nope + rope], kv_c [T, rank], k_pe [T, rope], kv_b_proj [N * (nope + v), rank], kv_cache [num_blocks, block_size, rank + rope].
    next_layer and errors as in sextant.Plan.run; lse fp32 [N, T] is written when given (plan with lse_out=True). Without slot_mapping the cache holds
    every key: kv_c and k_pe may be None.
    """
    refuse_derivatives(q, kv_c, k_pe, kv_b_proj, sinks)
    if out is None:
        if kv_b_proj.dim() != 2 or kv_b_proj.shape[0] % q.shape[1]:
            raise SextantInvalidArgument(f"kv_b_proj has shape {list(kv_b_proj.shape)}; allowed: [{q.shape[1]} * (nope + v), rank]")
        if k_pe is None:
            raise SextantInvalidArgument("out is None and k_pe is None; allowed: a tensor out where k_pe does not say how much of q is rope")
        nope = q.shape[2] - k_pe.shape[-1]
        out = q.new_empty(q.shape[0], q.shape[1], kv_b_proj.shape[0] // q.shape[1] - nope)
    (_paged_mla_op if _at_once(q, kv_cache) else _paged_mla_overload)(
        made._handle, q, kv_c, k_pe, kv_b_proj, out, lse, kv_cache, query_start_loc, seq_lens, block_table, slot_mapping, sinks, kv_scale, workspace,
        token_spans, next_layer,
    )  # fmt: skip
    return without_gradient(out, q, kv_c, k_pe, kv_b_proj, sinks)


def _start_loc(lens: Sequence[int]) -> tuple[int, ...]:
    total, locs = 0, [0]
    for n in lens:
        total += int(n)
        locs.append(total)
    return tuple(locs)


def _packed(tensor: torch.Tensor) -> torch.Tensor:
    """[B, H, S, D] -> [B * S, H, D]; a view when memory allows."""
    batch, heads, length, dim = tensor.shape
    if batch == 1:
        return tensor[0].transpose(0, 1)
    return tensor.transpose(1, 2).reshape(batch * length, heads, dim)


def last_dense(tensor: torch.Tensor) -> torch.Tensor:
    """Its last stride is 1, as the library reads rows."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
