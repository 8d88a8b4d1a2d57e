"""plan / run, selection and single ops over DLPack tensors."""

from __future__ import annotations

import functools
import json
import weakref
from dataclasses import dataclass, field
from typing import Any, Callable, Literal, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from sextant._describe import device_of, dtype_text, dump, fields, host_integers
from sextant._dlpack import Tensor, chosen_stream, current_stream, device_beside, has_own_streams, passed, passed_in_order, required, workspace_beside
from sextant._library import library
from sextant.errors import SextantInvalidArgument, SextantUnsupported

Family = Literal["portable", "tuned"]
_TOKEN_HEAD = "_per_token_head"  # ends the name of a cache's format that has a scale a token and head
HostIntegers = Union[Sequence[int], "npt.NDArray[np.integer[Any]]", Tensor]  # read on the host; a GPU's tensor is copied there
HostTable = Union[Sequence[Sequence[int]], "npt.NDArray[np.integer[Any]]", Tensor]


@dataclass(frozen=True)
class AttentionSpec:
    """What attention a model wants.

    num_heads, num_kv_heads: query and KV heads; num_kv_heads divides num_heads.
    head_dim, head_dim_v: head sizes of Q/K and of V (0: the same), 8..512 in steps of 8.
    softmax_scale: explicit, usually 1/sqrt(head_dim).
    sliding_window: causal only: the W newest keys, own position included; 0 = no window.
    window_left, window_right: keys before and after its own position that a query sees at most; -1 = all (causal: none after it).
    attention_chunk_size: positions [0, C), [C, 2C), ... see themselves alone (Llama 4); 0 = no chunks. Not for MLA.
    logits_soft_cap: cap * tanh(score / cap); 0 = none.
    max_span_len: > 0: tokens may lie in spans of at most so many positions that see one another whatever the mask says (image tokens of
    Gemma 3, PaliGemma's prefix); `run` takes them as token_spans. 0 = no spans.
    dtype: "fp32", "fp16" or "bf16" of q, k, v and out; the types of PyTorch, NumPy and ml_dtypes (torch.float32) and their names too.
    query_dtype: of q where it is not dtype: "fp8_e4m3fn", "fp8_e4m3fnuz" or "fp8_e5m2", whose values are stored * q_scale. Of MLA
    `mla_decode_plan` alone takes it: the queries of `plan` are multiplied by weights first.
    kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: multi-head latent attention; 0 = none.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    softmax_scale: float
    dtype: Any = "bf16"  # as text once it is made
    head_dim_v: int = 0
    causal: bool = True
    sliding_window: int = 0
    window_left: int = -1
    window_right: int = -1
    attention_chunk_size: int = 0
    logits_soft_cap: float = 0.0
    has_sinks: bool = False
    has_alibi: bool = False
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    query_dtype: Any = ""
    max_span_len: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_text(self.dtype))
        object.__setattr__(self, "query_dtype", dtype_text(self.query_dtype))

    @classmethod
    def mla(
        cls, *, num_heads: int, kv_lora_rank: int = 512, qk_nope_head_dim: int = 128, qk_rope_head_dim: int = 64, v_head_dim: int = 128,
        softmax_scale: Optional[float] = None, dtype: Any = "bf16", **more: Any,
    ) -> "AttentionSpec":  # fmt: skip
        """Multi-head latent attention; the defaults are DeepSeek-V3's. `latent_cache` of the result is its cache.

        kv_lora_rank: of the latent; qk_nope_head_dim, qk_rope_head_dim, v_head_dim: head sizes of q and k without and with positions, and of
        v. softmax_scale: default 1/sqrt(qk_nope_head_dim + qk_rope_head_dim). more: other fields (causal, sliding_window, ...).
        """
        head_dim = qk_nope_head_dim + qk_rope_head_dim
        return cls(
            num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, head_dim_v=v_head_dim, dtype=dtype,
            softmax_scale=head_dim**-0.5 if softmax_scale is None else softmax_scale, kv_lora_rank=kv_lora_rank, qk_nope_head_dim=qk_nope_head_dim,
            qk_rope_head_dim=qk_rope_head_dim, v_head_dim=v_head_dim, **more,
        )  # fmt: skip

    def latent_cache(self, num_blocks: int, block_size: int = 16, dtype: Any = None) -> "KvCacheSpec":
        """The cache of an MLA spec: [num_blocks, block_size, kv_lora_rank + qk_rope_head_dim]; dtype: default the spec's."""
        if not self.kv_lora_rank:
            raise SextantInvalidArgument("kv_lora_rank is 0; allowed: a spec of AttentionSpec.mla")
        width = self.kv_lora_rank + self.qk_rope_head_dim
        return KvCacheSpec(num_blocks, block_size, 1, width, self.dtype if dtype is None else dtype, self.kv_lora_rank, "latent")


