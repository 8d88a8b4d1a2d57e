"""SGLang's attention interface over the MHA backends: one plan a step and kind of layer, made on the host.

SGLang's cache holds tokens in slots, page after page: with pages of P tokens slot s is token s % P of block s / P, so its buffers [slots, heads, width]
are blocks [slots / P, P, heads, width] as they lie, and every P-th slot of a request names its blocks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Optional

import torch

from sextant import api
from sextant._dlpack import current_stream, workspace_beside
from sextant._layer_turns import LayerTurns, Memory
from sextant.errors import SextantUnsupported
from sextant.torch import device_name, dtype_name


@dataclass
class Step:
    """A forward pass's batch, and the plans of its kinds of layers."""

    query_start_loc: torch.Tensor  # int32 [B + 1]
    seq_lens: torch.Tensor  # int32 [B]
    block_table: torch.Tensor  # int32 [B, max_blocks]
    host_starts: list[int]
    host_lens: list[int]
    plans: dict[Any, LayerTurns] = field(default_factory=dict)

    def plan(self, backend: str, spec: api.AttentionSpec, cache: api.KvCacheSpec) -> LayerTurns:
        """Layers run one after another, so those of a kind share plan and memory."""
        if (spec, cache) not in self.plans:
            made = api.plan(
                backend, spec, cache, query_start_loc=self.host_starts, seq_lens=self.host_lens, max_blocks_per_request=self.block_table.shape[1],
                device=device_name(self.seq_lens.device),
            )  # fmt: skip
            memory = Memory(workspace_beside(self.seq_lens, made.workspace_bytes, current_stream(self.seq_lens)))
            self.plans[spec, cache] = LayerTurns(made, memory)
        return self.plans[spec, cache]


def refuse(what: str, value: Any, allowed: str) -> None:
    raise SextantUnsupported(f"{what} is {value}; allowed: {allowed}")


