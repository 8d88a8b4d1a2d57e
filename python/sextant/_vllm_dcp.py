"""MLA over ranks that hold a part of every context each (vLLM's decode-context parallelism).

    decode:   vLLM gathers the heads of all ranks --> forward_mqa: Sextant, over the rank's own keys --> (out, LSE)
              --> vLLM merges the ranks' results by their LSE, natural logarithms, and gives each rank its heads back
    prefill:  vLLM's own: it gathers the ranks' latents in chunks, for keys that are not all here

A context's tokens go round the ranks in runs of cp_kv_cache_interleave_size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import torch
from vllm import envs
from vllm.model_executor.layers.attention.mla_attention import MLACommonImpl, MLACommonMetadataBuilder
from vllm.v1.attention.backend import AttentionCGSupport

from sextant import api, ops
from sextant import _vllm_attention as mha
from sextant._layer_turns import LayerTurns
from sextant._vllm_step import Features, Workspace, dcp_ranks, host_batch
from sextant.torch import device_name, dtype_name

_FAMILIES: "dict[str, api.Family]" = {"TRITON_MLA": "portable", "ROCM_AITER_MLA": "tuned"}


def local_lens(lens: "npt.NDArray[np.int32]", world: int, rank: int, interleave: int) -> "npt.NDArray[np.int32]":
    """How many of the first `lens` tokens of each context this rank holds. A bound of a length gives a bound."""
    turns, rest = np.divmod(lens, world * interleave)
    return (turns * interleave + np.clip(rest - rank * interleave, 0, interleave)).astype(np.int32)


@dataclass
class DecodeStep:
    """The decodes of a step: the first of its requests, a token each, and the plans that its layers share."""

    query_start_loc: torch.Tensor  # int32 [B + 1]
    seq_lens: torch.Tensor  # int32 [B]: keys on this rank
    block_table: torch.Tensor  # int32 [B, max_blocks]
    host: "tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]"  # query_start_loc and seq_lens
    options: dict[str, Any]
    workspace: Workspace
    plans: dict[Features, LayerTurns] = field(default_factory=dict)

    def plan(self, family: api.Family, features: Features) -> LayerTurns:
        if features not in self.plans:
            starts, lens = self.host
            plan = ops.mla_decode_plan(features.spec, features.cache, query_start_loc=starts, seq_lens=lens, family=family,
                                       device=device_name(self.seq_lens.device), lse_out=True, **self.options)  # fmt: skip
            self.plans[features] = self.workspace.turns(plan, features, self.seq_lens)
        return self.plans[features]


class Builder(MLACommonMetadataBuilder):
    """vLLM's, which splits a step in decodes and prefills, and what Sextant's decodes need beside."""

    _cudagraph_support = AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE

    def __init__(self, kv_cache_spec, layer_names, vllm_config, device, *more, **named):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device, *more, **named)
        self.world, self.rank = dcp_ranks()
        self.interleave = vllm_config.parallel_config.cp_kv_cache_interleave_size
        self.longest = vllm_config.model_config.max_model_len
        self.sextant_options: dict[str, Any] = {"deterministic": True} if getattr(envs, "VLLM_BATCH_INVARIANT", False) else {}
        self.sextant_workspace = Workspace()
        self.captured: list[Any] = []  # a graph's kernels read what its plans hold

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False, **more):
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build, **more)
        decodes = metadata.num_decodes
        if decodes:
            metadata.sextant_decode = self.decode_step(common_attn_metadata, metadata.decode, decodes)
        return metadata

    def decode_step(self, common: Any, decode: Any, decodes: int) -> DecodeStep:
        batch = host_batch(common, decodes)
        if batch is None:  # the CPU's tensors are on the host
            batch = common.query_start_loc[: decodes + 1].numpy(), common.seq_lens[:decodes].numpy()
        starts, lens = batch
        return DecodeStep(
            query_start_loc=common.query_start_loc[: decodes + 1].to(torch.int32).contiguous(),
            seq_lens=decode.seq_lens[:decodes].to(torch.int32).contiguous(),
            block_table=decode.block_table[:decodes].to(torch.int32).contiguous(),
            host=(starts.astype(np.int32), local_lens(lens, self.world, self.rank, self.interleave)),
            options=dict(self.sextant_options),
            workspace=self.sextant_workspace,
        )

    def build_for_cudagraph_capture(self, common_attn_metadata):
        """Plans that hold for every length that a replay may bring."""
        metadata = super().build_for_cudagraph_capture(common_attn_metadata)
        step = getattr(metadata, "sextant_decode", None)
        if step is not None:
            longest = local_lens(np.array([self.longest], np.int32), self.world, 0, self.interleave)  # the first rank has most
            step.options.update(max_query_len=1, max_seq_len=int(longest[0]))
        self.captured.append(metadata)
        return metadata


class Impl(MLACommonImpl):
    """One layer: vLLM's prefill, Sextant's decode. `backend` is set by the class that make_class makes."""

    backend: str
    can_return_lse_for_decode = True
    lse_base_on_e = True
    supports_dcp = True
    supports_pcp = False

    def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap, attn_type,
                 kv_sharing_target_layer_name, **mla):  # fmt: skip
        mha.refuse_unserved(attn_type, kv_cache_dtype)
        for name, value in (("alibi_slopes", alibi_slopes), ("sliding_window", sliding_window), ("logits_soft_cap", logits_soft_cap)):
            if value:
                raise NotImplementedError(f"{name} is {value}; Sextant's MLA backends in vLLM allow none over several ranks")
        if getattr(self, "pcp_world_size", 1) > 1:
            raise NotImplementedError(f"prefill-context parallelism runs over {self.pcp_world_size} ranks; Sextant's MLA backends in vLLM allow 1")
        super().__init__(num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap, attn_type,
                         kv_sharing_target_layer_name, **mla)  # fmt: skip
        self.supports_quant_query_input = False  # queries come as they are
        self.cache_format = mha.fp8_caches().get(kv_cache_dtype)
        self._features: dict[Any, Features] = {}

    def decode_features(self, dtype: torch.dtype, heads: int, latent: torch.Tensor) -> Features:
        key = (dtype, heads, latent.shape)
        if key not in self._features:
            name = dtype_name(dtype)
            blocks, block_size, width = latent.shape
            spec = api.AttentionSpec(num_heads=heads, num_kv_heads=1, head_dim=width, head_dim_v=self.kv_lora_rank, softmax_scale=self.scale, dtype=name)
            cache = api.KvCacheSpec(blocks, block_size, 1, width, self.cache_format or name, head_dim_v=self.kv_lora_rank, layout="latent")
            self._features[key] = Features.of(spec, cache)
        return self._features[key]

    def forward_mqa(self, q, kv_c_and_k_pe_cache, attn_metadata, layer):
        """q [T, N, rank + rope] of all ranks' heads, or its two parts --> out [T, N, rank], LSE fp32 [T, N] over this rank's keys."""
        if isinstance(q, tuple):
            q = torch.cat(q, dim=-1)
        tokens, heads, _ = q.shape
        step: DecodeStep = attn_metadata.sextant_decode
        plan = step.plan(_FAMILIES[self.backend], self.decode_features(q.dtype, heads, kv_c_and_k_pe_cache))
        out = q.new_empty(tokens, heads, self.kv_lora_rank)
        lse = torch.empty(tokens, heads, dtype=torch.float32, device=q.device)
        plan.run(self, q=q, kv_cache=kv_c_and_k_pe_cache, out=out, lse=lse.t(), query_start_loc=step.query_start_loc, seq_lens=step.seq_lens,
                 block_table=step.block_table, kv_scale=layer._k_scale.view(1) if self.cache_format else None)  # fmt: skip
        return out, (lse if self.need_to_return_lse_for_decode else None)


@functools.lru_cache(maxsize=None)
def make_impl(backend: str, class_name: str) -> type:
    return type(class_name + "DcpImpl", (Impl,), {"backend": backend, "__module__": "sextant.vllm"})
