"""Cases for CPUs: the grid's space in sizes that one or two cores finish, and the models of docs/performance-cpu.md."""

from grid import FORMATS, GridCase, Space, log_uniform

MODELS = {  # heads, KV heads, head size, further fields
    "Llama-3.1-8B": (32, 8, 128, {}),
    "gpt-oss-20b full": (64, 8, 64, {"sinks": True}),
    "gpt-oss-20b window": (64, 8, 64, {"sinks": True, "window": 128}),
    "Gemma-2-9b": (16, 8, 256, {"softcap": 50.0}),
    "Phi-3-mini": (32, 32, 96, {}),
}
BATCHES = {"prefill 2k": (1, 2048, 2048), "decode 8 x 8k": (8, 1, 8192)}


def _case(name, batch, query_len, kv_len, model="Llama-3.1-8B", page=32, **fields):
    heads, kv_heads, dim, extra = MODELS[model]
    return GridCase(name=name, kind="named", query_lens=(query_len,) * batch, kv_lens=(kv_len,) * batch, num_heads=heads, num_kv_heads=kv_heads, head_dim=dim,
                    head_dim_v=dim, page=page, tags=(name.split(":")[0],), **{**extra, **fields})


def named_cases():
    cases = [_case(f"{model}: {batch}", *BATCHES[batch], model=model) for model in MODELS for batch in BATCHES]
    for dtype, kv in (("bf16", "fp8"), ("fp16", "fp16"), ("fp32", "fp32")):
        cases += [_case(f"{kv} cache: {batch}", *BATCHES[batch], dtype=dtype, q=dtype, kv=kv) for batch in BATCHES]
    cases += [_case("short: 64 prompts of 32", 64, 32, 32), _case("short: 32 decodes at 512", 32, 1, 512), _case("tokens: 4 x 5 at 4k", 4, 5, 4096),
              _case("long: decode 1 x 32k", 1, 1, 32768), _case("long: q 128 kv 16k", 1, 128, 16384)]
    latent = {"num_kv_heads": 1, "head_dim": 576, "head_dim_v": 512, "page": 16}
    cases += [GridCase(name=f"MLA: decode 8 x 8k, {heads} heads", kind="mla decode", query_lens=(1,) * 8, kv_lens=(8192,) * 8, num_heads=heads, tags=("MLA",), **latent)
              for heads in (16, 128)]
    cases += [GridCase(name=f"MLA: prefill {n}, 128 heads", kind="mla prefill", query_lens=(n,), kv_lens=(n,), num_heads=128, num_kv_heads=128, head_dim=192,
                       head_dim_v=128, page=0, tags=("MLA",)) for n in (512, 2048)]
    return cases


def _lengths(r, kind):
    """(query_lens, kv_lens) of a batch."""
    if kind == "prefill":
        n = log_uniform(r, 256, 4096)
        return (n,), (n,)
    if kind == "extend":
        q, context = log_uniform(r, 32, 1024), log_uniform(r, 256, 16384)
        return (q,), (q + context,)
    if kind == "short":
        batch, n = log_uniform(r, 4, 64), log_uniform(r, 16, 256)
        return (n,) * batch, (n,) * batch
    if kind == "ragged extend":
        q = [log_uniform(r, 8, 512) for _ in range(log_uniform(r, 3, 12))]
        return tuple(q), tuple(x + log_uniform(r, 1, 4096) for x in q)
    if kind == "mixed":
        batch, n = log_uniform(r, 4, 32), log_uniform(r, 128, 2048)
        return (1,) * batch + (n,), tuple(log_uniform(r, 64, 8192) for _ in range(batch)) + (n + r.choice((0, 0, 1024)),)
    batch = log_uniform(r, 1, 64)
    if kind == "ragged decode" or (kind == "mla decode" and r.random() < 0.4):
        return (1,) * batch, tuple(log_uniform(r, 32, 16384) for _ in range(batch))
    query_len = r.randint(2, 8) if kind == "tokens" else 1
    n = max(query_len, log_uniform(r, 32, 32768))
    return (query_len,) * batch, (n,) * batch


# fp8 queries have no peer on a CPU; pages that vLLM has no kernel for are drawn too: it then gets pages of 32.
CPU = Space(lengths=_lengths, mla_page=16, max_cache_bytes=1.5e9, max_flops=1.2e11, max_tokens=1 << 13, pages=(32, 32, 64, 128, 16, 16, 48, 1, 8),
            formats=FORMATS[:5] + (("bf16", "bf16", "fp8"),) * 3 + (("bf16", "bf16", "fp8_e5m2"), ("fp16", "fp16", "fp16"), ("fp16", "fp16", "fp16"),
                                                                   ("fp32", "fp32", "fp32")))