@functools.lru_cache(maxsize=1)
def backend_class() -> type:
    """The class, made when SGLang is there: its base is SGLang's."""
    from sglang.srt.layers.attention.base_attn_backend import AttentionBackend

    class SextantAttention(AttentionBackend):
        def __init__(self, runner: Any, name: str):
            super().__init__()
            self.name = name
            self.device = runner.device
            self.req_to_token_pool = runner.req_to_token_pool
            self.token_to_kv_pool = runner.token_to_kv_pool
            self.page_size = getattr(runner.token_to_kv_pool, "page_size", 1)
            if getattr(runner.token_to_kv_pool, "swa_layer_nums", 0):
                refuse("the KV pool", "a hybrid one with a part for windows", "one pool: start with --disable-hybrid-swa-memory")
            self.forward_metadata: Optional[Step] = None

        # --- The batch, once a forward pass ---

        def init_forward_metadata(self, forward_batch: Any) -> None:
            mode = forward_batch.forward_mode
            if mode.is_idle():
                self.forward_metadata = None
                return
            if mode.is_target_verify() or mode.is_draft_extend_v2():
                refuse("forward_mode", mode, "decode, extend, mixed: start without speculative decoding")
            seq_lens = forward_batch.seq_lens.to(torch.int32)
            on_host = forward_batch.seq_lens_cpu if forward_batch.seq_lens_cpu is not None else forward_batch.seq_lens
            host_lens = on_host.tolist()
            if mode.is_decode():
                query_lens = [1] * len(host_lens)
            else:
                query_lens = list(forward_batch.extend_seq_lens_cpu or forward_batch.extend_seq_lens.tolist())
            starts = [0]
            for query_len in query_lens:
                starts.append(starts[-1] + query_len)
            slots = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices, : max([1, *host_lens])]
            block_table = slots[:, :: self.page_size]
            block_table = (block_table // self.page_size if self.page_size > 1 else block_table).to(torch.int32).contiguous()
            query_start_loc = torch.tensor(starts, dtype=torch.int32, device=seq_lens.device)
            self.forward_metadata = Step(query_start_loc, seq_lens.contiguous(), block_table, starts, host_lens)

        def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
            if in_capture:
                refuse("graph capture", "on", "off (--disable-cuda-graph): a plan is made on the host for each step's lengths")
            self.init_forward_metadata(forward_batch)

        def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
            refuse("graph capture", "on", "off (--disable-cuda-graph): a plan is made on the host for each step's lengths")

        def support_triton(self) -> bool:
            return False

        # --- A layer ---

        def spec(self, layer: Any, q: torch.Tensor, has_sinks: bool) -> api.AttentionSpec:
            if layer.is_cross_attention:
                refuse("layer.is_cross_attention", True, "False")
            kind = getattr(layer.attn_type, "value", layer.attn_type)
            if kind not in ("decoder", "encoder_only"):
                refuse("layer.attn_type", kind, "decoder, encoder_only")
            if layer.logit_cap and getattr(layer, "logit_capping_method", "tanh") != "tanh":
                refuse("layer.logit_capping_method", layer.logit_capping_method, "tanh")
            if getattr(layer, "xai_temperature_len", -1) > 0:
                refuse("layer.xai_temperature_len", layer.xai_temperature_len, "-1")
            causal, window = kind == "decoder", layer.sliding_window_size
            return api.AttentionSpec(
                num_heads=layer.tp_q_head_num, num_kv_heads=layer.tp_k_head_num, head_dim=layer.qk_head_dim, head_dim_v=layer.v_head_dim,
                softmax_scale=layer.scaling, dtype=dtype_name(q.dtype), causal=causal, logits_soft_cap=layer.logit_cap or 0.0, has_sinks=has_sinks,
                window_left=window if causal and window is not None and window >= 0 else -1,  # keys before its own that a query sees, as in SGLang
            )  # fmt: skip

        def blocks(self, buffer: torch.Tensor, heads: int, q: torch.Tensor) -> torch.Tensor:
            if buffer.dtype != q.dtype:
                refuse("the KV cache's dtype", buffer.dtype, f"{q.dtype} (--kv-cache-dtype auto)")
            return buffer.view(-1, self.page_size, heads, buffer.shape[-1])

        def attend(self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool, sinks: Any = None, **unknown: Any) -> torch.Tensor:
            for name, value in unknown.items():
                if value is not None:
                    refuse(name, "given", "None")
            step = self.forward_metadata
            assert step is not None
            q = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)[: step.host_starts[-1]]
            spec = self.spec(layer, q, sinks is not None)
            k_cache = self.blocks(self.token_to_kv_pool.get_key_buffer(layer.layer_id), spec.num_kv_heads, q)
            v_cache = self.blocks(self.token_to_kv_pool.get_value_buffer(layer.layer_id), spec.num_kv_heads, q)
            cache = api.KvCacheSpec(
                k_cache.shape[0], self.page_size, spec.num_kv_heads, spec.head_dim, spec.dtype, head_dim_v=spec.head_dim_v, layout="NHD"
            )
            plan = step.plan(self.name, spec, cache)
            out = q.new_empty(q.shape[0], spec.num_heads, layer.v_head_dim)
            new = {}
            if save_kv_cache and k is not None:  # else the cache already holds them, and every key is read from there
                new = dict(k=k.view(-1, spec.num_kv_heads, layer.qk_head_dim), v=v.view(-1, spec.num_kv_heads, layer.v_head_dim),
                           slot_mapping=forward_batch.out_cache_loc.to(torch.int64))  # fmt: skip
            plan.run(
                layer.layer_id, q=q, out=out, k_cache=k_cache, v_cache=v_cache, query_start_loc=step.query_start_loc, seq_lens=step.seq_lens,
                block_table=step.block_table, sinks=None if sinks is None else sinks.float(), **new,
            )  # fmt: skip
            return out.view(out.shape[0], -1)

        def forward_decode(self, q, k, v, layer, forward_batch, save_kv_cache=True, **more):
            return self.attend(q, k, v, layer, forward_batch, save_kv_cache, **more)

        def forward_extend(self, q, k, v, layer, forward_batch, save_kv_cache=True, **more):
            return self.attend(q, k, v, layer, forward_batch, save_kv_cache, **more)

        def forward_mixed(self, q, k, v, layer, forward_batch, save_kv_cache=True, **more):
            return self.attend(q, k, v, layer, forward_batch, save_kv_cache, **more)

    return SextantAttention
