"""vLLM's attention classes over the MHA backends, and the metadata that the MLA classes share."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from vllm.v1.attention.backend import AttentionBackend, AttentionImpl, AttentionMetadataBuilder, AttentionType
from vllm.v1.kv_cache_interface import KVCacheLayout

from sextant import api
from sextant._dlpack import Tensor, current_stream, workspace_beside
from sextant.torch import device_name, dtype_name

PLAIN_CACHES = ("auto", "float16", "bfloat16", "float32")


@dataclass
class SextantMetadata:
    """A step's batch, and the plans that layers with equal features share."""

    num_actual_tokens: int
    query_start_loc: torch.Tensor  # int32 [B + 1]
    seq_lens: torch.Tensor  # int32 [B]
    block_table: torch.Tensor  # int32 [B, max_blocks]
    slot_mapping: torch.Tensor  # int64 [T]
    causal: bool
    token_spans: Optional[torch.Tensor] = None  # int32 [T, 2]; None: no token of the step lies in a span
    max_span_len: int = 0
    plans: dict[Any, tuple[api.Plan, Optional[Tensor]]] = field(default_factory=dict)

    def plan(self, backend: str, spec: api.AttentionSpec, cache: api.KvCacheSpec) -> tuple[api.Plan, Optional[Tensor]]:
        """The plan and its workspace. Layers run one after another, so those with equal features take the same."""
        key = (spec, cache)
        if key not in self.plans:
            plan = api.plan(backend, spec, cache, query_start_loc=self.query_start_loc, seq_lens=self.seq_lens, block_table=self.block_table,
                            slot_mapping=self.slot_mapping, device=device_name(self.seq_lens.device))  # fmt: skip
            self.plans[key] = plan, workspace_beside(self.seq_lens, plan.workspace_bytes, current_stream(self.seq_lens))
        return self.plans[key]

    def tensors(self) -> dict[str, Optional[torch.Tensor]]:
        """What every run reads."""
        return dict(query_start_loc=self.query_start_loc, seq_lens=self.seq_lens, block_table=self.block_table, token_spans=self.token_spans)


class Builder(AttentionMetadataBuilder):
    """Takes the batch as it is: the backends look at lengths themselves, no order is needed."""

    metadata_class = SextantMetadata

    def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
        m = common_attn_metadata
        requests = m.num_reqs
        spans, longest = token_spans(getattr(m, "mm_req_doc_ranges", None), m.query_start_loc[: requests + 1], m.seq_lens[:requests])
        return self.metadata_class(
            token_spans=spans,
            max_span_len=longest,
            num_actual_tokens=m.num_actual_tokens,
            query_start_loc=m.query_start_loc[: requests + 1].to(torch.int32).contiguous(),
            seq_lens=m.seq_lens[:requests].to(torch.int32).contiguous(),
            block_table=m.block_table_tensor[:requests].to(torch.int32).contiguous(),
            slot_mapping=m.slot_mapping[: m.num_actual_tokens].to(torch.int64).contiguous(),
            causal=bool(m.causal),
        )


def token_spans(ranges, query_start_loc: torch.Tensor, seq_lens: torch.Tensor) -> "tuple[Optional[torch.Tensor], int]":
    """vLLM's mm_prefix ranges, {request: [(first, last), ...]}, as token_spans [T, 2] with ends behind the last position, and a bound of their length."""
    if not ranges:
        return None, 0
    starts, lens = query_start_loc.tolist(), seq_lens.tolist()
    spans = torch.zeros(starts[-1], 2, dtype=torch.int32)
    longest = 0
    for request, of_request in ranges.items():
        if request >= len(lens):
            continue
        context = lens[request] - (starts[request + 1] - starts[request])
        for first, last in of_request:
            begin, end = max(first, context), min(last + 1, lens[request])
            if first < last and begin < end:
                spans[starts[request] + begin - context : starts[request] + end - context] = torch.tensor([first, last + 1], dtype=torch.int32)
                longest = max(longest, last + 1 - first)
    if not longest:
        return None, 0
    return spans.to(query_start_loc.device), 1 << (longest - 1).bit_length()


