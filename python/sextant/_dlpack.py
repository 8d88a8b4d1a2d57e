"""Other libraries' tensors: how they come in, which stream they are on, and scratch memory beside them."""

from __future__ import annotations

import operator
from typing import Any, Callable, Iterable, Optional, Protocol, runtime_checkable

import numpy as np

from sextant.errors import SextantInvalidArgument

_CPU, _CUDA_HOST = 1, 3  # DLPack's device types of memory that the CPU reads
_GPUS = {2: "cuda", 10: "hip", 13: "cuda"}


@runtime_checkable
class Tensor(Protocol):
    """Any object that speaks DLPack: arrays and tensors of NumPy, PyTorch, JAX, CuPy and others. Taken as they lie, without a copy."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self, *args: Any, **kwargs: Any) -> Any: ...


def passed(**tensors: Optional[Tensor]) -> list[Any]:
    """What TVM FFI takes, in the order given: torch tensors lose their autograd history, bfloat16 and fp8 pass through DLPack."""
    return passed_in_order(tensors, tensors.values())


def passed_in_order(names: Iterable[str], values: Iterable[Optional[Tensor]]) -> list[Any]:
    """`passed`, without a dictionary a call."""
    return [
        value
        if value is None
        else (_WAYS.get(type(value)) or _way_of(value))(name, _wide(value) if name == "slot_mapping" else value)
        for name, value in zip(names, values)
    ]


_Way = Callable[[str, Any], Any]
_WAYS: dict[type, _Way] = {}  # a call has twenty tensors: each type is looked at once


def _way_of(value: Any) -> _Way:
    way: _Way = _as_it_is
    if library_of(value) == "cupy":
        way = _on_its_stream
    elif hasattr(value, "detach"):
        import torch

        way = _of_torch(torch.strided) if isinstance(value, torch.Tensor) else _detached
    elif isinstance(value, np.ndarray):
        way = _of_numpy
    return _WAYS.setdefault(type(value), way)


def _on_its_stream(name: str, value: Any) -> Any:
    return _OnItsStream(value)


def _detached(name: str, value: Any) -> Any:
    return value.detach()


def _of_torch(strided: Any) -> _Way:
    def way(name: str, value: Any) -> Any:
        if value.layout is not strided or value.is_meta or value.is_quantized:
            kind = value.device if value.is_meta else "quantised" if value.is_quantized else value.layout
            raise SextantInvalidArgument(f"{name} is a {kind} tensor; allowed: strided tensors with memory on a CPU or GPU")
        if value.is_neg():  # the imaginary part of a conjugate: its memory holds the numbers with the other sign
            raise SextantInvalidArgument(f"{name} is a negated view; allowed: tensors whose memory holds their numbers (resolve_neg())")
        return value.detach() if value.requires_grad else value

    return way


def _of_numpy(name: str, value: Any) -> Any:
    if value.dtype not in _PLAIN:
        if value.dtype.name in _BITS:
            value = value.view(_BITS[value.dtype.name])
        elif value.dtype.kind not in "biufcV" or value.dtype.fields is not None or not value.dtype.isnative:
            raise SextantInvalidArgument(f"{name} has dtype {value.dtype}; allowed: plain numbers in the machine's byte order")
    if not value.flags.writeable:  # DLPack hands over memory that may be written
        raise SextantInvalidArgument(f"{name} is a read-only array; allowed: writable arrays")
    return value


def _as_it_is(name: str, value: Any) -> Any:
    if not hasattr(value, "__dlpack__"):
        raise SextantInvalidArgument(f"{name} is a {type(value).__name__}; allowed: a tensor of PyTorch, NumPy, JAX or CuPy")
    return value


_PLAIN = frozenset(map(np.dtype, ("float32", "float16", "int32", "int64", "uint8", "uint16", "int8")))
# ml_dtypes' arrays, which NumPy does not hand over: as their bits, the spec says which format.
_BITS = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e4m3fnuz": np.uint8, "float8_e5m2": np.uint8}


_NARROW: dict[Any, bool] = {}  # dtypes, whose names take longer to write than a call may


def _wide(slots: Any) -> Any:
    """int32 slots as int64, which the kernels read; JAX on the CPU has no int64 by default."""
    dtype = getattr(slots, "dtype", None)
    narrow = _NARROW.get(dtype)
    if narrow is None:
        narrow = _NARROW[dtype] = str(dtype).endswith("int32")
    if not narrow:
        return slots
    if hasattr(slots, "detach"):
        return slots.long()
    if library_of(slots) == "jax":
        slots = np.asarray(slots) if slots.__dlpack_device__()[0] in (_CPU, _CUDA_HOST) else slots
    return slots.astype(np.int64)


class _OnItsStream:
    """A CuPy array without the default stream's wait for the current one: the call runs on the current stream, which a graph may be capturing."""

    def __init__(self, array: Any):
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**{**options, "stream": -1})  # DLPack's word for "do not synchronise"

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def required(**tensors: Optional[Tensor]) -> list[Any]:
    """`passed`, of tensors that must be there."""
    for name, tensor in tensors.items():
        if tensor is None:
            raise SextantInvalidArgument(f"{name} is None; allowed: a tensor of PyTorch, NumPy, JAX or CuPy")
    return passed(**tensors)


