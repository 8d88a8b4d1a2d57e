"""vLLM plugin (entry point `vllm.general_plugins`): the MHA backends behind vLLM's own names.

    vllm serve MODEL --attention-backend ROCM_AITER_FA          # or VLLM_ATTENTION_BACKEND=ROCM_AITER_FA

On the CPU platform vLLM itself serves none of the names, so Sextant's classes take them. On other platforms they are registered with SEXTANT_ in
front and vLLM's own stay what they are. Nothing changes when no backend is asked for.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from typing import Any

import torch

from sextant import api
from sextant._dlpack import workspace_beside
from sextant.torch import dtype_name
from sextant.transformers import MHA_BACKENDS

_VARIABLE = "VLLM_ATTENTION_BACKEND"


def register() -> None:
    """Called by vLLM at start-up, in every process."""
    from vllm.logger import init_logger
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    logger = init_logger("vllm.sextant")
    if not current_platform.is_cpu():
        for name in MHA_BACKENDS:
            if not hasattr(AttentionBackendEnum, "SEXTANT_" + name):
                AttentionBackendEnum.register("SEXTANT_" + name, _class_path(name))
        return
    for name in MHA_BACKENDS:
        register_backend(AttentionBackendEnum[name], _class_path(name))
    platform: Any = type(current_platform) if not isinstance(current_platform, type) else current_platform
    if hasattr(platform, "_sextant_original"):
        return
    original = platform.get_attn_backend_cls.__func__
    platform._sextant_original = original

    def get_attn_backend_cls(cls, selected_backend, attn_selector_config, num_heads=None):
        name = getattr(selected_backend, "name", None) or os.environ.get(_VARIABLE)
        if name in MHA_BACKENDS and not attn_selector_config.use_mla and attn_selector_config.attn_type == "decoder":
            logger.info_once("Using Sextant's %s backend.", name)
            return _class_path(name)
        if selected_backend is None and name:
            _refuse_unknown(name, AttentionBackendEnum)
        for wrong in _near_misses():
            logger.warning_once("the environment sets %s, which nothing reads; did you mean %s?", wrong, _VARIABLE)
        return original(cls, selected_backend, attn_selector_config, num_heads)

    platform.get_attn_backend_cls = classmethod(get_attn_backend_cls)


def _near_misses() -> list[str]:
    """Variables that are set and were probably meant to be VLLM_ATTENTION_BACKEND."""
    close = [name for name in os.environ if difflib.get_close_matches(name.upper().replace("ATTN", "ATTENTION"), [_VARIABLE], cutoff=0.9)]
    return [name for name in close if name != _VARIABLE]


def _refuse_unknown(name: str, registry) -> None:
    """An environment variable that names nothing must not be ignored."""
    if name in registry.__members__:
        return
    near = difflib.get_close_matches(name, registry.__members__, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f'{_VARIABLE} is "{name}"; {hint}allowed: {", ".join(MHA_BACKENDS)}, or a backend of vLLM')


def _class_path(name: str) -> str:
    return f"sextant.vllm.{_class_name(name)}"


def _class_name(name: str) -> str:
    return "Sextant" + "".join(part.capitalize() for part in name.split("_"))


def __getattr__(name: str):
    """The backend classes are made on demand: importing this module must not import vLLM's attention code."""
    for backend in MHA_BACKENDS:
        if name == _class_name(backend):
            return _make_class(backend)
    raise AttributeError(name)


@dataclass
class SextantMetadata:
    """A step's batch on the host and the device, and the plans that layers with equal features share."""

    num_actual_tokens: int
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    causal: bool
    plans: dict = field(default_factory=dict)


_classes: dict = {}