def refuse_clamped_spans(layer: Any, window: int, metadata: SextantMetadata) -> None:
    """Gemma 4's windows cut its spans. A window that is as long as every span cuts none."""
    if not metadata.max_span_len or not window or not getattr(layer, "mm_prefix_clamp_sliding_window", False):
        return
    assert metadata.token_spans is not None
    longest = int((metadata.token_spans[:, 1] - metadata.token_spans[:, 0]).max())
    if longest > window:
        raise NotImplementedError(f"a span of {longest} tokens is cut by a window of {window}; Sextant in vLLM allows spans up to the window there")


def refuse_unserved(attn_type: str, kv_cache_dtype: str) -> None:
    if attn_type != AttentionType.DECODER:
        raise NotImplementedError(f"attn_type is {attn_type}; Sextant allows decoder")
    if kv_cache_dtype not in PLAIN_CACHES:
        raise NotImplementedError(f"kv_cache_dtype is {kv_cache_dtype}; Sextant in vLLM allows {', '.join(PLAIN_CACHES)}")


def window_of(causal: bool, window: int) -> "dict[str, Any]":
    """vLLM's window of W keys: the newest ones, own position included; of an encoder W - 1 to both sides."""
    if causal or not window:
        return {"causal": causal, "sliding_window": window}
    return {"causal": False, "window_left": window - 1, "window_right": window - 1}


class Impl(AttentionImpl):
    """One layer. `backend` is set by the class that make_class makes."""

    backend: str

    def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap=None,
                 attn_type=AttentionType.DECODER, kv_sharing_target_layer_name=None, sinks=None):  # fmt: skip
        refuse_unserved(attn_type, kv_cache_dtype)
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
        refuse_clamped_spans(layer, self.sliding_window, attn_metadata)
        tokens = attn_metadata.num_actual_tokens
        blocks, heads, block_size, _ = kv_cache.shape
        k_cache, v_cache = kv_cache.view(blocks, heads, block_size * 2, -1).chunk(2, dim=2)
        spec = api.AttentionSpec(
            num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_size, softmax_scale=self.scale, dtype=dtype_name(query.dtype),
            **window_of(attn_metadata.causal, self.sliding_window), logits_soft_cap=self.logits_soft_cap, has_sinks=self.sinks is not None,
            has_alibi=self.alibi_slopes is not None, max_span_len=attn_metadata.max_span_len,
        )  # fmt: skip
        plan, workspace = attn_metadata.plan(self.backend, spec, api.KvCacheSpec(blocks, block_size, self.num_kv_heads, self.head_size, spec.dtype, layout="HND"))
        plan.run(
            q=query.view(-1, self.num_heads, self.head_size)[:tokens],
            # None in layers that attend to another layer's cache.
            k=None if key is None else key.view(-1, self.num_kv_heads, self.head_size)[:tokens],
            v=None if value is None else value.view(-1, self.num_kv_heads, self.head_size)[:tokens],
            out=output.view(-1, self.num_heads, self.head_size)[:tokens],
            k_cache=k_cache,
            v_cache=v_cache,
            # Layers that share another layer's cache read it and write nothing.
            slot_mapping=None if key is None or self.kv_sharing_target_layer_name else attn_metadata.slot_mapping,
            sinks=None if self.sinks is None else self.sinks.float().contiguous(),
            alibi_slopes=None if self.alibi_slopes is None else self.alibi_slopes.to(query.device),
            workspace=workspace,
            **attn_metadata.tensors(),
        )
        return output


class Backend(AttentionBackend):
    """What a Sextant backend can do, as vLLM asks."""

    backend: str
    impl: type
    supported_dtypes = [torch.float32, torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes = list(PLAIN_CACHES)
    forward_includes_kv_cache_update = True

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
    def supports_mm_prefix(cls):
        return True

    @classmethod
    def supports_device_cpu_query_lens_mismatch(cls):
        return False  # plans are made from the lengths on the host


def named(backend: str, class_name: str, backend_class: type, impl_class: type) -> type:
    """Subclasses for one backend; vLLM finds them by their path in sextant.vllm."""
    impl = type(class_name + "Impl", (impl_class,), {"backend": backend, "__module__": "sextant.vllm"})
    names = {"get_name": staticmethod(lambda: backend), "get_impl_cls": staticmethod(lambda: impl), "__module__": "sextant.vllm"}
    return type(class_name, (backend_class,), names)


@functools.lru_cache(maxsize=None)
def make_class(backend: str, class_name: str) -> type:
    """vLLM's backend class over one of the four MHA backends."""
    return named(backend, class_name, Backend, Impl)
