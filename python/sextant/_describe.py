"""What goes to the library as text and as host arrays, checked on the way."""

from __future__ import annotations

import json
import operator
from typing import Any, Iterator

import numpy as np
import numpy.typing as npt

from sextant._dlpack import library_of
from sextant.errors import SextantInvalidArgument

_DEVICE_KINDS = ("cpu", "cuda", "hip", "hip-emulated")


def fields(name: str, value: Any, wanted: type) -> dict[str, Any]:
    if not isinstance(value, wanted):
        raise SextantInvalidArgument(f"{name} is a {type(value).__name__}; allowed: sextant.{wanted.__name__}")
    given = {field: getattr(value, field) for field in value.__dataclass_fields__}  # type: ignore[attr-defined]
    for field in ("dtype", "query_dtype"):
        if field in given and not isinstance(given[field], str):
            names = "fp32, fp16, bf16" + ("" if wanted.__name__ == "AttentionSpec" and field == "dtype" else ", fp8_e4m3fn, fp8_e4m3fnuz, fp8_e5m2")
            names += ", int8" if wanted.__name__ == "KvCacheSpec" else ""
            raise SextantInvalidArgument(f"{name}.{field} is {given[field]}; allowed: {names}, or the types of PyTorch, NumPy and ml_dtypes for them")
    return given


_DTYPES = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "half": "fp16", "float8_e4m3fn": "fp8_e4m3fn",
    "float8_e4m3fnuz": "fp8_e4m3fnuz", "float8_e5m2": "fp8_e5m2",
    "int8": "int8",
}  # fmt: skip


def dtype_text(dtype: Any) -> Any:
    """"bf16" for torch.bfloat16, np.dtype, ml_dtypes.bfloat16, jax.numpy.bfloat16, "bfloat16" and "bf16"; what is no known dtype as it is.

    Python's own float is none: to NumPy and PyTorch it means 64 bits.
    """
    if dtype is float:
        return dtype
    if isinstance(dtype, str):
        return _DTYPES.get(dtype.rpartition(".")[2], dtype)
    named = str(dtype) if str(dtype).startswith("torch.") else getattr(dtype, "name", None) or getattr(dtype, "__name__", None)
    return _DTYPES.get(str(named).rpartition(".")[2], dtype)


def dump(**description: Any) -> str:
    for name, value in _leaves(description):
        if isinstance(value, (float, np.floating)) and not np.isfinite(value):
            raise SextantInvalidArgument(f"{name} is {value}; allowed: finite numbers")
    try:
        return json.dumps(description, default=_plain)
    except TypeError as error:
        raise SextantInvalidArgument(f"a value of the description cannot be used ({error}); allowed: plain numbers and strings") from None


def _leaves(description: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in description.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _plain(value: Any) -> Any:
    """NumPy's numbers and torch's devices and sizes, which JSON does not know."""
    return value.item() if isinstance(value, np.generic) else operator.index(value)


def device_of(name: Any) -> tuple[str, int]:
    """"cuda:1" (or a torch.device) -> ("cuda", 1)."""
    kind, _, index = str(name).partition(":")
    if kind not in _DEVICE_KINDS or (index and not index.isdigit()):
        raise SextantInvalidArgument(f'device is "{name}"; allowed: cpu, cuda, hip, hip-emulated, with an index such as cuda:1')
    return kind, int(index or 0)


def host_integers(values: Any, dtype: type[np.signedinteger[Any]], name: str, shape: str = "[n]") -> npt.NDArray[Any]:
    """Integers on the host, of `dtype` and of the rank that `shape` shows."""
    if type(values) is np.ndarray and values.dtype == dtype and values.ndim == shape.count(",") + 1 and values.flags.carray:
        return values  # as most are
    if hasattr(values, "detach"):  # a torch tensor, possibly on a GPU: planning needs it on the host
        values = values.detach().cpu().numpy()
    elif library_of(values) == "cupy":
        values = values.get()
    elif hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
        values = np.from_dlpack(values)
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of different lengths, for instance
        raise SextantInvalidArgument(f"{name} is not an array ({error}); allowed: integers {shape}") from None
    rank = shape.count(",") + 1
    if array.size == 0 and array.ndim == 1:  # no requests
        array = array.reshape((0,) * rank)
    if array.size and array.dtype.kind not in "iu":
        raise SextantInvalidArgument(f"{name} has dtype {array.dtype}; allowed: integers")
    if array.ndim != rank:
        raise SextantInvalidArgument(f"{name} has rank {array.ndim}; allowed: {rank} ({shape})")
    if array.size and (array.max() > np.iinfo(dtype).max or array.min() < np.iinfo(dtype).min):
        raise SextantInvalidArgument(f"{name} holds values beyond {np.dtype(dtype)}; allowed: {np.dtype(dtype)}")
    return np.require(array, dtype, ["C_CONTIGUOUS", "WRITEABLE"])  # DLPack does not hand over read-only memory