def _make_class(backend: str):
    if backend in _classes:
        return _classes[backend]
    from vllm.v1.attention.backend import AttentionBackend, AttentionImpl, AttentionMetadataBuilder, AttentionType
    from vllm.v1.kv_cache_interface import KVCacheLayout

    class Builder(AttentionMetadataBuilder):
        def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
            super().__init__(kv_cache_spec, layer_names, vllm_config, device)

        def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
            m = common_attn_metadata
            requests = m.num_reqs
            return SextantMetadata(
                num_actual_tokens=m.num_actual_tokens,
                query_start_loc=m.query_start_loc[: requests + 1].to(torch.int32).contiguous(),
                seq_lens=m.seq_lens[:requests].to(torch.int32).contiguous(),
                block_table=m.block_table_tensor[:requests].to(torch.int32).contiguous(),
                slot_mapping=m.slot_mapping[: m.num_actual_tokens].to(torch.int64).contiguous(),
                causal=bool(m.causal),
            )

    class Impl(AttentionImpl):
        def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap=None,
                     attn_type=AttentionType.DECODER, kv_sharing_target_layer_name=None, sinks=None):
            if attn_type != AttentionType.DECODER:
                raise NotImplementedError(f"attn_type is {attn_type}; Sextant allows decoder")
            if kv_cache_dtype not in ("auto", "float16", "bfloat16", "float32"):
                raise NotImplementedError(f"kv_cache_dtype is {kv_cache_dtype}; Sextant in vLLM allows auto")
            self.num_heads, self.head_size, self.scale, self.num_kv_heads = num_heads, head_size, float(scale), num_kv_heads
            self.alibi_slopes = None if alibi_slopes is None else torch.tensor(alibi_slopes, dtype=torch.float32)
            self.sliding_window = int(sliding_window or 0)
            self.logits_soft_cap = float(logits_soft_cap or 0.0)
            self.sinks = sinks
            self.kv_cache_dtype, self.kv_sharing_target_layer_name = kv_cache_dtype, kv_sharing_target_layer_name

        def forward(self, layer, query, key, value, kv_cache, attn_metadata, output, output_scale=None, output_block_scale=None):
            """query [T, Hq, D], key and value [T, Hkv, D], kv_cache [num_blocks, Hkv, block_size, 2 * D]."""
            if output_scale is not None or output_block_scale is not None:
                raise NotImplementedError("fused output quantisation is not supported by Sextant")
            if attn_metadata is None:  # profiling run
                return output.fill_(0)
            tokens = attn_metadata.num_actual_tokens
            blocks, heads, block_size, _ = kv_cache.shape
            k_cache, v_cache = kv_cache.view(blocks, heads, block_size * 2, -1).chunk(2, dim=2)
            plan, workspace = self._plan(attn_metadata, query.dtype, blocks, block_size)
            shaped = output.view(-1, self.num_heads, self.head_size)
            plan.run(
                q=query.view(-1, self.num_heads, self.head_size)[:tokens],
                k=key.view(-1, self.num_kv_heads, self.head_size)[:tokens],
                v=value.view(-1, self.num_kv_heads, self.head_size)[:tokens],
                out=shaped[:tokens],
                k_cache=k_cache,
                v_cache=v_cache,
                query_start_loc=attn_metadata.query_start_loc,
                seq_lens=attn_metadata.seq_lens,
                block_table=attn_metadata.block_table,
                # Layers that share another layer's cache read it and write nothing.
                slot_mapping=None if self.kv_sharing_target_layer_name else attn_metadata.slot_mapping,
                sinks=None if self.sinks is None else self.sinks.float().contiguous(),
                alibi_slopes=self.alibi_slopes,
                workspace=workspace,
            )
            return output

        def _plan(self, metadata, dtype, blocks, block_size):
            spec = api.AttentionSpec(
                num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_size, softmax_scale=self.scale, dtype=dtype_name(dtype),
                causal=metadata.causal, sliding_window=self.sliding_window, logits_soft_cap=self.logits_soft_cap,
                has_sinks=self.sinks is not None, has_alibi=self.alibi_slopes is not None,
            )
            key = (spec, blocks, block_size)
            if key not in metadata.plans:
                cache = api.KvCacheSpec(blocks, block_size, self.num_kv_heads, self.head_size, spec.dtype, layout="HND")
                plan = api.plan(backend, spec, cache, query_start_loc=metadata.query_start_loc, seq_lens=metadata.seq_lens,
                                block_table=metadata.block_table, slot_mapping=metadata.slot_mapping, device=str(metadata.seq_lens.device))
                metadata.plans[key] = plan, workspace_beside(metadata.seq_lens, plan.workspace_bytes)
            return metadata.plans[key]

    class Backend(AttentionBackend):
        supported_dtypes = [torch.float32, torch.float16, torch.bfloat16]
        supported_kv_cache_dtypes = ["auto", "float16", "bfloat16"]
        forward_includes_kv_cache_update = True

        @staticmethod
        def get_name():
            return backend

        @staticmethod
        def get_impl_cls():
            return Impl

        @staticmethod
        def get_builder_cls():
            return Builder

        @classmethod
        def supported_kv_cache_layouts(cls):
            return (KVCacheLayout.LBHNC,)  # a block's heads one after another, K and V of a head side by side

        @classmethod
        def supports_head_size(cls, head_size):
            return head_size % 8 == 0 and 8 <= head_size <= 256

        @classmethod
        def supports_sink(cls):
            return True

        @classmethod
        def supports_sliding_window(cls):
            return True

        @classmethod
        def supports_non_causal(cls):
            return True

        @classmethod
        def supports_device_cpu_query_lens_mismatch(cls):
            return False  # plans are made from the lengths on the host

    Backend.__name__ = Backend.__qualname__ = _class_name(backend)
    _classes[backend] = Backend
    return Backend
