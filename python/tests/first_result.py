"""A prompt of 40 tokens against NumPy: what scripts/build_wheels runs in a bare system after `pip install`. Needs NumPy alone."""

import numpy as np

import sextant

tokens, heads, kv_heads, dim = 40, 8, 2, 64
spec = sextant.AttentionSpec(num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, softmax_scale=dim**-0.5, dtype="fp32")
cache = sextant.KvCacheSpec(num_blocks=4, block_size=16, num_kv_heads=kv_heads, head_dim=dim, dtype="fp32")
backend = sextant.select(spec, cache, device="cpu").chosen
k_shape, v_shape, _ = sextant.cache_shape(cache, backend)
k_cache, v_cache = np.zeros(k_shape, np.float32), np.zeros(v_shape, np.float32)

batch = dict(
    query_start_loc=np.array([0, tokens], np.int32),
    seq_lens=np.array([tokens], np.int32),
    block_table=np.array([[2, 0, 3]], np.int32),
    slot_mapping=np.concatenate([np.arange(32, 48), np.arange(0, 16), np.arange(48, 56)]),
)
random = np.random.default_rng()
q = random.standard_normal((tokens, heads, dim), np.float32)
k, v = (random.standard_normal((tokens, kv_heads, dim), np.float32) for _ in range(2))
out = np.empty((tokens, heads, dim), np.float32)
plan = sextant.plan(backend, spec, cache, **batch, device="cpu")
plan.run(q=q, k=k, v=v, out=out, k_cache=k_cache, v_cache=v_cache, **batch)

for head in range(heads):
    scores = q[:, head] @ k[:, head // (heads // kv_heads)].T * dim**-0.5
    weights = np.exp(np.where(np.tri(tokens, dtype=bool), scores, -np.inf))
    expected = weights / weights.sum(1, keepdims=True) @ v[:, head // (heads // kv_heads)]
    np.testing.assert_allclose(out[:, head], expected, atol=2e-5)
print(f"sextant {sextant.__version__}: {backend} agrees with NumPy")
