"""Exceptions, one a status code of the C++ library. Every message names the field, its value and what is allowed."""

from __future__ import annotations

import tvm_ffi


class SextantError(RuntimeError):
    """Base of all errors; `code` is the C++ status code's name."""

    code = "internal"


class SextantInvalidArgument(SextantError, ValueError):
    code = "invalid_argument"


class SextantUnsupported(SextantError, NotImplementedError):
    code = "unsupported"


class SextantNotFound(SextantError, LookupError):
    code = "not_found"


class SextantResourceExhausted(SextantError, MemoryError):
    code = "resource_exhausted"


class SextantUnavailable(SextantError):
    code = "unavailable"


class SextantInternal(SextantError):
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