def chosen_stream(stream: Optional[int], tensor: object) -> int:
    """`stream` as the caller names it, else the caller's current one."""
    if stream is None:
        return current_stream(tensor)
    try:
        return operator.index(stream)
    except TypeError:
        raise SextantInvalidArgument(f"stream is {stream!r}; allowed: the driver's pointer as an integer") from None


def library_of(value: object) -> str:
    """"torch", "numpy", "cupy", "jax" (its arrays live in jaxlib) or another top-level module's name."""
    name = type(value).__module__.split(".")[0]
    return "jax" if name == "jaxlib" else name


def current_stream(tensor: object) -> int:
    """The caller's current stream on the tensor's device; 0, the default stream, for libraries that have no such notion (JAX)."""
    device = getattr(tensor, "device", None)
    if getattr(device, "type", None) == "cuda":  # PyTorch's builds for ROCm say cuda too
        import torch

        return int(torch.cuda.current_stream(device).cuda_stream)
    if library_of(tensor) == "cupy":
        import cupy  # type: ignore[import-not-found,unused-ignore]

        return int(cupy.cuda.get_current_stream().ptr)
    return 0


def device_beside(tensor: Any) -> str:
    """Sextant's name of the device that the tensor is on: "cpu", "cuda:1"; "cpu" for what is no tensor (which the call then refuses)."""
    if not hasattr(tensor, "__dlpack_device__") or getattr(tensor, "is_meta", False):
        return "cpu"
    kind, index = tensor.__dlpack_device__()
    return f"{_GPUS[kind]}:{index}" if kind in _GPUS else "cpu"


def has_own_streams(tensor: Any) -> bool:
    """Whether the tensor's library works on streams that it does not tell (JAX on GPUs): it may free or read memory while a kernel runs."""
    if tensor is None or hasattr(tensor, "detach") or isinstance(tensor, (np.ndarray, _OnItsStream)):
        return False
    return tensor.__dlpack_device__()[0] not in (_CPU, _CUDA_HOST)


def workspace_beside(tensor: Any, size: int, stream: int) -> Optional[Tensor]:
    """Uninitialised bytes on the tensor's device for work on `stream`, 256-byte aligned; None for 0 (and without a tensor, which the call then refuses)."""
    if size == 0 or tensor is None:
        return None
    library = library_of(tensor)
    if hasattr(tensor, "new_empty"):
        import torch

        memory = torch.empty(size + 256, dtype=torch.uint8, device=tensor.device)
        if stream != current_stream(tensor):  # the allocator gives the memory to others only after that stream's work
            memory.record_stream(torch.cuda.ExternalStream(stream, tensor.device))  # type: ignore[no-untyped-call,unused-ignore]
        offset = -memory.data_ptr() % 256
        return memory[offset : offset + size]
    if library == "cupy":
        import cupy

        with cupy.cuda.ExternalStream(stream):  # CuPy's pool knows one stream for each allocation, the current one
            return cupy.empty(size, dtype=cupy.uint8)  # type: ignore[no-any-return]  # 512-byte aligned
    if tensor.__dlpack_device__()[0] in (_CPU, _CUDA_HOST):
        raw = np.empty(size + 256, dtype=np.uint8)
        shift = -raw.ctypes.data % 256
        return raw[shift : shift + size]
    if library == "jax":
        import jax

        return jax.block_until_ready(jax.numpy.zeros(size, jax.numpy.uint8, device=tensor.device))  # type: ignore[no-any-return,no-untyped-call,unused-ignore]
    raise SextantInvalidArgument(f"workspace is missing; allowed: at least {size} bytes on the device of {library}'s tensor")
