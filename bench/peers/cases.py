"""The cases: what is attended, not how."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    kind: str  # "paged": GQA over a paged cache; "contiguous": varlen prefill; "mla_decode"; "mla_prefill"
    batch: int
    query_len: int
    kv_len: int
    num_heads: int
    num_kv_heads: int
    head_dim: int = 128
    head_dim_v: int = 128
    page: int = 16

    @property
    def flops(self) -> float:
        """2 * (Dqk + Dv) * heads * pairs, pairs = q * context + q * (q + 1) / 2."""
        q = self.query_len
        pairs = q * (self.kv_len - q) + q * (q + 1) / 2
        return 2.0 * (self.head_dim + self.head_dim_v) * self.num_heads * pairs * self.batch

    @property
    def kv_bytes(self) -> float:
        """Each KV element once, bf16."""
        width = self.head_dim if self.kind == "mla_decode" else self.num_kv_heads * (self.head_dim + self.head_dim_v)
        return 2.0 * self.batch * self.kv_len * width


def _paged(name, batch, query_len, kv_len, heads, page=16):
    return Case(name, "paged", batch, query_len, kv_len, *heads, page=page)


def _mla_decode(batch, kv_len, heads):
    return Case(f"mla decode B{batch} ctx {kv_len} h{heads}", "mla_decode", batch, 1, kv_len, heads, 1, 576, 512, 64)


GQA, GQA_SMALL = (32, 8), (8, 1)

DECODE = [
    _paged(f"decode 32/8 B{b} ctx {n}", b, 1, n, GQA)
    for b, n in ((1, 1024), (1, 4096), (1, 8192), (1, 32768), (1, 131072), (8, 1024), (16, 8192), (64, 1024), (64, 4096), (256, 1024))
] + [_paged(f"decode 8/1 B{b} ctx 8192", b, 1, 8192, GQA_SMALL) for b in (1, 8, 64)]

MLA_DECODE = [_mla_decode(64, 4096, 16), _mla_decode(1, 65536, 16), _mla_decode(64, 8192, 128), _mla_decode(128, 4096, 128)]

PREFILL = [
    _paged(f"q {q} kv {n} 32/8 page {page}", 1, q, n, GQA, page)
    for q, n in ((3616, 20000), (16384, 16384), (4096, 4096), (512, 32768))
    for page in (16, 128)
] + [
    Case(f"q {q} kv {n} 32/8 contiguous", "contiguous", 1, q, n, *GQA) for q, n in ((3616, 20000), (16384, 16384), (4096, 4096))
]

MLA_PREFILL = [
    Case("mla prefill 4096 h128", "mla_prefill", 1, 4096, 4096, 128, 128, 192, 128),
    Case("mla prefill 16384 h16", "mla_prefill", 1, 16384, 16384, 16, 16, 192, 128),
]

GROUPS = {"decode": DECODE, "mla_decode": MLA_DECODE, "prefill": PREFILL, "mla_prefill": MLA_PREFILL}
