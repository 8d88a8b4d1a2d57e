"""What a call costs beside the kernel: microseconds of Python's calls on the smallest shapes, one thread, median
of many.

python bench/python_overhead.py [--pin CORE]
"""

import argparse
import os
import statistics
import time

import numpy as np


def median_us(call, calls: int = 4000) -> float:
    for _ in range(200):
        call()
    times = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pin", type=int, help="the core to run on")
    pin = parser.parse_args().pin
    if pin is not None:
        os.sched_setaffinity(0, {pin})
    import torch

    import sextant
    import sextant.torch

    torch.set_num_threads(1)
    sextant.set_num_threads(1)
    heads, kv_heads, dim = 8, 2, 64
    spec = sextant.AttentionSpec(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, softmax_scale=dim**-0.5, dtype="fp32"
    )
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=16, num_kv_heads=kv_heads, head_dim=dim, dtype="fp32")
    backend = "ROCM_AITER_UNIFIED_ATTN"
    host = dict(
        query_start_loc=np.array([0, 1], np.int32),
        seq_lens=np.array([20], np.int32),
        block_table=np.array([[2, 1]], np.int32),
    )
    slots = np.array([16 + 3], np.int64)
    k_shape, v_shape, _ = sextant.cache_shape(cache, backend)

    def tensors(make, of):
        given = dict(
            q=make((1, heads, dim)),
            k=make((1, kv_heads, dim)),
            v=make((1, kv_heads, dim)),
            k_cache=make(k_shape),
            v_cache=make(v_shape),
        )
        return {**given, **{name: of(array) for name, array in host.items()}, "slot_mapping": of(slots)}

    arrays = tensors(lambda shape: np.zeros(shape, np.float32), np.copy)
    given = tensors(torch.zeros, torch.from_numpy)
    plan = sextant.torch.plan(backend, spec, cache, **host)
    out_array, out = np.zeros((1, heads, dim), np.float32), torch.zeros(1, heads, dim)
    names = (
        "q",
        "k",
        "v",
        "out",
        "lse",
        "kv_c",
        "k_pe",
        "kv_b_proj",
        "k_cache",
        "v_cache",
        "k_scale",
        "v_scale",
        "query_start_loc",
        "seq_lens",
        "block_table",
        "slot_mapping",
        "sinks",
        "alibi_slopes",
        "q_scale",
        "token_spans",
    )
    everything = {**given, "out": out}
    bare = [everything.get(name) for name in names]
    library_run = sextant.api.library["plan_run"]
    q, k, v = (torch.zeros(1, n, 16, dim) for n in (heads, kv_heads, kv_heads))
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def attention(causal):
        return lambda: sextant.torch.attention(q, k, v, is_causal=causal)

    varlen = sextant.varlen_plan(spec, query_start_loc=[0, 16], key_start_loc=[0, 16])
    packed = [x[0].transpose(0, 1) for x in (q, k, v)]
    lengths = [torch.tensor(x, dtype=torch.int32) for x in ([0, 16], [0, 16], [16])]
    varlen_out, varlen_run = torch.zeros(16, heads, dim), sextant.api.library["varlen_run"]

    def varlen_alone():
        varlen_run(varlen._handle, *packed, varlen_out, None, *lengths, *[None] * 4, 0)

    rows = {
        "the library's call alone (one decode)": lambda: library_run(plan._handle, *bare, None, 0),
        "Plan.run, PyTorch": lambda: plan.run(**given, out=out),
        "Plan.run, NumPy": lambda: plan.run(**arrays, out=out_array),
        "sextant.torch.run (a custom op)": lambda: sextant.torch.run(plan, **given, out=out),
        "sextant.plan": lambda: sextant.plan(backend, spec, cache, **host),
        "the library's call alone (that attention)": varlen_alone,
        "sextant.torch.attention [1, 8, 16, 64]": attention(True),
        "scaled_dot_product_attention, the same": lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True),
    }
    with torch.no_grad():
        for name, call in rows.items():
            print(f"{median_us(call):8.1f} us  {name}")


if __name__ == "__main__":
    main()
