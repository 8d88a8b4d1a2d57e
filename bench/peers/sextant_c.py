"""Sextant through its C ABI with torch's pointers (include/sextant/sextant.h)."""

import ctypes as c

import torch

_DTYPE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float8_e4m3fn: 3, torch.float8_e5m2: 5, torch.int32: 6, torch.int64: 7}
CPU, CUDA = 0, 1
NHD, LATENT = 0, 5


class _Tensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("dtype", c.c_int32), ("rank", c.c_int32), ("shape", c.c_int64 * 6), ("stride", c.c_int64 * 6)]


class _Spec(c.Structure):
    _fields_ = [("size", c.c_size_t)] + [(n, c.c_int32) for n in ("num_heads", "num_kv_heads", "head_dim", "head_dim_v")]
    _fields_ += [("softmax_scale", c.c_float), ("causal", c.c_int32), ("sliding_window", c.c_int32), ("logits_soft_cap", c.c_float)]
    _fields_ += [(n, c.c_int32) for n in ("has_sinks", "has_alibi", "dtype", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "reserved", "query_dtype")]


class _CacheSpec(c.Structure):
    _fields_ = [("size", c.c_size_t), ("layout", c.c_int32), ("dtype", c.c_int32), ("num_blocks", c.c_int64)]
    _fields_ += [(n, c.c_int32) for n in ("block_size", "num_kv_heads", "head_dim", "head_dim_v")]


class _Cache(c.Structure):
    _fields_ = [("spec", _CacheSpec), ("k", c.c_void_p), ("v", c.c_void_p), ("k_scale", c.c_void_p), ("v_scale", c.c_void_p), ("num_scales", c.c_int32)]


class _Batch(c.Structure):
    _fields_ = [("size", c.c_size_t), ("num_requests", c.c_int32), ("query_start_loc", c.c_void_p), ("seq_lens", c.c_void_p)]
    _fields_ += [("block_table", c.c_void_p), ("max_blocks_per_request", c.c_int64), ("slot_mapping", c.c_void_p), ("shared_prefix_len", c.c_int32)]


class _Options(c.Structure):
    _fields_ = [("size", c.c_size_t)] + [(n, c.c_int32) for n in ("deterministic", "lse_out", "max_query_len", "max_seq_len", "decode_max_query_len")]
    _fields_ += [("chunk_workspace_rows", c.c_int64)]


class _Run(c.Structure):
    _fields_ = [("size", c.c_size_t)] + [(n, _Tensor) for n in ("q", "k", "v", "out", "lse", "kv_c", "k_pe", "kv_b_proj")] + [("cache", _Cache)]
    _fields_ += [("query_start_loc", c.c_void_p), ("seq_lens", c.c_void_p), ("block_table", c.c_void_p), ("block_table_stride", c.c_int64)]
    _fields_ += [("slot_mapping", c.c_void_p), ("sinks", c.c_void_p), ("alibi_slopes", c.c_void_p), ("workspace", c.c_void_p), ("workspace_bytes", c.c_size_t)]
    _fields_ += [("q_scale", c.c_void_p), ("num_q_scales", c.c_int32)]


def _sized(kind, **fields):
    value = kind(**fields)
    value.size = c.sizeof(kind)
    return value


def _view(tensor):
    view = _Tensor(tensor.data_ptr(), _DTYPE[tensor.dtype], tensor.dim())
    view.shape[: tensor.dim()] = list(tensor.shape)
    view.stride[: tensor.dim()] = list(tensor.stride())
    return view


