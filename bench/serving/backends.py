"""The contestants' names, and what an engine is told to take one."""

from __future__ import annotations

# Sextant's, by the plugin; the prefix says so where vLLM has one of that name too.
OURS = (
    "SEXTANT_ROCM_AITER_UNIFIED_ATTN",
    "SEXTANT_ROCM_AITER_FA",
    "SEXTANT_TRITON_ATTN",
    "SEXTANT_ROCM_ATTN",
)
OURS_MLA = ("SEXTANT_ROCM_AITER_MLA", "SEXTANT_TRITON_MLA")
VLLM = ("FLASH_ATTN", "TRITON_ATTN", "FLASHINFER")
VLLM_MLA = ("FLASH_ATTN_MLA", "FLASHMLA", "TRITON_MLA", "FLASHINFER_MLA")


def all_for(mla: bool) -> "tuple[str, ...]":
    """vLLM's default first: the others' outputs are compared with its."""
    return (*VLLM_MLA, *OURS_MLA) if mla else (*VLLM, *OURS)


def environment(backend: str) -> "dict[str, str]":
    """Sextant's are named by the variable: child processes of the engine read it before any of them knows the names."""
    return {"VLLM_ATTENTION_BACKEND": backend} if backend.startswith("SEXTANT_") else {}


def arguments(backend: str) -> "dict[str, str]":
    return {} if backend.startswith("SEXTANT_") else {"attention_backend": backend}
