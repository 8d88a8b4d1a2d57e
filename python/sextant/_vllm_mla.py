"""vLLM's attention classes over the MLA backends (DeepSeek-style models)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Optional

import torch
from vllm.model_executor.layers.quantization.utils.quant_utils import get_and_maybe_dequant_weights
from vllm.v1.attention.backend import MLAAttentionImpl

from sextant import _vllm_attention as mha
from sextant import api
from sextant._vllm_step import Features, dcp_ranks
from sextant.torch import dtype_name


@dataclass
class SextantMlaMetadata(mha.SextantMetadata):
    """vLLM's MLA layer splits a step in decodes, whose queries it absorbs itself, and prefills, which it hands over as they are. Sextant's backends do
    both themselves and take the whole step at once: to vLLM every token is one of a prefill."""

    num_decodes: int = 0
    num_decode_tokens: int = 0
    prefill: Any = None
    decode: Any = None

    @property
    def num_prefills(self) -> int:
        return len(self.seq_lens)


class Builder(mha.Builder):
    metadata_class = SextantMlaMetadata


class Impl(MLAAttentionImpl):
    """One layer. `backend` is set by the class that make_class makes."""

    backend: str
    supports_pcp = False

    def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap, attn_type,
                 kv_sharing_target_layer_name, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, qk_head_dim, v_head_dim, kv_b_proj,
                 indexer=None, q_pad_num_heads=None):  # fmt: skip
        mha.refuse_unserved(attn_type, kv_cache_dtype)
        for name, value in (("alibi_slopes", alibi_slopes), ("kv_sharing_target_layer_name", kv_sharing_target_layer_name), ("indexer", indexer)):
            if value is not None:
                raise NotImplementedError(f"{name} is {value}; Sextant's MLA backends in vLLM allow None")
        if self.total_cp_world_size > 1:  # over decodes alone: _vllm_dcp's class
            raise NotImplementedError(f"prefill-context parallelism runs over {self.total_cp_world_size} ranks; Sextant's MLA backends in vLLM allow 1")
        self.num_heads, self.head_size, self.scale, self.num_kv_heads = num_heads, head_size, float(scale), num_kv_heads
        self.kv_lora_rank, self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim = kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim
        self.kv_cache_dtype, self.kv_b_proj = kv_cache_dtype, kv_b_proj
        self.cache_format = mha.fp8_caches().get(kv_cache_dtype)
        self.sliding_window, self.logits_soft_cap = int(sliding_window or 0), float(logits_soft_cap or 0.0)
        self.kv_b_proj_weight: Optional[torch.Tensor] = None
        self._features: dict[Any, Features] = {}

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """vLLM before 0.29 does not call it: the first run does."""
        # [N * (nope + v), rank]: the plain weight itself, or a quantised one's values.
        self.kv_b_proj_weight = get_and_maybe_dequant_weights(self.kv_b_proj, out_dtype=act_dtype).detach().contiguous()

    def do_kv_cache_update(self, kv_c_normed, k_pe, kv_cache, slot_mapping, kv_cache_dtype, k_scale) -> None:
        """Nothing: the run writes the new tokens before it reads them."""

    def features(self, dtype: torch.dtype, causal: bool, max_span_len: int, latent: torch.Tensor) -> Features:
        """The layer's spec and cache, made once: every step asks for them."""
        key = (dtype, causal, max_span_len, latent.shape)
        if key not in self._features:
            name = dtype_name(dtype)
            blocks, block_size, width = latent.shape
            spec = api.AttentionSpec(
                num_heads=self.num_heads, num_kv_heads=self.num_heads, head_dim=self.qk_nope_head_dim + self.qk_rope_head_dim, head_dim_v=self.v_head_dim,
                softmax_scale=self.scale, dtype=name, **mha.window_of(causal, self.sliding_window), logits_soft_cap=self.logits_soft_cap,
                kv_lora_rank=self.kv_lora_rank, qk_nope_head_dim=self.qk_nope_head_dim, qk_rope_head_dim=self.qk_rope_head_dim, v_head_dim=self.v_head_dim,
                max_span_len=max_span_len,
            )  # fmt: skip
            cache = api.KvCacheSpec(blocks, block_size, 1, width, self.cache_format or name, head_dim_v=self.kv_lora_rank, layout="latent")
            self._features[key] = Features.of(spec, cache)
        return self._features[key]

    def forward_mha(self, q, kv_c_normed, k_pe, kv_c_and_k_pe_cache, attn_metadata, k_scale, output, output_scale=None) -> None:
        """The whole step: q [T, N, nope + rope], kv_c_normed [T, rank], k_pe [T, 1, rope], output [T, N * v] (written),
        kv_c_and_k_pe_cache [num_blocks, block_size, rank + rope]."""
        if output_scale is not None:
            raise NotImplementedError("fused output quantisation is not supported by Sextant")
        if self.kv_b_proj_weight is None:
            self.process_weights_after_loading(q.dtype)
        features = self.features(q.dtype, attn_metadata.causal, attn_metadata.max_span_len, kv_c_and_k_pe_cache)
        plan = attn_metadata.plan(self.backend, features)
        scale = k_scale.view(1) if self.cache_format else None
        plan.run(
            self,
            q=q,
            kv_c=kv_c_normed,
            k_pe=k_pe.squeeze(1),
            kv_b_proj=self.kv_b_proj_weight,
            out=output.view(-1, self.num_heads, self.v_head_dim),
            k_cache=kv_c_and_k_pe_cache,
            k_scale=scale,
            v_scale=scale,
            slot_mapping=attn_metadata.slot_mapping,
            **attn_metadata.tensors(),
        )

    def forward_mqa(self, q, kv_c_and_k_pe_cache, attn_metadata, layer):
        raise NotImplementedError("the metadata is not Sextant's: its steps have no decode tokens apart; allowed: metadata of this backend's own builder")


class Backend(mha.Backend):
    @staticmethod
    def get_builder_cls():
        if dcp_ranks()[0] > 1:
            from sextant import _vllm_dcp

            return _vllm_dcp.Builder
        return Builder

    @staticmethod
    def get_kv_cache_shape(num_blocks, block_size, num_kv_heads, head_size, cache_dtype_str="auto"):
        return (num_blocks, block_size, head_size)

    @classmethod
    def is_mla(cls):
        return True

    @classmethod
    def supports_head_size(cls, head_size):
        return head_size % 8 == 0  # rank + rope, of any model

    @classmethod
    def supports_sink(cls):
        return False  # vLLM's MLA layer has none to pass


@functools.lru_cache(maxsize=None)
def make_class(backend: str, class_name: str) -> type:
    """vLLM's backend class over TRITON_MLA or ROCM_AITER_MLA."""
    made: Any = mha.named(backend, class_name, Backend, Impl)
    alone = made.get_impl_cls()

    def get_impl_cls() -> type:
        if dcp_ranks()[0] > 1:
            from sextant import _vllm_dcp

            return _vllm_dcp.make_impl(backend, class_name)
        return alone

    made.get_impl_cls = staticmethod(get_impl_cls)
    return made
