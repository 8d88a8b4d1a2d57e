"""SGLang plugin (entry point `sglang.srt.plugins`): the four MHA backends behind their own names.

    python -m sglang.launch_server --model MODEL --attention-backend ROCM_AITER_FA --disable-cuda-graph

The names are added to SGLang's choices; nothing changes when none is asked for. The MLA names are not among them: SGLang gives an attention backend
queries and outputs in the latent space, and Sextant's MLA backends take them before and after kv_b_proj.
"""

from __future__ import annotations

import logging
from typing import Any

from sextant.transformers import MHA_BACKENDS


def register() -> None:
    """Called by SGLang at start-up, in every process, before its arguments are read. Never raises: a plugin must not stop a server that may not want it."""
    try:
        _register()
    except Exception as error:  # noqa: BLE001
        logging.getLogger("sglang.sextant").warning("sextant: the attention backends are not registered with SGLang: %s: %s", type(error).__name__, error)


def _register() -> None:
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES, add_attention_backend_choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    for name in MHA_BACKENDS:
        register_attention_backend(name)(_factory(name))
    add_attention_backend_choices([name for name in MHA_BACKENDS if name not in ATTENTION_BACKEND_CHOICES])


def _factory(name: str) -> Any:
    def create(runner: Any) -> Any:
        from sextant._sglang_attention import backend_class

        return backend_class()(runner, name)

    return create