class Sextant:
    def __init__(self, path, kind=CUDA):
        self.lib = c.CDLL(path)
        self.lib.sextant_last_error.restype = c.c_char_p
        self.lib.sextant_plan_workspace_bytes.restype = c.c_size_t
        self.lib.sextant_plan_describe.restype = c.c_char_p
        self.lib.sextant_attention_plan_workspace_bytes.restype = c.c_size_t
        self.kind, self.device = kind, c.c_void_p()
        self._check(self.lib.sextant_device_open(kind, 0, c.byref(self.device)))

    def stream(self):
        return c.c_void_p(torch.cuda.current_stream().cuda_stream) if self.kind == CUDA else c.c_void_p()

    def _check(self, status):
        if status != 0:
            raise RuntimeError(self.lib.sextant_last_error().decode())

    def paged(self, t, backend):
        """A launch of a backend over the paged cache of `t`, new tokens already written. Returns (launch, out, description)."""
        case = t.case
        spec = _sized(_Spec, num_heads=case.num_heads, num_kv_heads=case.num_kv_heads, head_dim=case.head_dim, softmax_scale=t.scale, causal=1,
                      dtype=2)
        cache_spec = _sized(_CacheSpec, layout=NHD, dtype=2, num_blocks=t.num_blocks, block_size=case.page, num_kv_heads=case.num_kv_heads,
                            head_dim=case.head_dim, head_dim_v=case.head_dim_v)
        host = [x.cpu() for x in (t.query_start_loc, t.seq_lens)]
        batch = _sized(_Batch, num_requests=case.batch, query_start_loc=host[0].data_ptr(), seq_lens=host[1].data_ptr(),
                       max_blocks_per_request=t.pages)
        options = _sized(_Options, decode_max_query_len=1)
        plan = c.c_void_p()
        self._check(self.lib.sextant_plan_make(self.device, backend.encode(), c.byref(spec), c.byref(cache_spec), c.byref(batch), c.byref(options), c.byref(plan)))
        out = torch.empty(case.batch * case.query_len, case.num_heads, case.head_dim_v, device="cuda", dtype=torch.bfloat16)
        workspace = torch.empty(max(1, self.lib.sextant_plan_workspace_bytes(plan)), device="cuda", dtype=torch.uint8)
        # The raw keys of the new tokens, for backends that read them: gathered from the cache outside the timing.
        new_k, new_v = self._new_tokens(t)
        run = _sized(_Run, q=_view(t.q), k=_view(new_k), v=_view(new_v), out=_view(out),
                     cache=_Cache(cache_spec, t.k_cache.data_ptr(), t.v_cache.data_ptr(), None, None, 1),
                     query_start_loc=t.query_start_loc.data_ptr(), seq_lens=t.seq_lens.data_ptr(), block_table=t.block_table.data_ptr(),
                     block_table_stride=t.pages, workspace=workspace.data_ptr(), workspace_bytes=workspace.numel())
        keep = (new_k, new_v, workspace, host, out)
        return self._launcher(self.lib.sextant_plan_run, plan, run, keep), out, self.lib.sextant_plan_describe(plan).decode()

    @staticmethod
    def _new_tokens(t):
        case = t.case
        first = case.kv_len - case.query_len
        positions = torch.arange(first, case.kv_len, device="cuda")
        blocks = t.block_table[:, positions // case.page].long()
        pick = lambda cache: cache[blocks, (positions % case.page).expand_as(blocks)].flatten(0, 1).contiguous()  # noqa: E731
        return pick(t.k_cache), pick(t.v_cache)

    def _launcher(self, function, plan, run, keep):
        def launch():
            stream = self.stream()
            self._check(function(plan, c.byref(run), stream))

        launch.keep = keep
        return launch

    def mla_decode(self, t, family=1):
        """mla_decode over the latent cache of `t`."""
        case = t.case
        spec = _sized(_Spec, num_heads=case.num_heads, num_kv_heads=1, head_dim=case.head_dim, head_dim_v=case.head_dim_v, softmax_scale=t.scale,
                      causal=1, dtype=2)
        cache_spec = _sized(_CacheSpec, layout=LATENT, dtype=2, num_blocks=t.num_blocks, block_size=case.page, num_kv_heads=1,
                            head_dim=case.head_dim, head_dim_v=case.head_dim_v)
        cache = _Cache(cache_spec, t.latent.data_ptr(), None, None, None, 1)
        host = [x.cpu() for x in (t.query_start_loc, t.seq_lens)]
        plan = c.c_void_p()
        self._check(self.lib.sextant_mla_decode_plan_make(self.device, family, c.byref(spec), c.byref(cache_spec), case.batch,
                                                          c.c_void_p(host[0].data_ptr()), c.c_void_p(host[1].data_ptr()), 0, c.byref(plan)))
        out = torch.empty(case.batch * case.query_len, case.num_heads, case.head_dim_v, device="cuda", dtype=torch.bfloat16)
        workspace = torch.empty(max(1, self.lib.sextant_attention_plan_workspace_bytes(plan)), device="cuda", dtype=torch.uint8)
        q, o = _view(t.q), _view(out)

        def launch():
            stream = self.stream()
            self._check(self.lib.sextant_mla_decode_run(plan, c.byref(q), c.byref(cache), c.c_void_p(t.block_table.data_ptr()), c.c_int64(t.pages),
                                                        c.byref(o), None, c.c_void_p(t.query_start_loc.data_ptr()), c.c_void_p(t.seq_lens.data_ptr()),
                                                        c.c_void_p(workspace.data_ptr()), stream))

        launch.keep = (workspace, host, out)
        return launch, out

    def varlen(self, t, family=1):
        """varlen_attention over the packed keys of `t`."""
        case = t.case
        spec = _sized(_Spec, num_heads=case.num_heads, num_kv_heads=case.num_kv_heads, head_dim=case.head_dim, head_dim_v=case.head_dim_v,
                      softmax_scale=t.scale, causal=1, dtype=2)
        host = [x.cpu() for x in (t.query_start_loc, t.key_start_loc)]
        plan = c.c_void_p()
        self._check(self.lib.sextant_varlen_plan_make(self.device, family, c.byref(spec), case.batch, c.c_void_p(host[0].data_ptr()),
                                                      c.c_void_p(host[1].data_ptr()), 0, c.byref(plan)))
        out = torch.empty(case.batch * case.query_len, case.num_heads, case.head_dim_v, device="cuda", dtype=torch.bfloat16)
        workspace = torch.empty(max(1, self.lib.sextant_attention_plan_workspace_bytes(plan)), device="cuda", dtype=torch.uint8)
        q, k, v, o = _view(t.q), _view(t.k), _view(t.v), _view(out)

        def launch():
            stream = self.stream()
            self._check(self.lib.sextant_varlen_run(plan, c.byref(q), c.byref(k), c.byref(v), c.byref(o), None, c.c_void_p(t.query_start_loc.data_ptr()),
                                                    c.c_void_p(t.key_start_loc.data_ptr()), c.c_void_p(t.seq_lens.data_ptr()), None, None,
                                                    c.c_void_p(workspace.data_ptr()), stream))

        launch.keep = (workspace, host, out)
        return launch, out
