"""Exceptions, one a status code of the C++ library. Every message names the field, its value and what is allowed."""

from __future__ import annotations

import tvm_ffi


class SextantError(RuntimeError):
    """Base of all errors; `code` is the C++ status code's name."""

    code = "internal"


class SextantInvalidArgument(SextantError, ValueError):
    """A wrong value, shape, dtype, stride, device or batch. Nothing was written."""

    code = "invalid_argument"


class SextantUnsupported(SextantError, NotImplementedError):
    """A right request that this backend, device or build does not serve; the reason is in the message."""

    code = "unsupported"


class SextantNotFound(SextantError, LookupError):
    """A name that is not known; the message offers the nearest one."""

    code = "not_found"


class SextantResourceExhausted(SextantError, MemoryError):
    """Too little workspace or memory; the message says how much is needed."""

    code = "resource_exhausted"


class SextantUnavailable(SextantError):
    """A device, driver or library that is not on this machine."""

    code = "unavailable"


class SextantInternal(SextantError):
    """A fault of Sextant itself; please report it."""

    code = "internal"


for _class in (
    SextantInvalidArgument,
    SextantUnsupported,
    SextantNotFound,
    SextantResourceExhausted,
    SextantUnavailable,
    SextantInternal,
):
    tvm_ffi.register_error(_class.__name__, _class)
