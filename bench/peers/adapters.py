"""Peers behind one face: adapter(tensors) -> (launch, out), out [T, Hq, Dv] once launched; None when the case is not theirs.

Each import is tried once; ImportError's text tells what is missing.
"""

import importlib
import sys
import types

import torch

import warnings

warnings.filterwarnings("ignore")


class Peer:
    def __init__(self, name, kinds, needs):
        self.name, self.kinds, self.needs = name, kinds, needs

    def load(self):
        """Imports what the peer needs; raises ImportError with a hint."""

    def make(self, t):
        raise NotImplementedError


def _dense(t, tensor):
    """[B * S, H, D] -> [B, H, S, D]"""
    return tensor.view(t.case.batch, -1, *tensor.shape[1:]).transpose(1, 2)


class TorchSdpa(Peer):
    def __init__(self, backend):
        super().__init__(f"torch SDPA {backend}", ("contiguous", "mla_prefill"), "PyTorch")
        self.backend = backend

    def load(self):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self.choice = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FA2": SDPBackend.FLASH_ATTENTION}[self.backend]
        self.sdpa_kernel = sdpa_kernel

    def make(self, t):
        c = t.case
        if c.query_len != c.kv_len:
            return None
        q, k, v = (_dense(t, x) for x in (t.q, t.k, t.v))
        if self.backend == "FA2" and c.head_dim != c.head_dim_v:
            v = torch.nn.functional.pad(v, (0, c.head_dim - c.head_dim_v))
        box = {}

        def launch():
            with self.sdpa_kernel(self.choice):
                box["out"] = torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=t.scale, enable_gqa=c.num_heads != c.num_kv_heads
                )

        return launch, lambda: box["out"].transpose(1, 2).flatten(0, 1)[..., : c.head_dim_v]


class Flex(Peer):
    def __init__(self):
        super().__init__("torch FlexAttention", ("contiguous",), "PyTorch with Triton")

    def load(self):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        self.flex, self.mask = torch.compile(flex_attention, dynamic=False), create_block_mask

    def make(self, t):
        c = t.case
        offset = c.kv_len - c.query_len
        mask = self.mask(lambda b, h, i, j: i + offset >= j, None, None, c.query_len, c.kv_len, device="cuda")
        q, k, v = (_dense(t, x).contiguous() for x in (t.q, t.k, t.v))
        box = {}

        def launch():
            box["out"] = self.flex(q, k, v, block_mask=mask, scale=t.scale, enable_gqa=True)

        return launch, lambda: box["out"].transpose(1, 2).flatten(0, 1)


class FlashAttention3(Peer):
    def __init__(self):
        super().__init__("FlashAttention 3", ("paged", "contiguous", "mla_prefill"), "flash_attn_interface (flash-attention/hopper) or the PyPI wheel fa3-fwd")

    def load(self):
        for name in ("flash_attn_interface", "flash_attn_3.flash_attn_interface", "fa3_fwd_interface"):
            try:
                self.module = importlib.import_module(name)
                return
            except ImportError as error:
                reason = error
        raise reason

    def make(self, t):
        c, m = t.case, self.module
        box = {}
        if c.kind == "paged":
            q = t.q.view(c.batch, c.query_len, c.num_heads, c.head_dim)

            def launch():
                box["out"] = m.flash_attn_with_kvcache(q, t.k_cache, t.v_cache, cache_seqlens=t.seq_lens, page_table=t.block_table, softmax_scale=t.scale, causal=True)

        else:

            def launch():
                box["out"] = m.flash_attn_varlen_func(t.q, t.k, t.v, t.query_start_loc, t.key_start_loc, c.query_len, c.kv_len, softmax_scale=t.scale, causal=True)

        def out():
            result = box["out"]
            return (result[0] if isinstance(result, tuple) else result).reshape(-1, c.num_heads, c.head_dim_v)

        return launch, out