@dataclass(frozen=True)
class KvCacheSpec:
    """A paged cache of one layer.

    num_blocks, block_size: blocks, and tokens a block (any number >= 1).
    num_kv_heads, head_dim, head_dim_v: KV heads and the head sizes of K and V (0: the same). Latent caches: 1, rank + rope, rank.
    dtype: "fp32", "fp16", "bf16", "fp8_e4m3fn", "fp8_e4m3fnuz", "fp8_e5m2", or "int8" with scales "token_head". "int8_per_token_head" and
    "fp8_per_token_head", as vLLM and `sextant --kv-cache-dtype` have them, say both.
    scales: "shared" (k_scale and v_scale are the caller's, for fp8) or "token_head": one a token and KV head, found and stored by the cache
    write in k_scale and v_scale, fp32 [num_blocks, block_size, num_kv_heads].
    layout: "preferred" (the backend's own), NHD, HND, split_k, shuffled, packed, latent; `cache_shape` tells the arrays' shapes.
    """

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: Any = "bf16"  # as text once it is made
    head_dim_v: int = 0
    layout: str = "preferred"
    scales: str = "shared"

    def __post_init__(self) -> None:
        dtype = dtype_text(self.dtype)
        if isinstance(dtype, str) and dtype.endswith(_TOKEN_HEAD):
            object.__setattr__(self, "scales", "token_head")
            dtype = dtype_text(dtype[: -len(_TOKEN_HEAD)])
        object.__setattr__(self, "dtype", dtype)


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


_forget_plans: "list[Callable[[], None]]" = []  # of modules that keep plans, which know their threads


def set_log(sink: Optional[Callable[[dict[str, Any]], None]]) -> None:
    """Calls `sink` after each plan and run with what it was: {"event": "plan" or "run", "backend", "requests", "tokens", "steps" (of a plan),
    "workspace_bytes", "host_us", "error" (None or its text)}, in the thread of that call. None switches the log off.
    Raises SextantInvalidArgument.
    """
    if sink is not None and not callable(sink):
        raise SextantInvalidArgument(f"sink is {sink!r}; allowed: a function of one dict, or None")
    library["set_log"](None if sink is None else lambda line: sink(json.loads(line)))


def set_num_threads(num_threads: int) -> None:
    """How many threads the CPU device runs on, the caller's included; 1..4096. Plans that were made before keep theirs.

    Without it: OMP_NUM_THREADS where the environment has it, else the cores of the affinity mask and of the cgroup's quota.
    Threads start at the first run; a forked child starts its own. Raises SextantInvalidArgument.
    """
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)):
        raise SextantInvalidArgument(f"num_threads is {num_threads!r}; allowed: 1..4096")
    library["set_num_threads"](int(num_threads))
    for forget in _forget_plans:
        forget()


def get_num_threads() -> int:
    """How many threads new plans of the CPU device run on."""
    return int(library["get_num_threads"]())


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
    kind, index = device_of(device)
    named = {} if backend is None else {"backend": backend}
    answer = json.loads(library["cache_shape"](dump(device=kind, device_index=index, cache=fields("cache", cache, KvCacheSpec), **named)))
    return answer["k_shape"], answer["v_shape"], answer["layout"]


# Looked up once: a look-up takes as long as a small call.
_plan_template_free, _plan_make, _plan_free, _plan_run, _plan_workspace_bytes = (
    library[name] for name in ("plan_template_free", "plan_make", "plan_free", "plan_run", "plan_workspace_bytes")
)
_varlen_free, _varlen_run, _varlen_workspace_bytes = (library[name] for name in ("varlen_free", "varlen_run", "varlen_workspace_bytes"))


def _on_gpu(device: str) -> bool:
    return device_of(device)[0] in ("cuda", "hip")


