"""plan / run, selection and single ops over DLPack tensors."""

from __future__ import annotations

import json
import weakref
from dataclasses import asdict, dataclass, field
from typing import Any, Optional, Sequence

import numpy as np

from sextant._library import library
from sextant.errors import SextantInvalidArgument

_DEVICE_KINDS = {"cpu": "cpu", "cuda": "cuda", "hip": "hip", "hip-emulated": "hip-emulated"}


@dataclass(frozen=True)
class AttentionSpec:
    """What attention a model wants.

    num_heads, num_kv_heads: query and KV heads; num_kv_heads divides num_heads.
    head_dim, head_dim_v: head sizes of Q/K and of V (0: the same), 8..256 in steps of 8.
    softmax_scale: explicit, usually 1/sqrt(head_dim).
    sliding_window: keep the W newest keys, own position included; 0 = no window.
    logits_soft_cap: cap * tanh(score / cap); 0 = none.
    dtype: "fp32", "fp16" or "bf16" of q, k, v and out.
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


@dataclass(frozen=True)
class KvCacheSpec:
    """A paged cache of one layer. layout: "preferred" (the backend's own), NHD, HND, split_k, shuffled, packed, latent."""

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: str = "bf16"
    head_dim_v: int = 0
    layout: str = "preferred"


@dataclass(frozen=True)
class Candidate:
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


def devices() -> list[dict]:
    """Every device kind: built, available, why not, and the devices found."""
    return json.loads(library["devices"]())


def backends() -> list[dict]:
    """The six backends: name, category, kernel family, strategy, how to enable."""
    return json.loads(library["backends"]())


def select(spec: AttentionSpec, cache: KvCacheSpec, backend: Optional[str] = None, device: str = "cpu") -> Selection:
    """Chooses a backend: `backend`, else VLLM_ATTENTION_BACKEND, else automatically.

    Raises SextantNotFound for an unknown name and SextantUnsupported when the explicit choice cannot serve.
    """
    kind, index = _device(device)
    answer = json.loads(
        library["select"](_dump(device=kind, device_index=index, spec=asdict(spec), cache=asdict(cache), backend=backend))
    )
    candidates = [Candidate(**c) for c in answer["candidates"]]
    return Selection(answer["chosen"], answer["source"], candidates, answer["warnings"])


def cache_shape(cache: KvCacheSpec, backend: Optional[str] = None, device: str = "cpu") -> tuple[list[int], list[int], str]:
    """(k_shape, v_shape, layout) of a cache; v_shape is empty for the latent layout."""
    kind, index = _device(device)
    description: dict[str, Any] = {"device": kind, "device_index": index, "cache": asdict(cache)}
    if backend is not None:
        description["backend"] = backend
    answer = json.loads(library["cache_shape"](json.dumps(description)))
    return answer["k_shape"], answer["v_shape"], answer["layout"]


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
        q,
        out,
        k_cache,
        query_start_loc,
        seq_lens,
        block_table,
        k=None,
        v=None,
        v_cache=None,
        lse=None,
        kv_c=None,
        k_pe=None,
        kv_b_proj=None,
        k_scale=None,
        v_scale=None,
        slot_mapping=None,
        sinks=None,
        alibi_slopes=None,
        workspace=None,
        stream: Optional[int] = None,
    ) -> None:
        """Launches the step on the caller's current stream.

        q [T, Hq, D]; k [T, Hkv, D]; v [T, Hkv, Dv]; out [T, Hq, Dv] (written); lse fp32 [Hq, T] with lse_out.
        MLA: q [T, N, nope + rope], kv_c [T, rank], k_pe [T, rope], kv_b_proj [N * (nope + v), rank] instead of k and v.
        query_start_loc int32 [B + 1], seq_lens int32 [B], block_table int32 [B, max_blocks], slot_mapping int64 [T] (negative:
        not written; None: the cache already holds the new tokens). All on the plan's device.
        workspace: at least workspace_bytes, 256-byte aligned; None: allocated with q's library.
        """
        if workspace is None:
            workspace = _workspace_like(q, self.workspace_bytes)
        tensors = (
            q, k, v, out, lse, kv_c, k_pe, kv_b_proj, k_cache, v_cache, k_scale, v_scale, query_start_loc, seq_lens, block_table, slot_mapping,
            sinks, alibi_slopes, workspace,
        )  # fmt: skip
        library["plan_run"](self._handle, *map(_tensor, tensors), _stream(q) if stream is None else stream)


