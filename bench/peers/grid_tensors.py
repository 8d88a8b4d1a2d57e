"""The tensors of a drawn case, shared by everybody, and the fp32 truth of sampled rows."""

import math

import torch

FP8 = torch.float8_e4m3fn
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": FP8, "fp8_e5m2": torch.float8_e5m2}


def _starts(lens):
    return torch.tensor([0] + list(lens), dtype=torch.int64).cumsum(0).to(torch.int32)


class GridTensors:
    def __init__(self, case, seed=1, device="cuda"):
        torch.manual_seed(seed)
        c = self.case = case
        self.device, self.dtype = device, DTYPES[case.dtype]
        self.scale = 1.0 / math.sqrt(192 if c.latent else c.head_dim)
        self.host_starts, self.host_lens = _starts(c.query_lens), torch.tensor(c.kv_lens, dtype=torch.int32)
        self.query_start_loc, self.seq_lens = self.host_starts.to(device), self.host_lens.to(device)
        self.tokens = int(self.host_starts[-1])
        q = torch.randn(self.tokens, c.num_heads, c.head_dim, device=device, dtype=self.dtype)
        self.q_fp8 = q.to(FP8) if "fp8" in (c.q, c.kv) else None  # what a peer that wants fp8 queries gets
        self.q = self.q_fp8 if c.q == "fp8" else q
        self.sinks = torch.randn(c.num_heads, device=device) if c.sinks else None
        if c.packed:
            keys = sum(c.kv_lens)
            self.host_key_starts = _starts(c.kv_lens)
            self.key_start_loc = self.host_key_starts.to(device)
            self.k, self.v = (torch.randn(keys, c.num_kv_heads, d, device=device, dtype=self.dtype) for d in (c.head_dim, c.head_dim_v))
            return
        blocks = [(n + c.page - 1) // c.page for n in c.kv_lens]
        self.pages, self.num_blocks = max(blocks), sum(blocks)
        order, first = torch.randperm(self.num_blocks, dtype=torch.int32), 0
        table = torch.zeros(len(blocks), self.pages, dtype=torch.int32)
        for b, count in enumerate(blocks):
            table[b, :count] = order[first : first + count]
            first += count
        self.block_table = table.to(device)
        if c.latent:
            self.latent = self._cache((self.num_blocks, c.page, c.head_dim))
        else:
            self.k_cache, self.v_cache = (self._cache((self.num_blocks, c.page, c.num_kv_heads, d)) for d in (c.head_dim, c.head_dim_v))

    def _cache(self, shape):
        return torch.randn(shape, device=self.device, dtype=self.dtype).to(DTYPES[self.case.kv])

    def _pages(self, cache, table):
        if cache.dtype.itemsize > 1:
            return cache[table]
        return cache.view(torch.uint8)[table].view(cache.dtype)

    def keys(self, b):
        """Keys and values of request b in order: [kv_len, Hkv, D], fp32."""
        c, n = self.case, self.case.kv_lens[b]
        if c.packed:
            rows = slice(int(self.host_key_starts[b]), int(self.host_key_starts[b + 1]))
            return self.k[rows].float(), self.v[rows].float()
        table = self.block_table[b, : (n + c.page - 1) // c.page].long()
        if c.latent:
            latent = self._pages(self.latent, table).reshape(-1, 1, c.head_dim)[:n].float()
            return latent, latent[..., : c.head_dim_v]
        return tuple(self._pages(cache, table).flatten(0, 1)[:n].float() for cache in (self.k_cache, self.v_cache))

    def rms_error(self, out, samples=12):
        """Root mean square difference from fp32 attention over sampled tokens (all heads), over the truth's."""
        c, squares, truths = self.case, 0.0, 0.0
        generator = torch.Generator().manual_seed(7)
        picked = torch.randint(0, self.tokens, (samples,), generator=generator).tolist() + [0, self.tokens - 1]
        for index in picked:
            b = int(torch.searchsorted(self.host_starts, index, right=True)) - 1
            i = index - int(self.host_starts[b])
            k, v = self.keys(b)
            visible = c.kv_lens[b] - c.query_lens[b] + i + 1
            first = max(0, visible - c.window) if c.window else 0
            q = self.q[index].float().view(c.num_kv_heads, -1, c.head_dim)
            s = torch.einsum("hgd,khd->hgk", q, k[first:visible]) * self.scale
            if c.softcap:
                s = c.softcap * torch.tanh(s / c.softcap)
            if c.sinks:
                s = torch.cat((s, self.sinks.view(c.num_kv_heads, -1, 1)), dim=-1)
            p = torch.softmax(s, dim=-1)[..., : visible - first]
            truth = torch.einsum("hgk,khd->hgd", p, v[first:visible]).reshape(c.num_heads, c.head_dim_v)
            squares += (out[index].float() - truth).double().square().sum().item()
            truths += truth.double().square().sum().item()
        return (squares / truths) ** 0.5