class Plan:
    """A planned step. Made by `plan`; reused by every layer of the step. It does not change: copies are the plan itself."""

    def __init__(self, handle: int, device: str, requests: int = 0):
        self._handle = handle
        self._device = device
        self._on_gpu = _on_gpu(device)
        self._requests = requests
        self._finalizer = weakref.finalize(self, _plan_free, handle)
        self.workspace_bytes: int = _plan_workspace_bytes(handle)

    @functools.cached_property
    def _info(self) -> dict[str, Any]:
        return dict(json.loads(library["plan_info"](self._handle)))

    @property
    def backend(self) -> str:
        return str(self._info["backend"])

    @property
    def layout(self) -> str:
        """Of the cache, where its spec said "preferred"."""
        return str(self._info["layout"])

    @property
    def steps(self) -> list[str]:
        """What a run launches."""
        return list(self._info["steps"])

    def __repr__(self) -> str:
        return (
            f"Plan({self.backend} on {self._device}, {self._requests} requests, layout {self.layout}, "
            f"workspace {self.workspace_bytes} bytes, steps: {'; '.join(self.steps)})"
        )

    def __copy__(self) -> "Plan":
        return self

    def __deepcopy__(self, memo: Any) -> "Plan":
        return self

    def __reduce__(self) -> Any:
        raise SextantUnsupported("a Plan cannot be pickled; allowed: the arguments of sextant.plan, planned again in the other process")

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
        token_spans: Optional[Tensor] = None,
        workspace: Optional[Tensor] = None,
        stream: Optional[int] = None,
        next_layer: bool = False,
    ) -> None:
        """Launches the step on the caller's current stream (`stream`: another one, as the driver's pointer), and waits only for JAX on a GPU.

        q [T, Hq, D]; k [T, Hkv, D]; v [T, Hkv, Dv]; out [T, Hq, Dv] (written); lse fp32 [Hq, T], natural logarithm, with lse_out.
        MLA: q [T, N, nope + rope], kv_c [T, rank], k_pe [T, rope], kv_b_proj [N * (nope + v), rank] instead of k and v.
        query_start_loc int32 [B + 1], seq_lens int32 [B], block_table int32 [B, max_blocks], slot_mapping int64 or int32 [T] (negative:
        not written, for padding and for decodes whose key the cache holds; None: the cache already holds all new tokens). All on the plan's device.
        k_scale, v_scale: fp32 [1] or [Hkv] of an fp8 cache. q_scale: fp32 [1] or [Hkv] of fp8 queries. sinks, alibi_slopes: fp32 [Hq].
        token_spans: int32 [T, 2] with spec.max_span_len: (begin, end) of each token's span in its request's positions, begin >= end: none.
        workspace: at least workspace_bytes, 256-byte aligned; None: allocated with q's library.
        next_layer: lengths and spans hold what they held in this plan's run before, which had the same workspace and the same tensors present,
        and nothing else has used the workspace since. Work is then not divided anew: on HIP one launch less for every layer but a step's first.

        Raises SextantInvalidArgument (dtype, shape, stride, device or a missing tensor; on the CPU also a batch that is not the planned
        one) and SextantResourceExhausted (small workspace), before anything is written.
        """
        tensors = passed_in_order(
            _RUN_TENSORS,
            (q, k, v, out, lse, kv_c, k_pe, kv_b_proj, k_cache, v_cache, k_scale, v_scale, query_start_loc, seq_lens, block_table, slot_mapping, sinks,
             alibi_slopes, q_scale, token_spans),
        )  # fmt: skip
        stream = chosen_stream(stream, q) if self._on_gpu or stream is not None else 0
        if workspace is None:
            refuse_without_workspace(next_layer, self.workspace_bytes)
            workspace = workspace_beside(q, self.workspace_bytes, stream)
        if workspace is not None:
            workspace = passed(workspace=workspace)[0]
        _plan_run(self._handle, *tensors, workspace, stream, bool(next_layer))
        if self._on_gpu:
            _wait(self._device, stream, tensors)


def refuse_without_workspace(next_layer: bool, needed: int) -> None:
    """The work that the layer before has divided lies in its workspace."""
    if next_layer and needed:
        raise SextantInvalidArgument("workspace is None with next_layer; allowed: the workspace of the run before")


# In the order in which the library takes them.
_RUN_TENSORS = (
    "q", "k", "v", "out", "lse", "kv_c", "k_pe", "kv_b_proj", "k_cache", "v_cache", "k_scale", "v_scale", "query_start_loc", "seq_lens", "block_table",
    "slot_mapping", "sinks", "alibi_slopes", "q_scale", "token_spans",
)  # fmt: skip


