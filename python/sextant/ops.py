"""Single operations on a paged cache, and the numbers that engines compute around it: slots and fp8 scales."""

from __future__ import annotations

import weakref
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from sextant._describe import device_of, dtype_text, dump, fields, host_integers
from sextant._dlpack import Tensor, chosen_stream, current_stream, device_beside, library_of, passed, required, workspace_beside
from sextant._library import library
from sextant.api import AttentionSpec, Family, HostIntegers, HostTable, KvCacheSpec, _on_gpu, _wait, refuse_without_workspace
from sextant.errors import SextantInvalidArgument

_LARGEST = {"fp8_e4m3fn": 448.0, "fp8_e4m3fnuz": 240.0, "fp8_e5m2": 57344.0}


def concat_and_cache_mla(
    kv_c: Tensor, k_pe: Tensor, slot_mapping: Tensor, kv_cache: Tensor, cache: KvCacheSpec, *, kv_scale: Optional[Tensor] = None,
    device: Optional[str] = None, family: Family = "tuned",
) -> None:  # fmt: skip
    """Writes kv_c [T, rank] and k_pe [T, rope] to the slots (int64 or int32 [T], negative: not written) of a latent cache.

    kv_cache [num_blocks, block_size, rank + rope], cache.layout "latent". kv_scale: fp32 [1] of an fp8 cache; what is stored is x / scale.
    device: default where `kv_cache` is. Raises SextantInvalidArgument.
    """
    tensors = required(kv_c=kv_c, k_pe=k_pe, slot_mapping=slot_mapping, kv_cache=kv_cache) + passed(kv_scale=kv_scale)
    _run("concat_and_cache_mla", cache, tensors, kv_cache, device, family)


def gather_cache(
    k_cache: Tensor, v_cache: Optional[Tensor], block_table: Tensor, key_start_loc: Tensor, k: Tensor, v: Optional[Tensor], cache: KvCacheSpec, *,
    chunk_begin: int = 0, k_scale: Optional[Tensor] = None, v_scale: Optional[Tensor] = None, device: Optional[str] = None, family: Family = "tuned",
) -> None:  # fmt: skip
    """Copies tokens from `chunk_begin` on of each request from the cache to packed k [Tk, Hkv, D] and v [Tk, Hkv, Dv] (written).

    block_table int32 [B, max_blocks]; key_start_loc int32 [B + 1]: request b gets the rows from key_start_loc[b] to key_start_loc[b + 1].
    A latent cache: k [Tk, 1, rank + rope], no v_cache and no v. fp8 is multiplied with k_scale and v_scale (fp32 [1] or [Hkv]).
    Raises SextantInvalidArgument.
    """
    tensors = [
        *required(k_cache=k_cache), *passed(v_cache=v_cache), *required(block_table=block_table, key_start_loc=key_start_loc, k=k),
        *passed(v=v, k_scale=k_scale, v_scale=v_scale),
    ]  # fmt: skip
    _run("gather_cache", cache, tensors, k_cache, device, family, chunk_begin=chunk_begin)


def copy_blocks(
    k_cache: Tensor, v_cache: Optional[Tensor], mapping: Tensor, cache: KvCacheSpec, *, k_scale: Optional[Tensor] = None,
    v_scale: Optional[Tensor] = None, device: Optional[str] = None, family: Family = "tuned",
) -> None:  # fmt: skip
    """Copies whole blocks inside a cache: mapping int64 [pairs, 2] of source and destination, which are disjoint (copy on write).

    A latent cache has no v_cache. k_scale, v_scale: of a cache with scales "token_head", whose blocks are copied with it.
    device: default where `k_cache` is. Raises SextantInvalidArgument.
    """
    tensors = [*required(k_cache=k_cache), *passed(v_cache=v_cache), *required(mapping=mapping), *passed(k_scale=k_scale, v_scale=v_scale)]
    _run("copy_blocks", cache, tensors, k_cache, device, family)


class MlaDecodePlan:
    """Planned attention of absorbed queries over a latent cache. Made by `mla_decode_plan`; reused by every layer of the step."""

    def __init__(self, handle: int, device: str):
        self._handle = handle
        self._device = device
        self._gpu = _on_gpu(device)
        self._finalizer = weakref.finalize(self, library["mla_decode_free"], handle)
        self.workspace_bytes: int = library["mla_decode_workspace_bytes"](handle)

    def run(
        self, *, q: Tensor, kv_cache: Tensor, out: Tensor, query_start_loc: Tensor, seq_lens: Tensor, block_table: Tensor, lse: Optional[Tensor] = None,
        kv_scale: Optional[Tensor] = None, workspace: Optional[Tensor] = None, stream: Optional[int] = None, next_layer: bool = False,
        q_scale: Optional[Tensor] = None,
    ) -> None:  # fmt: skip
        """Launches on the caller's current stream.

        q [T, N, rank + rope], kv_cache [num_blocks, block_size, rank + rope], out [T, N, rank] (written); lse fp32 [N, T] (written) with
        lse_out: natural logarithm, any strides, -inf where a query sees no key (out is 0 there). query_start_loc int32 [B + 1], seq_lens
        int32 [B], block_table int32 [B, max_blocks]. kv_scale: fp32 [1] of an fp8 cache. q_scale: fp32 [1] of fp8 queries (spec.query_dtype), which
        may come as bytes. All on the plan's device. next_layer as in Plan.run. Raises as Plan.run does.
        """
        tensors = passed(q=q, kv_cache=kv_cache, out=out, lse=lse, kv_scale=kv_scale, query_start_loc=query_start_loc, seq_lens=seq_lens,
                         block_table=block_table, q_scale=q_scale)  # fmt: skip
        stream = chosen_stream(stream, q) if self._gpu or stream is not None else 0
        if workspace is None:
            refuse_without_workspace(next_layer, self.workspace_bytes)
            workspace = workspace_beside(q, self.workspace_bytes, stream)
        _mla_decode_run(self._handle, *tensors, *passed(workspace=workspace), stream, bool(next_layer))
        if self._gpu:
            _wait(self._device, stream, tensors)


