"""Steps on a GPU that the tests in test_cuda.py run in many ways, and what PyTorch says they give."""

import torch

import sextant
import sextant.torch as st

MHA = ["TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"]
MLA = ["TRITON_MLA", "ROCM_AITER_MLA"]
SPEC = sextant.AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=64, softmax_scale=0.125, dtype="bf16")
FP8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


def dense_inputs(dtype=torch.bfloat16, queries=33, keys=33, device="cuda"):
    torch.manual_seed(0)
    shapes = ((2, 8, queries, 64), (2, 2, keys, 64), (2, 2, keys, 64))
    return tuple(torch.randn(shape, dtype=dtype, device=device) for shape in shapes)


def sdpa(q, k, v, **options):
    return torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), enable_gqa=True, **options)


def close(got, expected, tolerance=2e-2):
    torch.testing.assert_close(got.float(), expected.float(), atol=tolerance, rtol=tolerance)


class Step:
    """Two requests in a mixed batch: one decodes its 20th token, one prefills 18; the first one's 19 tokens are in the cache."""

    QUERY_START_LOC, SEQ_LENS, TABLE = [0, 1, 19], [20, 18], [[3, 1], [6, 4]]

    def __init__(self, backend, cache_dtype="bf16", device="cuda", k_scale=None, v_scale=None):
        torch.manual_seed(1)
        self.backend, self.device = backend, device
        self.spec = SPEC
        self.cache = sextant.KvCacheSpec(num_blocks=8, block_size=16, num_kv_heads=2, head_dim=64, dtype=cache_dtype)
        k_shape, v_shape, layout = sextant.cache_shape(self.cache, backend, device)
        memory = FP8.get(cache_dtype, torch.bfloat16)
        self.k_cache, self.v_cache = (torch.zeros(shape, dtype=torch.bfloat16, device=device).to(memory) for shape in (k_shape, v_shape))
        bf16 = {"dtype": torch.bfloat16, "device": device}
        self.old = torch.randn(19, 2, 64, **bf16), torch.randn(19, 2, 64, **bf16)
        self.q, self.k, self.v = torch.randn(19, 8, 64, **bf16), torch.randn(19, 2, 64, **bf16), torch.randn(19, 2, 64, **bf16)
        self.scales = dict(k_scale=k_scale, v_scale=v_scale)
        resolved = sextant.KvCacheSpec(**{**self.cache.__dict__, "layout": layout})
        sextant.reshape_and_cache(*self.old, self.slots(0, range(19)), self.k_cache, self.v_cache, resolved, **self.scales)
        ints = {"dtype": torch.int32, "device": device}
        self.batch = dict(query_start_loc=torch.tensor(self.QUERY_START_LOC, **ints), seq_lens=torch.tensor(self.SEQ_LENS, **ints),
                          block_table=torch.tensor(self.TABLE, **ints), slot_mapping=torch.cat([self.slots(0, [19]), self.slots(1, range(18))]))  # fmt: skip

    def slots(self, request, positions):
        return torch.tensor([self.TABLE[request][at // 16] * 16 + at % 16 for at in positions], device=self.device)

    def plan(self, make=st.plan, **options):
        return make(self.backend, self.spec, self.cache, query_start_loc=self.QUERY_START_LOC, seq_lens=self.SEQ_LENS, block_table=self.TABLE,
                    device=self.device, **options)  # fmt: skip

    def run(self, made, **changes):
        tensors = {name: getattr(self, name) for name in ("q", "k", "v", "k_cache", "v_cache")}
        return st.run(made, **{**tensors, **self.batch, **self.scales, **changes})

    def expected(self):
        first = [torch.cat([old, new[:1]]).transpose(0, 1)[None] for old, new in zip(self.old, (self.k, self.v))]
        second = [x[1:].transpose(0, 1)[None] for x in (self.q, self.k, self.v)]
        rows = sdpa(self.q[:1].transpose(0, 1)[None], *first), sdpa(*second, is_causal=True)
        return torch.cat([x[0].transpose(0, 1) for x in rows])


class MlaStep:
    """A prompt of 40 tokens, then a token that reads the latent cache."""

    def __init__(self, backend, cache_dtype="bf16", kv_scale=None):
        torch.manual_seed(4)
        self.heads, self.rank, self.nope, self.rope, self.dim_v = 16, 512, 128, 64, 128
        self.spec = sextant.AttentionSpec(num_heads=16, num_kv_heads=16, head_dim=192, head_dim_v=128, softmax_scale=192**-0.5, dtype="bf16",
                                          kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)  # fmt: skip
        self.cache = sextant.KvCacheSpec(num_blocks=4, block_size=64, num_kv_heads=1, head_dim=576, head_dim_v=512, dtype=cache_dtype)
        self.backend, self.kv_scale = backend, kv_scale
        bf16 = {"dtype": torch.bfloat16, "device": "cuda"}
        self.kv_cache = torch.zeros(sextant.cache_shape(self.cache, backend, "cuda")[0], **bf16).to(FP8.get(cache_dtype, torch.bfloat16))
        self.weight = torch.randn(self.heads * 256, self.rank, **bf16) / 16
        self.q, self.kv_c, self.k_pe = torch.randn(41, self.heads, 192, **bf16), torch.randn(41, self.rank, **bf16), torch.randn(41, self.rope, **bf16)
        self.slots = 64 * 2 + torch.arange(41, device="cuda")

    def run(self, first, last, call=lambda f: f):
        ints = {"dtype": torch.int32, "device": "cuda"}
        made = st.plan(self.backend, self.spec, self.cache, query_start_loc=[0, last - first], seq_lens=[last], block_table=[[2]], device="cuda")
        batch = dict(query_start_loc=torch.tensor([0, last - first], **ints), seq_lens=torch.tensor([last], **ints), block_table=torch.tensor([[2]], **ints),
                     slot_mapping=self.slots[first:last])  # fmt: skip
        return call(lambda q, c, p: st.run_mla(made, q, c, p, self.weight, self.kv_cache, kv_scale=self.kv_scale, **batch))(*(x[first:last] for x in (self.q, self.kv_c, self.k_pe)))

    def expected(self):
        up = (self.kv_c.float() @ self.weight.float().T).view(41, self.heads, 256)
        k = torch.cat([up[..., :128], self.k_pe.float()[:, None].expand(-1, self.heads, -1)], -1)
        out = sdpa(*(x.transpose(0, 1)[None] for x in (self.q, k, up[..., 128:])), is_causal=True, scale=192**-0.5)
        return out[0].transpose(0, 1)