def _wait(device: str, stream: int, tensors: Sequence[Any]) -> None:
    """A library that has streams of its own cannot wait for ours: it gets its tensors back when the work is done."""
    kind, index = device_of(device)
    if kind in ("cuda", "hip") and any(map(has_own_streams, tensors)):
        library["synchronize"](dump(device=kind, device_index=index), stream)


class _Template:
    """All of a plan but its batch, read by the library once."""

    def __init__(self, backend: str, spec: AttentionSpec, cache: KvCacheSpec, device: str, stored_keys: bool, options: dict[str, Any]):
        kind, index = device_of(device)
        self.handle: int = library["plan_template_make"](
            dump(device=kind, device_index=index, backend=backend, stored_keys=stored_keys, spec=fields("spec", spec, AttentionSpec),
                 cache=fields("cache", cache, KvCacheSpec), options=options)
        )  # fmt: skip
        self._finalizer = weakref.finalize(self, _plan_template_free, self.handle)


@functools.lru_cache(maxsize=256)
def _kept_template(types: tuple[type, ...], backend: str, spec: AttentionSpec, cache: KvCacheSpec, device: str, stored: bool, options: tuple[Any, ...]) -> _Template:
    return _Template(backend, spec, cache, device, stored, dict(zip(_OPTIONS, options)))


_OPTIONS = ("deterministic", "lse_out", "max_query_len", "max_seq_len", "decode_max_query_len", "chunk_workspace_rows")
_forget_plans.append(_kept_template.cache_clear)


def _template(backend: str, spec: AttentionSpec, cache: KvCacheSpec, device: str, stored: bool, options: tuple[Any, ...]) -> _Template:
    if isinstance(spec, AttentionSpec) and isinstance(cache, KvCacheSpec):
        # 1, 1.0 and True are equal, but not all are allowed: what was kept for one must not serve the others.
        types = (*map(type, spec.__dict__.values()), *map(type, cache.__dict__.values()), *map(type, options))
        try:
            return _kept_template(types, backend, spec, cache, str(device), stored, options)
        except TypeError:  # a field that cannot be hashed: refused by name below
            pass
    return _Template(backend, spec, cache, device, stored, dict(zip(_OPTIONS, options)))


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
    new_keys: Literal["stored", "exact"] = "stored",
    token_spans: Optional[HostTable] = None,
) -> Plan:
    """Checks the batch, splits it and sizes the workspace. Host only.

    query_start_loc [B + 1] and seq_lens [B] are host sequences; block_table [B, max_blocks] and slot_mapping [T] are checked when
    given (else give max_blocks_per_request). shared_prefix_len: leading tokens that all requests have in the same blocks.
    deterministic: results do not depend on the batch around a request. lse_out: `run` also writes lse.
    max_query_len and max_seq_len (tokens) bound later runs of a captured graph. decode_max_query_len: requests of up to that many new
    tokens count as decode (speculative decoding). chunk_workspace_rows: tokens of context a chunk of the extend path holds; 0: the default.
    new_keys: over a cache that rounds (fp8), "stored": queries attend to the step's own keys and values as the cache holds them, as later
    steps do; "exact": to those of `run` where the backend reads them (prefill of ROCM_ATTN and ROCM_AITER_FA). MLA: always exact.
    token_spans: [T, 2] as for `run`, where spec.max_span_len is not 0; checked when given.

    Raises SextantInvalidArgument (a wrong batch, spec or option), SextantNotFound (unknown backend), SextantUnsupported (the backend
    cannot serve this) and SextantUnavailable (no such device).
    """
    table = None if block_table is None else host_integers(block_table, np.int32, "block_table", "[requests, max_blocks]")
    columns = max_blocks_per_request if table is None else table.shape[1]
    if not isinstance(columns, (int, np.integer)):
        given = "missing" if columns is None else repr(columns)
        raise SextantInvalidArgument(f"max_blocks_per_request is {given}; allowed: an integer, or a block_table")
    if new_keys not in ("stored", "exact"):
        raise SextantInvalidArgument(f"new_keys is {new_keys!r}; allowed: stored, exact")
    if not isinstance(shared_prefix_len, (int, np.integer)) or not 0 <= shared_prefix_len < 2**31:
        raise SextantInvalidArgument(f"shared_prefix_len is {shared_prefix_len!r}; allowed: 0..2147483647")
    options = (deterministic, lse_out, max_query_len, max_seq_len, decode_max_query_len, chunk_workspace_rows)
    starts, lens = host_integers(query_start_loc, np.int32, "query_start_loc"), host_integers(seq_lens, np.int32, "seq_lens")
    slots = None if slot_mapping is None else host_integers(slot_mapping, np.int64, "slot_mapping")
    spans = None if token_spans is None else host_integers(token_spans, np.int32, "token_spans", "[tokens, 2]")
    template = _template(backend, spec, cache, device, new_keys == "stored", options)
    return Plan(_plan_make(template.handle, starts, lens, table, slots, spans, int(columns), int(shared_prefix_len)), device, len(lens))


