"""Who runs a drawn case: Sextant through its C ABI, FlashAttention 3 as vLLM's wheel ships it, FlashMLA of sgl-flash-mla.

FlashAttention 3 quantises the queries over an fp8 cache; Sextant's stay at 16 bits unless the case says fp8.
"""

import ctypes
import importlib

import torch

from sextant_c import _Batch, _Cache, _CacheSpec, _Options, _Run, _sized, _Spec, _view, LATENT, NHD

_FP8_DTYPE = 3
_DTYPES = {"fp32": 0, "fp16": 1, "bf16": 2, "fp8": 3, "fp8_e5m2": 5}


class VllmFlashAttention3:
    """torch.ops._vllm_fa3_C of vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so (PyPI wheel vllm)."""

    name = "FA3 (vLLM)"

    def __init__(self, library):
        torch.ops.load_library(library)
        self.ops = torch.ops._vllm_fa3_C

    def make(self, t):
        c = t.case
        if c.latent:
            return None
        fp8 = c.kv == "fp8"
        q = t.q_fp8 if fp8 else t.q
        k, v = (t.k, t.v) if c.packed else (t.k_cache, t.v_cache)
        batch, max_q, max_k = len(c.kv_lens), max(c.query_lens), max(c.kv_lens)
        out = torch.empty(t.tokens, c.num_heads, c.head_dim_v, device="cuda", dtype=torch.bfloat16)
        left, right = (c.window - 1, 0) if c.window else (-1, -1)
        one = torch.ones(batch, c.num_kv_heads, device="cuda") if fp8 else None
        sinks = t.sinks.to(torch.bfloat16) if c.sinks else None
        metadata = None
        if not c.packed:
            metadata = self.ops.get_scheduler_metadata(batch, max_q, max_k, c.num_heads, c.num_kv_heads, c.head_dim, c.head_dim_v, q.dtype, t.seq_lens,
                                                       t.query_start_loc, None, None, None, None, c.page, 0, True, left, right, c.softcap > 0, 0, None, 0)
        starts, used, table = (t.key_start_loc, None, None) if c.packed else (None, t.seq_lens, t.block_table)

        def launch():
            self.ops.fwd(q, k, v, None, None, None, out, t.query_start_loc, starts, None, None, used, max_q, max_k, table, None, None, None, None, None,
                         one, one, one, t.scale, True, left, right, c.softcap, True, metadata, 0, None, 0, sinks, 1, 0, None)

        return launch, out


class SglFlashMla:
    name = "FlashMLA"

    def __init__(self):
        self.module = importlib.import_module("flash_mla")

    def make(self, t):
        c, m = t.case, self.module
        if not c.latent or len(set(c.query_lens)) > 1:
            return None
        fp8, query_len = c.kv == "fp8", c.query_lens[0]
        q = (t.q_fp8 if fp8 else t.q).view(len(c.kv_lens), query_len, c.num_heads, c.head_dim)
        cache = t.latent.view(t.num_blocks, c.page, 1, c.head_dim)
        metadata, _ = m.get_mla_metadata()
        extra = {}
        if fp8:
            metadata.tile_scheduler_metadata, metadata.num_splits = m.get_mla_decoding_metadata(t.seq_lens, query_len * c.num_heads, 1, c.num_heads, True, None, True)
            one = torch.ones(1, device="cuda")
            extra = {"is_fp8_kvcache": True, "descale_q": one, "descale_k": one}
        box = {}

        def launch():
            box["out"] = m.flash_mla_with_kvcache(q, cache, t.block_table, t.seq_lens, c.head_dim_v, metadata, None, t.scale, True, use_legacy=True, **extra)[0]

        return launch, lambda: box["out"].reshape(-1, c.num_heads, c.head_dim_v)


