"""vLLM's attention classes over the MHA backends, and the metadata that the MLA classes share."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from vllm import envs
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionBackend, AttentionCGSupport, AttentionImpl, AttentionMetadataBuilder, AttentionType

from sextant import api
from sextant._layer_turns import LayerTurns
from sextant._vllm_step import Features, Workspace, host_batch, plan_step
from sextant.torch import dtype_name

try:
    from vllm.v1.kv_cache_interface import KVCacheLayout
except ImportError:  # before 0.29: the backend names the shape itself
    KVCacheLayout = None

PLAIN_CACHES = ("auto", "float16", "bfloat16", "float32")
_FP8_CACHES = {"fp8": "fp8_e4m3fn", "fp8_e4m3": "fp8_e4m3fn", "fp8_e5m2": "fp8_e5m2"}


def fp8_caches() -> "dict[str, str]":
    """vLLM's names of fp8 caches with one scale, and Sextant's of their format."""
    if current_platform.is_cpu():
        return {}
    if getattr(current_platform, "is_fp8_fnuz", lambda: False)():
        return {"fp8": "fp8_e4m3fnuz", "fp8_e4m3": "fp8_e4m3fnuz"}
    return _FP8_CACHES


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
    host: Any = None  # query_start_loc and seq_lens on the host; None: read from the tensors
    options: dict[str, Any] = field(default_factory=dict)  # of every plan
    workspace: Optional[Workspace] = None  # shared by the builder's steps
    plans: dict[Features, LayerTurns] = field(default_factory=dict)

    def plan(self, backend: str, features: Features) -> LayerTurns:
        """Layers run one after another, so those with equal features take the same plan and memory."""
        if features not in self.plans:
            self.plans[features] = plan_step(self, backend, features)
        return self.plans[features]

    def tensors(self) -> dict[str, Optional[torch.Tensor]]:
        """What every run reads."""
        return dict(query_start_loc=self.query_start_loc, seq_lens=self.seq_lens, block_table=self.block_table, token_spans=self.token_spans)


class Builder(AttentionMetadataBuilder):
    """Takes the batch as it is: the backends look at lengths themselves, no order is needed."""

    metadata_class = SextantMetadata
    # Query lengths of a captured graph are those of its capture, key lengths are read where they are used.
    _cudagraph_support = AttentionCGSupport.UNIFORM_BATCH

    def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        speculative = getattr(vllm_config, "speculative_config", None)
        self.options = {"decode_max_query_len": 1 + (getattr(speculative, "num_speculative_tokens", 0) or 0)}
        if getattr(envs, "VLLM_BATCH_INVARIANT", False):
            self.options["deterministic"] = True
        self.workspace = Workspace()
        self.captured: list[SextantMetadata] = []  # a graph's kernels read what its plans hold

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
            host=host_batch(m, requests),
            options=self.options,
            workspace=self.workspace,
        )

    def build_for_cudagraph_capture(self, common_attn_metadata):
        """Plans that hold for every length that a replay may bring."""
        metadata = self.build(0, common_attn_metadata)
        bounds = {"max_query_len": common_attn_metadata.max_query_len, "max_seq_len": self.vllm_config.model_config.max_model_len}
        metadata.options = {**self.options, **bounds}
        self.captured.append(metadata)
        return metadata


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
    allowed = (*PLAIN_CACHES, *fp8_caches())
    if kv_cache_dtype not in allowed:
        raise NotImplementedError(f"kv_cache_dtype is {kv_cache_dtype}; Sextant in vLLM allows {', '.join(allowed)}")


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
        self.cache_format = fp8_caches().get(kv_cache_dtype)
        self._features: dict[Any, Features] = {}
        self._cache: Any = None  # the tensor that the two views below are of
        self._views: Any = None
        self._sinks: Optional[torch.Tensor] = None  # fp32, once the weights are there

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        self._sinks = None if self.sinks is None else self.sinks.detach().float().contiguous()

    def features(self, dtype: torch.dtype, causal: bool, max_span_len: int, k_cache: torch.Tensor, layout: str) -> Features:
        """The layer's spec and cache, made once: every step asks for them."""
        key = (dtype, causal, max_span_len, k_cache.shape)
        if key not in self._features:
            name = dtype_name(dtype)
            spec = api.AttentionSpec(
                num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_size, softmax_scale=self.scale, dtype=name,
                **window_of(causal, self.sliding_window), logits_soft_cap=self.logits_soft_cap, has_sinks=self.sinks is not None,
                has_alibi=self.alibi_slopes is not None, max_span_len=max_span_len,
            )  # fmt: skip
            block_size = k_cache.shape[1 if layout == "NHD" else 2]
            cache = api.KvCacheSpec(k_cache.shape[0], block_size, self.num_kv_heads, self.head_size, self.cache_format or name, layout=layout)
            self._features[key] = Features.of(spec, cache)
        return self._features[key]

    def caches(self, kv_cache: torch.Tensor) -> "tuple[torch.Tensor, torch.Tensor, str]":
        """The halves of a cache, and their layout: [blocks, 2, block_size, Hkv, D] (get_kv_cache_shape) or [blocks, Hkv, block_size, 2 * D]."""
        if kv_cache is not self._cache:
            if kv_cache.dim() == 5:
                self._views = *kv_cache.unbind(1), "NHD"
            else:
                blocks, heads, block_size, _ = kv_cache.shape
                self._views = *kv_cache.view(blocks, heads, block_size * 2, -1).chunk(2, dim=2), "HND"
            self._cache = kv_cache
        return self._views

    def forward(self, layer, query, key, value, kv_cache, attn_metadata, output, output_scale=None, output_block_scale=None):
        """query [T, Hq, D], key and value [T, Hkv, D]."""
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("fused output quantisation is not supported by Sextant")
        if attn_metadata is None:  # profiling run
            return output.fill_(0)
        refuse_clamped_spans(layer, self.sliding_window, attn_metadata)
        tokens = attn_metadata.num_actual_tokens
        k_cache, v_cache, layout = self.caches(kv_cache)
        features = self.features(query.dtype, attn_metadata.causal, attn_metadata.max_span_len, k_cache, layout)
        plan = attn_metadata.plan(self.backend, features)
        if self.sinks is not None and self._sinks is None:
            self.process_weights_after_loading(query.dtype)
        plan.run(
            self,
            q=query.view(-1, self.num_heads, self.head_size)[:tokens],
            # None in layers that attend to another layer's cache.
            k=None if key is None else key.view(-1, self.num_kv_heads, self.head_size)[:tokens],
            v=None if value is None else value.view(-1, self.num_kv_heads, self.head_size)[:tokens],
            out=output.view(-1, self.num_heads, self.head_size)[:tokens],
            k_cache=k_cache,
            v_cache=v_cache,
            k_scale=layer._k_scale.view(1) if self.cache_format else None,
            v_scale=layer._v_scale.view(1) if self.cache_format else None,
            # Layers that share another layer's cache read it and write nothing.
            slot_mapping=None if key is None or self.kv_sharing_target_layer_name else attn_metadata.slot_mapping,
            sinks=self._sinks,
            alibi_slopes=None if self.alibi_slopes is None else self.alibi_slopes.to(query.device),
            **attn_metadata.tensors(),
        )
        return output


class Backend(AttentionBackend):
    """What a Sextant backend can do, as vLLM asks."""

    backend: str
    impl: type
    supported_dtypes = [torch.float32, torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes = [*PLAIN_CACHES, *fp8_caches()]
    forward_includes_kv_cache_update = True

    @staticmethod
    def get_builder_cls():
        return Builder

    @staticmethod
    def get_kv_cache_shape(num_blocks, block_size, num_kv_heads, head_size, cache_dtype_str="auto"):
        """For vLLM before 0.29, which asks for the shape; later ones ask for the layout below."""
        return (num_blocks, 2, block_size, num_kv_heads, head_size)

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
    def supports_batch_invariance(cls):
        return True  # deterministic plans

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
