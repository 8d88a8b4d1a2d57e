"""transformers' continuous batching (`generate_batch`) with our implementations: which it takes, and how it runs them.

Its decode steps hand their blocks over as they lie (a step of new prompts gathers its keys), in a CUDA graph where
there is one.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from sextant.errors import SextantUnsupported


def allow(names: "list[str]") -> None:
    """Lets `generate_batch` run with these implementations; every other name stays transformers' own business."""
    try:
        from transformers.generation.continuous_batching import continuous_api, initialization
    except ImportError:
        return
    manager = continuous_api.ContinuousBatchingManager
    _wrap(manager, "switch_to_cb_friendly_attn", functools.partial(_switched, names))
    _wrap(initialization, "ensure_decode_fast_path_is_available", functools.partial(_resolved, initialization))


def _wrap(owner: Any, name: str, around: Any) -> None:
    """owner.name becomes around(original, *arguments), once."""
    original = getattr(owner, name, None)
    if original is None or hasattr(original, "_sextant"):
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(wrapped, "_sextant", True)
    setattr(owner, name, wrapped)


def _switched(names: "list[str]", original: Any, manager: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """transformers 5 has a fixed list of implementations that it does not replace by one of its own."""
    name = str(model.config._attn_implementation)
    if not name.startswith("sextant_"):
        return original(manager, model, *args, **kwargs)
    if name not in names:
        raise SextantUnsupported(
            f"attn_implementation is {name} in continuous batching; allowed: {', '.join(names)}"
        )


def _resolved(initialization: Any, original: Any, config: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
    """Decode steps read their blocks where they lie, which transformers offers to its flash attention alone. Such a
    step may be captured; one with new prompts is planned from its lengths on the host and may not.
    """
    if not str(config._attn_implementation).startswith("sextant_"):
        return original(config, options, *args, **kwargs)
    group = getattr(initialization, "group_layers_by_attn_type", None)  # transformers 5.17 has none
    if group is None or not all(
        initialization.ATTN_TYPE_TO_ALLOCATOR[kind].supports_block_table for kind in group(config)
    ):
        options.max_blocks_per_request = 0
    if not torch.cuda.is_available():
        return
    wanted = options.use_cuda_graph
    decode = wanted[1] if isinstance(wanted, (tuple, list)) else wanted is not False
    options.use_cuda_graph = (False, decode and options.max_blocks_per_request > 0)
    if options.use_cuda_graph[1] and getattr(options, "varlen_compile_config", None) is None:
        # Steps with new prompts would be padded for a graph that they do not have: by 16384 keys, as it is.
        options.q_padding_interval_size = options.kv_padding_interval_size = 1
    if options.use_async_batching is None:
        options.use_async_batching = options.use_cuda_graph[1]