class SextantGrid:
    """layout -1: the backend's preferred one, written by the library's own cache write."""

    def __init__(self, sextant, backend="ROCM_AITER_UNIFIED_ATTN", layout=NHD, name="Sextant"):
        self.sextant, self.backend, self.layout, self.name = sextant, backend, layout, name

    def _spec(self, t, kv_heads):
        c = t.case
        spec = _sized(_Spec, num_heads=c.num_heads, num_kv_heads=kv_heads, head_dim=c.head_dim, head_dim_v=c.head_dim_v, softmax_scale=t.scale, causal=1,
                      sliding_window=c.window, logits_soft_cap=c.softcap, has_sinks=int(c.sinks), dtype=_DTYPES[c.dtype])
        if c.q == "fp8":
            spec.query_dtype = _FP8_DTYPE
        return spec

    def make(self, t):
        c, s = t.case, self.sextant
        self.description = ""  # of whole backends alone
        if c.packed:
            return self._varlen(t)
        out = torch.empty(t.tokens, c.num_heads, c.head_dim_v, device=t.device, dtype=t.dtype)
        cache_spec = _sized(_CacheSpec, layout=LATENT if c.latent else NHD, dtype=_DTYPES[c.kv], num_blocks=t.num_blocks, block_size=c.page,
                            num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, head_dim_v=c.head_dim_v)
        one = torch.ones(1, device=t.device)
        scale = one.data_ptr() if c.kv.startswith("fp8") else None
        plan, host = ctypes.c_void_p(), (t.host_starts, t.host_lens)
        if c.latent:
            cache = _Cache(cache_spec, t.latent.data_ptr(), None, scale, None, 1)
            spec = self._spec(t, 1)
            s._check(s.lib.sextant_mla_decode_plan_make(s.device, 1, ctypes.byref(spec), ctypes.byref(cache_spec), len(c.kv_lens), ctypes.c_void_p(host[0].data_ptr()),
                                                        ctypes.c_void_p(host[1].data_ptr()), 0, ctypes.byref(plan)))
            workspace = self._workspace(s.lib.sextant_attention_plan_workspace_bytes(plan), t.device)
            q, o = _view(t.q), _view(out)

            def launch():
                stream = s.stream()
                s._check(s.lib.sextant_mla_decode_run(plan, ctypes.byref(q), ctypes.byref(cache), ctypes.c_void_p(t.block_table.data_ptr()), ctypes.c_int64(t.pages),
                                                      ctypes.byref(o), None, ctypes.c_void_p(t.query_start_loc.data_ptr()), ctypes.c_void_p(t.seq_lens.data_ptr()),
                                                      ctypes.c_void_p(workspace.data_ptr()), stream))

            launch.keep = (workspace, one, out)
            return launch, out
        batch = _sized(_Batch, num_requests=len(c.kv_lens), query_start_loc=host[0].data_ptr(), seq_lens=host[1].data_ptr(), max_blocks_per_request=t.pages)
        elements = self._resolve_layout(cache_spec)
        options, spec = _sized(_Options, decode_max_query_len=1), self._spec(t, c.num_kv_heads)
        s._check(s.lib.sextant_plan_make(s.device, self.backend.encode(), ctypes.byref(spec), ctypes.byref(cache_spec), ctypes.byref(batch), ctypes.byref(options),
                                         ctypes.byref(plan)))
        self.description = s.lib.sextant_plan_describe(plan).decode()
        k_cache, v_cache = self._caches(t, cache_spec, elements)
        workspace = self._workspace(s.lib.sextant_plan_workspace_bytes(plan), t.device)
        # New tokens are in the cache already; a backend that wants them apart is not timed here.
        new = torch.zeros(t.tokens, c.num_kv_heads, c.head_dim, device=t.device, dtype=t.dtype)
        run = _sized(_Run, q=_view(t.q), k=_view(new), v=_view(new), out=_view(out), cache=_Cache(cache_spec, k_cache.data_ptr(), v_cache.data_ptr(), scale, scale, 1),
                     query_start_loc=t.query_start_loc.data_ptr(), seq_lens=t.seq_lens.data_ptr(), block_table=t.block_table.data_ptr(), block_table_stride=t.pages,
                     sinks=t.sinks.data_ptr() if c.sinks else None, workspace=workspace.data_ptr(), workspace_bytes=workspace.numel())
        return s._launcher(s.lib.sextant_plan_run, plan, run, (new, workspace, host, one, out, k_cache, v_cache)), out

    def _resolve_layout(self, cache_spec):
        """Puts the layout that is meant in place of -1. Gives the elements of K and of V."""
        s, layout, elements = self.sextant, ctypes.c_int32(), (ctypes.c_int64 * 2)()
        cache_spec.layout = self.layout
        s._check(s.lib.sextant_kv_cache_layout(s.device, self.backend.encode(), ctypes.byref(cache_spec), ctypes.byref(layout), elements, ctypes.byref(elements, 8)))
        cache_spec.layout = layout.value
        return list(elements)

    def _caches(self, t, cache_spec, elements):
        """The tensors' own caches, or copies in the layout of `cache_spec`."""
        if cache_spec.layout == NHD:
            return t.k_cache, t.v_cache
        s, caches = self.sextant, [torch.empty(n, dtype=t.k_cache.dtype, device=t.device) for n in elements]
        slots = torch.arange(t.num_blocks * t.case.page)
        # The library's cache write takes numbers, not codes; bf16 holds each fp8 number exactly.
        rows = [x.flatten(0, 1) if x.dtype == t.dtype else x.flatten(0, 1).to(torch.bfloat16) for x in (t.k_cache, t.v_cache)]
        views = [_view(x) for x in rows]
        cache = _Cache(cache_spec, caches[0].data_ptr(), caches[1].data_ptr(), None, None, 1)
        s._check(s.lib.sextant_reshape_and_cache(s.device, 1, ctypes.byref(views[0]), ctypes.byref(views[1]), ctypes.c_void_p(slots.data_ptr()),
                                                 ctypes.c_int64(len(slots)), ctypes.byref(cache), s.stream()))
        return caches

    @staticmethod
    def _workspace(size, device):
        memory = torch.full((size + 256,), 0xFF, device=device, dtype=torch.uint8)  # NaN where it is read unwritten
        return memory[-memory.data_ptr() % 256 :]

    def _varlen(self, t):
        c, s, plan = t.case, self.sextant, ctypes.c_void_p()
        spec = self._spec(t, c.num_kv_heads)
        s._check(s.lib.sextant_varlen_plan_make(s.device, 1, ctypes.byref(spec), len(c.kv_lens), ctypes.c_void_p(t.host_starts.data_ptr()),
                                                ctypes.c_void_p(t.host_key_starts.data_ptr()), 0, ctypes.byref(plan)))
        out = torch.empty(t.tokens, c.num_heads, c.head_dim_v, device=t.device, dtype=t.dtype)
        workspace = self._workspace(s.lib.sextant_attention_plan_workspace_bytes(plan), t.device)
        q, k, v, o = _view(t.q), _view(t.k), _view(t.v), _view(out)

        def launch():
            stream = s.stream()
            s._check(s.lib.sextant_varlen_run(plan, ctypes.byref(q), ctypes.byref(k), ctypes.byref(v), ctypes.byref(o), None, ctypes.c_void_p(t.query_start_loc.data_ptr()),
                                              ctypes.c_void_p(t.key_start_loc.data_ptr()), ctypes.c_void_p(t.seq_lens.data_ptr()), None, None,
                                              ctypes.c_void_p(workspace.data_ptr()), stream))

        launch.keep = (workspace, out)
        return launch, out