class FlashInfer(Peer):
    def __init__(self):
        super().__init__("FlashInfer", ("paged", "mla_decode"), "flashinfer-python (compiles with nvcc and ninja)")

    def load(self):
        self.module = importlib.import_module("flashinfer")

    def make(self, t):
        c, fi = t.case, self.module
        buffer = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
        indptr = torch.arange(c.batch + 1, device="cuda", dtype=torch.int32) * t.pages
        last = torch.full((c.batch,), (c.kv_len - 1) % c.page + 1, device="cuda", dtype=torch.int32)
        indices = t.block_table.flatten()
        if c.kind == "mla_decode":
            wrapper = fi.mla.BatchMLAPagedAttentionWrapper(buffer)
            wrapper.plan(t.query_start_loc, indptr, indices, t.seq_lens, c.num_heads, 512, 64, c.page, True, t.scale, torch.bfloat16, torch.bfloat16)
            q_nope, q_pe = t.q[..., :512].contiguous(), t.q[..., 512:].contiguous()
            ckv, kpe = t.latent[..., :512].contiguous(), t.latent[..., 512:].contiguous()
            out = torch.empty_like(q_nope)
            return lambda: wrapper.run(q_nope, q_pe, ckv, kpe, out=out), lambda: out
        out = torch.empty_like(t.q)
        if c.query_len == 1:
            wrapper = fi.BatchDecodeWithPagedKVCacheWrapper(buffer, "NHD", use_tensor_cores=True)
            wrapper.plan(indptr, indices, last, c.num_heads, c.num_kv_heads, c.head_dim, c.page, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16, sm_scale=t.scale)
        else:
            wrapper = fi.BatchPrefillWithPagedKVCacheWrapper(buffer, "NHD")
            wrapper.plan(t.query_start_loc, indptr, indices, last, c.num_heads, c.num_kv_heads, c.head_dim, c.page, causal=True, sm_scale=t.scale, q_data_type=torch.bfloat16)
        return lambda: wrapper.run(t.q, (t.k_cache, t.v_cache), out=out), lambda: out


class FlashMla(Peer):
    def __init__(self):
        super().__init__("FlashMLA", ("mla_decode",), "the package flash_mla")

    def load(self):
        self.module = importlib.import_module("flash_mla")

    def make(self, t):
        c, m = t.case, self.module
        metadata, splits = m.get_mla_metadata(t.seq_lens, c.query_len * c.num_heads, 1)
        q = t.q.view(c.batch, c.query_len, c.num_heads, c.head_dim)
        cache = t.latent.view(t.num_blocks, c.page, 1, c.head_dim)
        box = {}

        def launch():
            box["out"] = m.flash_mla_with_kvcache(q, cache, t.block_table, t.seq_lens, c.head_dim_v, metadata, splits, softmax_scale=t.scale, causal=True)[0]

        return launch, lambda: box["out"].reshape(-1, c.num_heads, c.head_dim_v)


def _stub_vllm(folder):
    """vLLM's Triton kernels ask the rest of vLLM for little: a logger, the platform, a few names. Give them that."""
    import triton
    import triton.language as tl

    def module(name, **names):
        made = types.ModuleType(name)
        made.__dict__.update(names)
        made.__getattr__ = lambda attribute: None
        sys.modules[name] = made
        return made

    platform = types.SimpleNamespace(
        is_rocm=lambda: False, is_device_capability_family=lambda *a: False, is_cuda=lambda: True, is_xpu=lambda: False, is_cuda_alike=lambda: True, is_cpu=lambda: False, fp8_dtype=lambda: torch.float8_e4m3fn,
        has_device_capability=lambda *a: True, is_device_capability=lambda *a: False, get_device_capability=lambda *a: types.SimpleNamespace(major=9, minor=0),
        num_compute_units=lambda *a: 132,
    )
    import enum
    import logging

    quant = enum.IntEnum("KVQuantMode", {"NONE": 0, "FP8_PER_TENSOR": 1, "INT8_PER_TOKEN_HEAD": 2, "FP8_PER_TOKEN_HEAD": 3, "INT4_PER_TOKEN_HEAD": 4})
    root = module("vllm")
    root.__path__ = [f"{folder}/vllm"]
    root.envs = module("vllm.envs", VLLM_BATCH_INVARIANT=False)
    module("vllm.logger", init_logger=logging.getLogger)
    module("vllm.platforms", current_platform=platform)
    module("vllm.triton_utils", triton=triton, tl=tl, HAS_TRITON=True)
    for name, path in (("vllm.v1", "v1"), ("vllm.v1.attention", "v1/attention"), ("vllm.v1.attention.ops", "v1/attention/ops")):
        module(name).__path__ = [f"{folder}/vllm/{path}"]
    module("vllm.v1.kv_cache_interface", KVQuantMode=quant)


