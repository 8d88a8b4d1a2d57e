"""Attention under a mask of the caller's: cut into runs that the library's rules express, and joined by their
log-sum-exp.
"""

from __future__ import annotations

from typing import Any, Optional

import torch

from sextant import api
from sextant._transformers_mask import parts_of
from sextant.errors import SextantInvalidArgument
from sextant.torch import device_name, varlen_attention, without_gradient

_PREFIX = 64  # keys that all queries see, from which on they are attended to at once


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the mask is read on the host
def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor,
    *,
    scale: float,
    logits_soft_cap: float = 0.0,
    sinks: Optional[torch.Tensor] = None,
    family: str = "tuned",
) -> "tuple[torch.Tensor, torch.Tensor]":
    """sextant.torch.attention under a mask, with its log-sum-exp: (out [T, Hq, Dv], lse fp32 [Hq, T]), T = B * Sq,
    as merge_attn_states takes them.

    query [B, Hq, Sq, D], key [B, Hkv, Sk, D], value [B, Hkv, Sk, Dv]; attn_mask as there. Queries that see no key
    give 0 and -inf.
    """
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    mask = attn_mask[None, None] if attn_mask.dim() == 2 else attn_mask
    if (
        mask.dim() != 4
        or mask.shape[0] not in (1, batch)
        or mask.shape[1] not in (1, heads)
        or mask.shape[2] not in (1, queries)
        or mask.shape[3] != keys
    ):
        raise SextantInvalidArgument(
            f"attn_mask has shape {list(attn_mask.shape)}; allowed: [{queries}, {keys}] or [{batch}, 1, {queries}, "
            f"{keys}], or 1 for each but the last"
        )
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    prefix = _seen_by_all(mask)
    first = _whole(q, key, value, prefix, batch, queries, scale, logits_soft_cap, sinks, family) if prefix else None
    out = q.new_zeros(q.shape[0], heads, v.shape[2])
    lse = torch.full((heads, q.shape[0]), float("-inf"), device=q.device)
    if prefix < keys:
        for part in parts_of(mask[..., prefix:], batch, queries, keys - prefix, False, 0):
            rows = part.queries[0] * queries + part.queries[1]
            columns = part.keys[0] * keys + prefix + part.keys[1]
            rule: dict[str, Any] = {name: value for name, value in part.rule if name != "max_span_len"}  # the spans tell it
            found, its_lse = varlen_attention(
                q[rows],
                k[columns],
                v[columns],
                list(part.query_lens),
                list(part.key_lens),
                scale,
                logits_soft_cap=logits_soft_cap,
                sinks=sinks if first is None else None,
                family=family,
                token_spans=part.spans,
                **{"causal": False, **rule},
            )
            out[rows], lse[:, rows] = found, its_lse
    if first is not None:
        both, both_lse = torch.empty_like(out), torch.empty_like(lse)
        api.merge_attn_states(*first, out, lse, both, both_lse, device=device_name(q.device))
        out, lse = both, both_lse
    return without_gradient(out, query, key, value, sinks), without_gradient(lse, query, key, value, sinks)


def _seen_by_all(mask: torch.Tensor) -> int:
    """How many of the first keys every query sees, where that is worth an attention of its own."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    columns = int(seen.all(0).all(0).all(0).int().cumprod(0).sum())
    return columns if columns >= _PREFIX else 0


def _whole(
    q: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: int,
    batch: int,
    queries: int,
    scale: float,
    logits_soft_cap: float,
    sinks: Optional[torch.Tensor],
    family: str,
) -> "tuple[torch.Tensor, torch.Tensor]":
    k, v = (x[:, :, :prefix].transpose(1, 2).flatten(0, 1) for x in (key, value))
    return varlen_attention(
        q,
        k,
        v,
        [queries] * batch,
        [prefix] * batch,
        scale,
        causal=False,
        logits_soft_cap=logits_soft_cap,
        sinks=sinks,
        family=family,
    )
