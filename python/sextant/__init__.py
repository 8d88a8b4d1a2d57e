"""Six attention backends over one paged KV cache.

    import sextant

    choice = sextant.select(spec, cache)                       # which backend, and why not the others
    plan = sextant.plan(choice.chosen, spec, cache, query_start_loc=..., seq_lens=..., block_table=...)
    plan.run(q=q, k=k, v=v, out=out, k_cache=k_cache, v_cache=v_cache, block_table=block_table, slot_mapping=slot_mapping)

Tensors of PyTorch, NumPy, JAX and CuPy are taken through DLPack without a copy. `sextant.torch` has custom ops and dense attention,
`sextant.transformers` registers the backends with Hugging Face transformers, and vLLM finds the package through its plugin entry point.
"""

from sextant.api import (
    AttentionSpec,
    Candidate,
    KvCacheSpec,
    Plan,
    Selection,
    VarlenPlan,
    backends,
    cache_shape,
    devices,
    get_num_threads,
    merge_attn_states,
    plan,
    reshape_and_cache,
    select,
    set_log,
    set_num_threads,
    varlen_plan,
)
from sextant.errors import (
    SextantError,
    SextantInternal,
    SextantInvalidArgument,
    SextantNotFound,
    SextantResourceExhausted,
    SextantUnavailable,
    SextantUnsupported,
)
from sextant.ops import MlaDecodePlan, concat_and_cache_mla, copy_blocks, fp8_scale, gather_cache, mla_decode_plan, slot_mapping
from sextant.paging import BlockAllocator, PagedKVCache, Step

__version__ = "0.1.0"

__all__ = [
    "AttentionSpec",
    "BlockAllocator",
    "Candidate",
    "KvCacheSpec",
    "MlaDecodePlan",
    "PagedKVCache",
    "Plan",
    "Selection",
    "SextantError",
    "SextantInternal",
    "SextantInvalidArgument",
    "SextantNotFound",
    "SextantResourceExhausted",
    "SextantUnavailable",
    "SextantUnsupported",
    "Step",
    "VarlenPlan",
    "backends",
    "cache_shape",
    "concat_and_cache_mla",
    "copy_blocks",
    "devices",
    "fp8_scale",
    "gather_cache",
    "get_num_threads",
    "merge_attn_states",
    "mla_decode_plan",
    "plan",
    "reshape_and_cache",
    "select",
    "set_log",
    "set_num_threads",
    "slot_mapping",
    "varlen_plan",
]
