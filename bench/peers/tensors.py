"""One set of tensors a case, shared by everybody, and the fp32 truth of sampled rows."""

import math

import torch


class Tensors:
    def __init__(self, case, seed=1):
        torch.manual_seed(seed)
        c, bf16 = case, {"device": "cuda", "dtype": torch.bfloat16}
        self.case = c
        self.scale = 1.0 / math.sqrt(192 if c.kind.startswith("mla") else c.head_dim)
        self.q = torch.randn(c.batch * c.query_len, c.num_heads, c.head_dim, **bf16)
        self.query_start_loc = torch.arange(c.batch + 1, device="cuda", dtype=torch.int32) * c.query_len
        self.seq_lens = torch.full((c.batch,), c.kv_len, device="cuda", dtype=torch.int32)
        if c.kind in ("contiguous", "mla_prefill"):
            self.k = torch.randn(c.batch * c.kv_len, c.num_kv_heads, c.head_dim, **bf16)
            self.v = torch.randn(c.batch * c.kv_len, c.num_kv_heads, c.head_dim_v, **bf16)
            self.key_start_loc = torch.arange(c.batch + 1, device="cuda", dtype=torch.int32) * c.kv_len
            return
        self.pages = (c.kv_len + c.page - 1) // c.page
        self.num_blocks = self.pages * c.batch
        order = torch.randperm(self.num_blocks, device="cuda", dtype=torch.int32)
        self.block_table = order.view(c.batch, self.pages).contiguous()
        if c.kind == "mla_decode":
            self.latent = torch.randn(self.num_blocks, c.page, c.head_dim, **bf16)
        else:
            self.k_cache = torch.randn(self.num_blocks, c.page, c.num_kv_heads, c.head_dim, **bf16)
            self.v_cache = torch.randn(self.num_blocks, c.page, c.num_kv_heads, c.head_dim_v, **bf16)

    def _keys(self, b):
        """Keys and values of request b in order: [kv_len, Hkv, D], fp32."""
        c = self.case
        if c.kind in ("contiguous", "mla_prefill"):
            rows = slice(b * c.kv_len, (b + 1) * c.kv_len)
            return self.k[rows].float(), self.v[rows].float()
        table = self.block_table[b].long()
        if c.kind == "mla_decode":
            latent = self.latent[table].view(-1, 1, c.head_dim)[: c.kv_len].float()
            return latent, latent[..., : c.head_dim_v]
        return tuple(x[table].flatten(0, 1)[: c.kv_len].float() for x in (self.k_cache, self.v_cache))

    def errors(self, out, samples=64):
        """Difference from fp32 attention over sampled tokens (all heads): the largest, and the root mean square relative
        to the truth's. The largest is one element's luck; the other tells two kernels apart."""
        c, worst, squares, truths = self.case, 0.0, 0.0, 0.0
        generator = torch.Generator().manual_seed(7)
        for index in torch.randint(0, c.batch * c.query_len, (min(samples, c.batch * c.query_len),), generator=generator).tolist():
            b, i = divmod(index, c.query_len)
            k, v = self._keys(b)
            visible = c.kv_len - c.query_len + i + 1
            group = c.num_heads // c.num_kv_heads
            q = self.q[index].float().view(c.num_kv_heads, group, c.head_dim)
            p = torch.softmax(torch.einsum("hgd,khd->hgk", q, k[:visible]) * self.scale, dim=-1)
            truth = torch.einsum("hgk,khd->hgd", p, v[:visible]).reshape(c.num_heads, c.head_dim_v)
            difference = out[index].float() - truth
            worst = max(worst, difference.abs().max().item())
            squares += difference.double().square().sum().item()
            truths += truth.double().square().sum().item()
        return worst, (squares / truths) ** 0.5