class VllmTriton(Peer):
    def __init__(self, folder):
        super().__init__("vLLM Triton", ("paged", "mla_decode"), "vLLM's Triton kernels (--vllm FOLDER of an unpacked wheel)")
        self.folder = folder

    def load(self):
        if self.folder:
            _stub_vllm(self.folder)
        self.unified = importlib.import_module("vllm.v1.attention.ops.triton_unified_attention").unified_attention
        self.decode = importlib.import_module("vllm.v1.attention.ops.triton_decode_attention").decode_attention_fwd

    def make(self, t):
        c = t.case
        if c.kind == "mla_decode":
            splits = max(1, min(64, c.kv_len // 512))
            out = torch.empty(c.batch, c.num_heads, c.head_dim_v, device="cuda", dtype=torch.bfloat16)
            lse = torch.empty(c.batch, c.num_heads, device="cuda", dtype=torch.bfloat16)
            logits = torch.empty(c.batch, c.num_heads, splits, c.head_dim_v + 1, device="cuda", dtype=torch.float32)
            k = t.latent.unsqueeze(2)
            one = torch.ones((), device="cuda", dtype=torch.float32)  # made in the call it would be a copy from the host: no capture
            return lambda: self.decode(t.q, k, k[..., : c.head_dim_v], out, lse, t.block_table, t.seq_lens, logits, splits, t.scale, c.page, 0.0, one, one, is_mla=True), lambda: out
        out = torch.empty_like(t.q)
        one = torch.ones(1, device="cuda", dtype=torch.float32)
        # As vLLM's backend chooses: 16 segments a request while requests x KV heads stay under 128.
        segments, most = 16, 128 // c.num_kv_heads
        scratch = {"seq_threshold_3D": most, "num_par_softmax_segments": segments}
        shape = (max(most, c.batch * c.query_len), c.num_heads, segments)
        scratch["softmax_segm_output"] = torch.empty(*shape, c.head_dim, device="cuda", dtype=torch.float32)
        for name in ("softmax_segm_max", "softmax_segm_expsum"):
            scratch[name] = torch.empty(*shape, device="cuda", dtype=torch.float32)
        if c.query_len > 1:
            scratch = {}
        return (
            lambda: self.unified(t.q, t.k_cache, t.v_cache, out, t.query_start_loc, c.query_len, t.seq_lens, c.kv_len, t.scale, True, (-1, -1), t.block_table, 0.0, None,
                                 one.expand(c.batch, c.num_kv_heads), one.expand(c.batch, c.num_kv_heads), **scratch),
            lambda: out,
        )


class AiterTriton(Peer):
    def __init__(self):
        super().__init__("AITER Triton unified", ("paged",), "the package aiter")

    def load(self):
        self.unified = importlib.import_module("aiter.ops.triton.unified_attention").unified_attention

    def make(self, t):
        c = t.case
        out = torch.empty_like(t.q)
        return (
            lambda: self.unified(t.q, t.k_cache, t.v_cache, out, t.query_start_loc, c.query_len, t.seq_lens, c.kv_len, t.scale, True, (-1, -1), t.block_table, 0.0, None, None, None),
            lambda: out,
        )


def all_peers(vllm_folder):
    return [TorchSdpa("cuDNN"), TorchSdpa("FA2"), Flex(), FlashAttention3(), FlashInfer(), FlashMla(), VllmTriton(vllm_folder), AiterTriton()]