def plan(
    backend: str,
    spec: AttentionSpec,
    cache: KvCacheSpec,
    *,
    query_start_loc: Sequence[int],
    seq_lens: Sequence[int],
    block_table=None,
    max_blocks_per_request: Optional[int] = None,
    slot_mapping=None,
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
    given (else give max_blocks_per_request). max_query_len and max_seq_len bound later runs of a captured graph.
    """
    kind, index = _device(device)
    table = None if block_table is None else _host(block_table, np.int32, "block_table")
    if table is not None and table.ndim != 2:
        raise SextantInvalidArgument(f"block_table has rank {table.ndim}; allowed: 2 ([requests, max_blocks])")
    columns = max_blocks_per_request if table is None else table.shape[1]
    if columns is None:
        raise SextantInvalidArgument("max_blocks_per_request is missing; allowed: an integer, or a block_table")
    description = _dump(
        device=kind,
        device_index=index,
        backend=backend,
        spec=asdict(spec),
        cache=asdict(cache),
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
        _host(query_start_loc, np.int32, "query_start_loc"),
        _host(seq_lens, np.int32, "seq_lens"),
        table,
        None if slot_mapping is None else _host(slot_mapping, np.int64, "slot_mapping"),
    )
    return Plan(handle, device)


class VarlenPlan:
    """Planned attention over packed keys. Made by `varlen_plan`."""

    def __init__(self, handle: int):
        self._handle = handle
        self._finalizer = weakref.finalize(self, library["varlen_free"], handle)
        self.workspace_bytes: int = library["varlen_workspace_bytes"](handle)

    def run(self, *, q, k, v, out, query_start_loc, key_start_loc, seq_lens, lse=None, sinks=None, alibi_slopes=None, workspace=None,
            stream: Optional[int] = None) -> None:
        """q [T, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv], out [T, Hq, Dv] (written), lse fp32 [Hq, T]; the int32 arrays on the device."""
        if workspace is None:
            workspace = _workspace_like(q, self.workspace_bytes)
        tensors = (q, k, v, out, lse, query_start_loc, key_start_loc, seq_lens, sinks, alibi_slopes, workspace)
        library["varlen_run"](self._handle, *map(_tensor, tensors), _stream(q) if stream is None else stream)


def varlen_plan(spec: AttentionSpec, *, query_start_loc, key_start_loc, device: str = "cpu", family: str = "tuned", lse_out: bool = False) -> VarlenPlan:
    """Plans attention of packed queries over packed keys; causal is bottom-right aligned. Start locations are host sequences [B + 1]."""
    kind, index = _device(device)
    description = _dump(device=kind, device_index=index, family=family, spec=asdict(spec), lse_out=lse_out)
    return VarlenPlan(
        library["varlen_make"](
            description, _host(query_start_loc, np.int32, "query_start_loc"), _host(key_start_loc, np.int32, "key_start_loc")
        )
    )


def merge_attn_states(prefix_out, prefix_lse, suffix_out, suffix_lse, out, lse=None, *, device: str = "cpu", family: str = "tuned") -> None:
    """Joins two attention states over disjoint keys into out [T, H, D] and lse fp32 [H, T]; out may be one of the inputs."""
    kind, index = _device(device)
    tensors = map(_tensor, (prefix_out, prefix_lse, suffix_out, suffix_lse, out, lse))
    library["merge_attn_states"](_dump(device=kind, device_index=index, family=family), *tensors, _stream(out))


def reshape_and_cache(k, v, slot_mapping, k_cache, v_cache, cache: KvCacheSpec, *, k_scale=None, v_scale=None, device: str = "cpu",
                      family: str = "tuned") -> None:
    """Writes k [T, Hkv, D] and v [T, Hkv, Dv] to the slots (int64 [T], negative: not written) of a paged cache."""
    kind, index = _device(device)
    description = _dump(device=kind, device_index=index, family=family, cache=asdict(cache))
    tensors = map(_tensor, (k, v, slot_mapping, k_cache, v_cache, k_scale, v_scale))
    library["reshape_and_cache"](description, *tensors, _stream(k))


def _dump(**description: Any) -> str:
    try:
        return json.dumps(description, allow_nan=False)
    except ValueError as error:
        raise SextantInvalidArgument(f"a number of the description is not finite ({error}); allowed: finite numbers") from None
    except TypeError as error:
        raise SextantInvalidArgument(f"a value of the description cannot be used ({error}); allowed: plain numbers and strings") from None


def _device(name: Any) -> tuple[str, int]:
    """"cuda:1" (or a torch.device) -> ("cuda", 1)."""
    kind, _, index = str(name).partition(":")
    if kind not in _DEVICE_KINDS or (index and not index.isdigit()):
        raise SextantInvalidArgument(f'device is "{name}"; allowed: cpu, cuda, hip, hip-emulated, with an index such as cuda:1')
    return kind, int(index or 0)


def _host(values, dtype, name: str) -> np.ndarray:
    if hasattr(values, "detach"):  # a torch tensor, possibly on a GPU: planning needs it on the host
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise SextantInvalidArgument(f"{name} has dtype {array.dtype}; allowed: integers")
    if array.size and (array.max() > np.iinfo(dtype).max or array.min() < np.iinfo(dtype).min):
        raise SextantInvalidArgument(f"{name} holds values beyond {np.dtype(dtype)}; allowed: {np.dtype(dtype)}")
    return np.ascontiguousarray(array, dtype=dtype)


def _tensor(value):
    """What TVM FFI takes: torch tensors lose their autograd history, bfloat16 and fp8 of other libraries pass through DLPack."""
    if value is None:
        return None
    if hasattr(value, "detach"):
        return value.detach()
    if not hasattr(value, "__dlpack__"):
        raise SextantInvalidArgument(f"a tensor argument is a {type(value).__name__}; allowed: tensors of PyTorch, NumPy, JAX or CuPy")
    return value


def _stream(tensor) -> int:
    """The caller's current stream on the tensor's device."""
    device = getattr(tensor, "device", None)
    if getattr(device, "type", None) == "cuda":
        import torch

        return torch.cuda.current_stream(device).cuda_stream
    if type(tensor).__module__.split(".")[0] == "cupy":
        import cupy

        return cupy.cuda.get_current_stream().ptr
    return 0


def _workspace_like(tensor, size: int):
    """Uninitialised bytes on the tensor's device, 256-byte aligned; None for 0."""
    if size == 0:
        return None
    if hasattr(tensor, "new_empty"):
        import torch

        memory = torch.empty(size + 256, dtype=torch.uint8, device=tensor.device)
        offset = -memory.data_ptr() % 256
        return memory[offset : offset + size]
    if type(tensor).__module__.split(".")[0] == "cupy":
        import cupy

        return cupy.empty(size, dtype=cupy.uint8)  # cupy's allocations are 512-byte aligned
    raw = np.empty(size + 256, dtype=np.uint8)
    shift = -raw.ctypes.data % 256
    return raw[shift : shift + size]