class VarlenPlan:
    """Planned attention over packed keys. Made by `varlen_plan`. It does not change: copies are the plan itself."""

    def __init__(self, handle: int, device: str):
        self._handle = handle
        self._device = device
        self._on_gpu = _on_gpu(device)
        self._finalizer = weakref.finalize(self, _varlen_free, handle)
        self.workspace_bytes: int = _varlen_workspace_bytes(handle)

    def __repr__(self) -> str:
        return f"VarlenPlan(on {self._device}, workspace {self.workspace_bytes} bytes)"

    def __copy__(self) -> "VarlenPlan":
        return self

    def __deepcopy__(self, memo: Any) -> "VarlenPlan":
        return self

    def __reduce__(self) -> Any:
        raise SextantUnsupported("a VarlenPlan cannot be pickled; allowed: the arguments of sextant.varlen_plan, planned again in the other process")

    def run(
        self,
        *,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        query_start_loc: Optional[Tensor] = None,
        key_start_loc: Optional[Tensor] = None,
        seq_lens: Optional[Tensor] = None,
        lse: Optional[Tensor] = None,
        sinks: Optional[Tensor] = None,
        alibi_slopes: Optional[Tensor] = None,
        token_spans: Optional[Tensor] = None,
        workspace: Optional[Tensor] = None,
        stream: Optional[int] = None,
    ) -> None:
        """Launches on the caller's current stream.

        q [T, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv], out [T, Hq, Dv] (written), lse fp32 [Hq, T] (written); int32 query_start_loc and
        key_start_loc [B + 1] and seq_lens [B] (keys of each sequence) on the device, as planned: on the CPU None means those of the plan;
        token_spans int32 [T, 2] as for Plan.run. q, k, v and out may be [B, H, S, D] whose sequences follow one another in memory.
        Raises as Plan.run does.
        """
        tensors = passed(q=q, k=k, v=v, out=out, lse=lse, query_start_loc=query_start_loc, key_start_loc=key_start_loc, seq_lens=seq_lens, sinks=sinks,
                         alibi_slopes=alibi_slopes, token_spans=token_spans)  # fmt: skip
        stream = chosen_stream(stream, q) if self._on_gpu or stream is not None else 0
        if workspace is None:
            workspace = workspace_beside(q, self.workspace_bytes, stream)
        _varlen_run(self._handle, *tensors, *passed(workspace=workspace), stream)
        if self._on_gpu:
            _wait(self._device, stream, tensors)

    def _run_plain(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """`run` of PyTorch's own CPU tensors, which need no look at what they are."""
        workspace = workspace_beside(q, self.workspace_bytes, 0) if self.workspace_bytes else None
        _varlen_run(self._handle, q, k, v, out, *_NOTHING_ELSE, workspace, 0)


_NOTHING_ELSE = (None,) * 7  # lse, the lengths (those of the plan), sinks, slopes and spans


def varlen_plan(
    spec: AttentionSpec,
    *,
    query_start_loc: HostIntegers,
    key_start_loc: HostIntegers,
    device: str = "cpu",
    family: Family = "tuned",
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
    family: Family = "tuned",
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
    family: Family = "tuned",
) -> None:
    """Writes k [T, Hkv, D] and v [T, Hkv, Dv] to the slots (int64 or int32 [T], negative: not written) of a paged cache.

    k_scale, v_scale: fp32 [1] or [Hkv] of an fp8 cache; what is stored is x / scale. device: default where `k_cache` is. Raises
    SextantInvalidArgument.
    """
    device = device_beside(k_cache) if device is None else device
    kind, index = device_of(device)
    description = dump(device=kind, device_index=index, family=family, cache=fields("cache", cache, KvCacheSpec))
    tensors = required(k=k, v=v, slot_mapping=slot_mapping, k_cache=k_cache, v_cache=v_cache) + passed(k_scale=k_scale, v_scale=v_scale)
    library["reshape_and_cache"](description, *tensors, current_stream(k))
    _wait(device, current_stream(k), tensors)
