"""plan / run, selection and single ops over DLPack tensors."""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass, field
from typing import Any, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from sextant._describe import device_of, dump, fields, host_integers
from sextant._dlpack import Tensor, chosen_stream, current_stream, device_beside, has_own_streams, passed, required, workspace_beside
from sextant._library import library
from sextant.errors import SextantInvalidArgument

HostIntegers = Union[Sequence[int], "npt.NDArray[np.integer[Any]]", Tensor]  # read on the host; a GPU's tensor is copied there
HostTable = Union[Sequence[Sequence[int]], "npt.NDArray[np.integer[Any]]", Tensor]


@dataclass(frozen=True)
class AttentionSpec:
    """What attention a model wants.

    num_heads, num_kv_heads: query and KV heads; num_kv_heads divides num_heads.
    head_dim, head_dim_v: head sizes of Q/K and of V (0: the same), 8..256 in steps of 8.
    softmax_scale: explicit, usually 1/sqrt(head_dim).
    sliding_window: keep the W newest keys, own position included; 0 = no window.
    logits_soft_cap: cap * tanh(score / cap); 0 = none.
    dtype: "fp32", "fp16" or "bf16" of q, k, v and out.
    query_dtype: of q where it is not dtype: "fp8_e4m3fn", "fp8_e4m3fnuz" or "fp8_e5m2", whose values are stored * q_scale. Not for MLA.
    kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: multi-head latent attention; 0 = none.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    softmax_scale: float
    dtype: str = "bf16"
    head_dim_v: int = 0
    causal: bool = True
    sliding_window: int = 0
    logits_soft_cap: float = 0.0
    has_sinks: bool = False
    has_alibi: bool = False
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    query_dtype: str = ""


@dataclass(frozen=True)
class KvCacheSpec:
    """A paged cache of one layer.

    num_blocks, block_size: blocks, and tokens a block (any number >= 1).
    num_kv_heads, head_dim, head_dim_v: KV heads and the head sizes of K and V (0: the same). Latent caches: 1, rank + rope, rank.
    dtype: "fp32", "fp16", "bf16", "fp8_e4m3fn", "fp8_e4m3fnuz" or "fp8_e5m2".
    layout: "preferred" (the backend's own), NHD, HND, split_k, shuffled, packed, latent; `cache_shape` tells the arrays' shapes.
    """

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: str = "bf16"
    head_dim_v: int = 0
    layout: str = "preferred"


@dataclass(frozen=True)
class Candidate:
    """A backend, whether it was chosen, and why or why not."""

    name: str
    chosen: bool
    reasons: list[str]


@dataclass(frozen=True)
class Selection:
    """chosen: the backend's name; candidates: all six with their reasons; warnings: near misses of the variable's name."""

    chosen: str
    source: str
    candidates: list[Candidate]
    warnings: list[str] = field(default_factory=list)


def devices() -> list[dict[str, Any]]:
    """Every device kind: built, available, why not, and the devices found."""
    return list(json.loads(library["devices"]()))


def backends() -> list[dict[str, Any]]:
    """The six backends: name, category, kernel family, strategy, how to enable."""
    return list(json.loads(library["backends"]()))


def select(spec: AttentionSpec, cache: KvCacheSpec, backend: Optional[str] = None, device: str = "cpu") -> Selection:
    """Chooses a backend: `backend`, else VLLM_ATTENTION_BACKEND, else automatically.

    Raises SextantNotFound for an unknown name and SextantUnsupported when the explicit choice cannot serve.
    """
    kind, index = device_of(device)
    answer = json.loads(
        library["select"](dump(device=kind, device_index=index, spec=fields("spec", spec, AttentionSpec), cache=fields("cache", cache, KvCacheSpec), backend=backend))
    )
    candidates = [Candidate(**c) for c in answer["candidates"]]
    return Selection(answer["chosen"], answer["source"], candidates, answer["warnings"])


def cache_shape(cache: KvCacheSpec, backend: Optional[str] = None, device: str = "cpu") -> tuple[list[int], list[int], str]:
    """(k_shape, v_shape, layout) of a cache; v_shape is empty for the latent layout.

    The layout "preferred" asks what `backend` likes on the device. Raises SextantInvalidArgument and SextantNotFound.
    """
    if backend is None:
        _refuse_preferred(cache)
    kind, index = device_of(device)
    named = {} if backend is None else {"backend": backend}
    answer = json.loads(library["cache_shape"](dump(device=kind, device_index=index, cache=fields("cache", cache, KvCacheSpec), **named)))
    return answer["k_shape"], answer["v_shape"], answer["layout"]


def _refuse_preferred(cache: KvCacheSpec) -> None:
    if getattr(cache, "layout", None) == "preferred":
        raise SextantInvalidArgument('cache.layout is "preferred" and no backend is named; allowed: the layout that cache_shape gives for the backend')


class Plan:
    """A planned step. Made by `plan`; reused by every layer of the step."""

    def __init__(self, handle: int, device: str):
        self._handle = handle
        self._device = device
        self._finalizer = weakref.finalize(self, library["plan_free"], handle)
        info = json.loads(library["plan_info"](handle))
        self.backend: str = info["backend"]
        self.workspace_bytes: int = info["workspace_bytes"]
        self.layout: str = info["layout"]
        self.steps: list[str] = info["steps"]

    def run(
        self,
        *,
        q: Tensor,
        out: Tensor,
        k_cache: Tensor,
        query_start_loc: Tensor,
        seq_lens: Tensor,
        block_table: Tensor,
        k: Optional[Tensor] = None,
        v: Optional[Tensor] = None,
        v_cache: Optional[Tensor] = None,
        lse: Optional[Tensor] = None,
        kv_c: Optional[Tensor] = None,
        k_pe: Optional[Tensor] = None,
        kv_b_proj: Optional[Tensor] = None,
        k_scale: Optional[Tensor] = None,
        v_scale: Optional[Tensor] = None,
        slot_mapping: Optional[Tensor] = None,
        sinks: Optional[Tensor] = None,
        alibi_slopes: Optional[Tensor] = None,
        q_scale: Optional[Tensor] = None,
        workspace: Optional[Tensor] = None,
        stream: Optional[int] = None,
    ) -> None:
        """Launches the step on the caller's current stream (`stream`: another one, as the driver's pointer), and waits only for JAX on a GPU.

        q [T, Hq, D]; k [T, Hkv, D]; v [T, Hkv, Dv]; out [T, Hq, Dv] (written); lse fp32 [Hq, T], natural logarithm, with lse_out.
        MLA: q [T, N, nope + rope], kv_c [T, rank], k_pe [T, rope], kv_b_proj [N * (nope + v), rank] instead of k and v.
        query_start_loc int32 [B + 1], seq_lens int32 [B], block_table int32 [B, max_blocks], slot_mapping int64 [T] (negative:
        not written; None: the cache already holds the new tokens). All on the plan's device.
        k_scale, v_scale: fp32 [1] or [Hkv] of an fp8 cache. q_scale: fp32 [1] or [Hkv] of fp8 queries. sinks, alibi_slopes: fp32 [Hq].
        workspace: at least workspace_bytes, 256-byte aligned; None: allocated with q's library.

        Raises SextantInvalidArgument (dtype, shape, stride, device or a missing tensor; on the CPU also a batch that is not the planned
        one) and SextantResourceExhausted (small workspace), before anything is written.
        """
        tensors = passed(
            q=q, k=k, v=v, out=out, lse=lse, kv_c=kv_c, k_pe=k_pe, kv_b_proj=kv_b_proj, k_cache=k_cache, v_cache=v_cache, k_scale=k_scale,
            v_scale=v_scale, query_start_loc=query_start_loc, seq_lens=seq_lens, block_table=block_table, slot_mapping=slot_mapping, sinks=sinks,
            alibi_slopes=alibi_slopes, q_scale=q_scale,
        )  # fmt: skip
        stream = chosen_stream(stream, q)
        scratch = workspace_beside(q, self.workspace_bytes, stream) if workspace is None else workspace
        library["plan_run"](self._handle, *tensors, *passed(workspace=scratch), stream)
        _wait(self._device, stream, tensors)


def _wait(device: str, stream: int, tensors: Sequence[Any]) -> None:
    """A library that has streams of its own cannot wait for ours: it gets its tensors back when the work is done."""
    kind, index = device_of(device)
    if kind in ("cuda", "hip") and any(map(has_own_streams, tensors)):
        library["synchronize"](dump(device=kind, device_index=index), stream)


def plan(
    backend: str,
    spec: AttentionSpec,
    cache: KvCacheSpec,
    *,
    query_start_loc: HostIntegers,
    seq_lens: HostIntegers,
    block_table: Optional[HostTable] = None,
    max_blocks_per_request: Optional[int] = None,
    slot_mapping: Optional[HostIntegers] = None,
    shared_prefix_len: int = 0,
    device: str = "cpu",
    deterministic: bool = False,
    lse_out: bool = False,
    max_query_len: int = 0,
    max_seq_len: int = 0,
    decode_max_query_len: int = 1,
    chunk_workspace_rows: int = 0,
) -> Plan:
    """Checks the batch, splits it and sizes the workspace. Host only.

    query_start_loc [B + 1] and seq_lens [B] are host sequences; block_table [B, max_blocks] and slot_mapping [T] are checked when
    given (else give max_blocks_per_request). shared_prefix_len: leading tokens that all requests have in the same blocks.
    deterministic: results do not depend on the batch around a request. lse_out: `run` also writes lse.
    max_query_len and max_seq_len (tokens) bound later runs of a captured graph. decode_max_query_len: requests of up to that many new
    tokens count as decode (speculative decoding). chunk_workspace_rows: tokens of context a chunk of the extend path holds; 0: the default.

    Raises SextantInvalidArgument (a wrong batch, spec or option), SextantNotFound (unknown backend), SextantUnsupported (the backend
    cannot serve this) and SextantUnavailable (no such device).
    """
    kind, index = device_of(device)
    table = None if block_table is None else host_integers(block_table, np.int32, "block_table", "[requests, max_blocks]")
    columns = max_blocks_per_request if table is None else table.shape[1]
    if not isinstance(columns, (int, np.integer)):
        given = "missing" if columns is None else repr(columns)
        raise SextantInvalidArgument(f"max_blocks_per_request is {given}; allowed: an integer, or a block_table")
    description = dump(
        device=kind,
        device_index=index,
        backend=backend,
        spec=fields("spec", spec, AttentionSpec),
        cache=fields("cache", cache, KvCacheSpec),
        max_blocks_per_request=int(columns),
        shared_prefix_len=shared_prefix_len,
        options={
            "deterministic": deterministic,
            "lse_out": lse_out,
            "max_query_len": max_query_len,
            "max_seq_len": max_seq_len,
            "decode_max_query_len": decode_max_query_len,
            "chunk_workspace_rows": chunk_workspace_rows,
        },
    )
    handle = library["plan_make"](
        description,
        host_integers(query_start_loc, np.int32, "query_start_loc"),
        host_integers(seq_lens, np.int32, "seq_lens"),
        table,
        None if slot_mapping is None else host_integers(slot_mapping, np.int64, "slot_mapping"),
    )
    return Plan(handle, device)


class VarlenPlan:
    """Planned attention over packed keys. Made by `varlen_plan`."""

    def __init__(self, handle: int, device: str):
        self._handle = handle
        self._device = device
        self._finalizer = weakref.finalize(self, library["varlen_free"], handle)
        self.workspace_bytes: int = library["varlen_workspace_bytes"](handle)

    def run(
        self,
        *,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        query_start_loc: Tensor,
        key_start_loc: Tensor,
        seq_lens: Tensor,
        lse: Optional[Tensor] = None,
        sinks: Optional[Tensor] = None,
        alibi_slopes: Optional[Tensor] = None,
        workspace: Optional[Tensor] = None,
        stream: Optional[int] = None,
    ) -> None:
        """Launches on the caller's current stream.

        q [T, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv], out [T, Hq, Dv] (written), lse fp32 [Hq, T] (written); int32 query_start_loc and
        key_start_loc [B + 1] and seq_lens [B] (keys of each sequence) on the device, as planned. Raises as Plan.run does.
        """
        tensors = passed(q=q, k=k, v=v, out=out, lse=lse, query_start_loc=query_start_loc, key_start_loc=key_start_loc, seq_lens=seq_lens, sinks=sinks,
                         alibi_slopes=alibi_slopes)  # fmt: skip
        stream = chosen_stream(stream, q)
        scratch = workspace_beside(q, self.workspace_bytes, stream) if workspace is None else workspace
        library["varlen_run"](self._handle, *tensors, *passed(workspace=scratch), stream)
        _wait(self._device, stream, tensors)


def varlen_plan(
    spec: AttentionSpec,
    *,
    query_start_loc: HostIntegers,
    key_start_loc: HostIntegers,
    device: str = "cpu",
    family: str = "tuned",
    lse_out: bool = False,
) -> VarlenPlan:
    """Plans attention of packed queries over packed keys; causal is bottom-right aligned. Start locations are host sequences [B + 1].

    family: "portable" or "tuned" kernels. Raises as `plan` does.
    """
    kind, index = device_of(device)
    description = dump(device=kind, device_index=index, family=family, spec=fields("spec", spec, AttentionSpec), lse_out=lse_out)
    return VarlenPlan(
        library["varlen_make"](
            description, host_integers(query_start_loc, np.int32, "query_start_loc"), host_integers(key_start_loc, np.int32, "key_start_loc")
        ),
        device,
    )


def merge_attn_states(
    prefix_out: Tensor,
    prefix_lse: Tensor,
    suffix_out: Tensor,
    suffix_lse: Tensor,
    out: Tensor,
    lse: Optional[Tensor] = None,
    *,
    device: Optional[str] = None,
    family: str = "tuned",
) -> None:
    """Joins two attention states over disjoint keys into out [T, H, D] and lse fp32 [H, T]; out may be one of the inputs.

    The inputs are out [T, H, D] and lse fp32 [H, T], natural logarithm, of each state. device: default where `out` is. Raises
    SextantInvalidArgument.
    """
    device = device_beside(out) if device is None else device
    kind, index = device_of(device)
    tensors = required(prefix_out=prefix_out, prefix_lse=prefix_lse, suffix_out=suffix_out, suffix_lse=suffix_lse, out=out) + passed(lse=lse)
    library["merge_attn_states"](dump(device=kind, device_index=index, family=family), *tensors, current_stream(out))
    _wait(device, current_stream(out), tensors)


def reshape_and_cache(
    k: Tensor,
    v: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache: KvCacheSpec,
    *,
    k_scale: Optional[Tensor] = None,
    v_scale: Optional[Tensor] = None,
    device: Optional[str] = None,
    family: str = "tuned",
) -> None:
    """Writes k [T, Hkv, D] and v [T, Hkv, Dv] to the slots (int64 [T], negative: not written) of a paged cache.

    k_scale, v_scale: fp32 [1] or [Hkv] of an fp8 cache; what is stored is x / scale. device: default where `k_cache` is. Raises
    SextantInvalidArgument.
    """
    _refuse_preferred(cache)
    device = device_beside(k_cache) if device is None else device
    kind, index = device_of(device)
    description = dump(device=kind, device_index=index, family=family, cache=fields("cache", cache, KvCacheSpec))
    tensors = required(k=k, v=v, slot_mapping=slot_mapping, k_cache=k_cache, v_cache=v_cache) + passed(k_scale=k_scale, v_scale=v_scale)
    library["reshape_and_cache"](description, *tensors, current_stream(k))
    _wait(device, current_stream(k), tensors)