_mla_decode_run = library["mla_decode_run"]


def mla_decode_plan(
    spec: AttentionSpec, cache: KvCacheSpec, *, query_start_loc: HostIntegers, seq_lens: HostIntegers, device: str = "cpu",
    family: Family = "tuned", deterministic: bool = False, lse_out: bool = False, max_query_len: int = 0, max_seq_len: int = 0,
) -> MlaDecodePlan:  # fmt: skip
    """Plans latent attention alone: queries that W_UK has been multiplied to, results that W_UV is yet to be multiplied to.

    spec: num_heads query heads over num_kv_heads=1, head_dim rank + rope, head_dim_v rank; query_dtype as in `plan`. For parallelism over contexts: each rank attends
    to the keys it has, the results are merged by their LSE. A request of no keys is allowed. family: "portable" or "tuned" kernels.
    The lengths are host sequences; max_query_len, max_seq_len: bounds up to which a GPU's plan holds for other lengths (captured graphs).
    Raises as `plan` does.
    """
    kind, index = device_of(device)
    options = {"deterministic": deterministic, "lse_out": lse_out, "max_query_len": max_query_len, "max_seq_len": max_seq_len}
    description = dump(
        device=kind, device_index=index, family=family, spec=fields("spec", spec, AttentionSpec), cache=fields("cache", cache, KvCacheSpec), options=options
    )
    starts, lens = host_integers(query_start_loc, np.int32, "query_start_loc"), host_integers(seq_lens, np.int32, "seq_lens")
    return MlaDecodePlan(library["mla_decode_make"](description, starts, lens), device)


def _run(op: str, cache: KvCacheSpec, tensors: list[Any], beside: Tensor, device: Optional[str], family: str, **more: Any) -> None:
    device = device_beside(beside) if device is None else device
    kind, index = device_of(device)
    description = dump(device=kind, device_index=index, family=family, cache=fields("cache", cache, KvCacheSpec), **more)
    stream = current_stream(beside)
    library[op](description, *tensors, stream)
    _wait(device, stream, tensors)


def slot_mapping(query_start_loc: HostIntegers, seq_lens: HostIntegers, block_table: HostTable, block_size: int) -> npt.NDArray[np.int64]:
    """The slots [T] of the newest tokens of each request: the last query_lens[b] of seq_lens[b] tokens, in blocks of block_table[b].

    Host sequences and arrays, query_start_loc [B + 1], seq_lens [B], block_table [B, max_blocks]. Raises SextantInvalidArgument.
    """
    starts = host_integers(query_start_loc, np.int64, "query_start_loc")
    lens = host_integers(seq_lens, np.int64, "seq_lens")
    table = host_integers(block_table, np.int64, "block_table", "[requests, max_blocks]")
    if block_size < 1:
        raise SextantInvalidArgument(f"block_size is {block_size}; allowed: >= 1")
    if len(starts) != len(lens) + 1 or len(table) < len(lens):
        raise SextantInvalidArgument(
            f"query_start_loc has {len(starts)} elements and block_table {len(table)} rows; allowed: {len(lens) + 1} and at least {len(lens)}"
        )
    query_lens = np.diff(starts)
    wrong = np.flatnonzero((query_lens < 0) | (query_lens > lens) | (lens > table.shape[1] * block_size))
    if len(wrong):
        b = int(wrong[0])
        raise SextantInvalidArgument(
            f"request {b} has {query_lens[b]} new tokens and seq_lens {lens[b]}; allowed: 0..seq_lens, and at most {table.shape[1] * block_size} "
            "(the row of block_table)"
        )
    request = np.repeat(np.arange(len(lens)), query_lens)
    position = np.arange(int(query_lens.sum())) - np.repeat(starts[:-1] - starts[0], query_lens) + np.repeat(lens - query_lens, query_lens)
    return np.ascontiguousarray(table[request, position // block_size] * block_size + position % block_size)


def fp8_scale(x: Any, dtype: Any = "fp8_e4m3fn", per_head: bool = False) -> Any:
    """The scale of an fp8 cache that holds x [T, H, D]: fp32 [1], or [H] with per_head; the largest |x| becomes the format's largest number.

    x: a tensor of PyTorch or an array of NumPy; the answer is of the same library and on the same device. Raises SextantInvalidArgument.
    """
    name = dtype_text(dtype)
    if name not in _LARGEST:
        raise SextantInvalidArgument(f"dtype is {dtype}; allowed: {', '.join(_LARGEST)}")
    if x.ndim != 3 or 0 in x.shape:
        raise SextantInvalidArgument(f"x has shape {list(x.shape)}; allowed: [T, H, D], not empty")
    if library_of(x) == "torch":
        largest = x.detach().float().abs().amax((0, 2) if per_head else None).reshape(-1)
        return (largest / _LARGEST[name]).clamp(min=1e-12)
    largest = np.abs(np.asarray(x, np.float32)).max((0, 2) if per_head else None).reshape(-1)
    return np.maximum(largest / np.float32(_LARGEST[name]), np.float32(1e-12)).astype(np.float32)
