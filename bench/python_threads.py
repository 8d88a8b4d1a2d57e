"""Python threads that run plans at once, and a small call on a busy machine.

python bench/python_threads.py [--seconds 2] [--load 6]

Two threads share the pool: a short call beside a long one must not wait for its end, and both together get through as
much as one alone. Then the median and the 90th percentile of a small call alone and beside `--load` processes that
do nothing but compute.
"""

import argparse
import multiprocessing
import statistics
import threading
import time

import numpy as np

import sextant

HEADS, KV_HEADS, DIM = 8, 2, 64


def step(tokens: int, context: int, requests: int = 1):
    """A call that runs `requests` of `tokens` new ones after `context`."""
    spec = sextant.AttentionSpec(
        num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, softmax_scale=DIM**-0.5, dtype="fp32"
    )
    length = context + tokens
    blocks = -(-length // 16)
    cache = sextant.KvCacheSpec(
        num_blocks=blocks * requests, block_size=16, num_kv_heads=KV_HEADS, head_dim=DIM, dtype="fp32"
    )
    table = np.arange(blocks * requests, dtype=np.int32).reshape(requests, blocks)
    starts = np.arange(requests + 1, dtype=np.int32) * tokens
    batch = dict(
        query_start_loc=starts,
        seq_lens=np.full(requests, length, np.int32),
        block_table=table,
        slot_mapping=sextant.slot_mapping(starts, [length] * requests, table, 16),
    )
    backend = "ROCM_AITER_UNIFIED_ATTN"
    k_shape, v_shape, _ = sextant.cache_shape(cache, backend)
    plan = sextant.plan(backend, spec, cache, **batch)
    rows = tokens * requests
    tensors = dict(
        q=np.ones((rows, HEADS, DIM), np.float32),
        k=np.ones((rows, KV_HEADS, DIM), np.float32),
        v=np.ones((rows, KV_HEADS, DIM), np.float32),
        out=np.empty((rows, HEADS, DIM), np.float32),
        k_cache=np.zeros(k_shape, np.float32),
        v_cache=np.zeros(v_shape, np.float32),
    )
    return lambda: plan.run(**tensors, **batch)


def together(calls, seconds: float) -> "list[list[float]]":
    """Milliseconds of each call of each thread, all of which begin together."""
    times: "list[list[float]]" = [[] for _ in calls]
    begin = threading.Barrier(len(calls))

    def work(i: int) -> None:
        begin.wait()
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            calls[i]()
            times[i].append(1e3 * (time.perf_counter() - start))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def percentile(values: "list[float]", share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--load", type=int, default=6)
    options = parser.parse_args()
    shapes = {
        "decode of 8 x 2048": lambda: step(1, 2048, 8),
        "prefill of 1024": lambda: step(1024, 0),
        "decode of 1 x 20": lambda: step(1, 20),
    }
    for name, make in shapes.items():
        first, second = make(), make()
        first(), second()
        alone = together([first], options.seconds)[0]
        both = together([first, second], options.seconds)
        rate = sum(map(len, both)) / max(1, len(alone))
        each = ", ".join(f"{statistics.median(times):.3f}" for times in both)
        longest = max(max(times) for times in both)
        print(
            f"{name}: median {statistics.median(alone):.3f} ms alone; two threads: {each} ms, the longest {longest:.1f}, "
            f"{rate:.2f} times the calls",
            flush=True,
        )
    long, short = step(2048, 2048), step(1, 20)
    long(), short()
    alone = together([short], options.seconds)[0]
    times = together([long, short], options.seconds)
    for name, of in (("alone", alone), (f"beside a prefill of {statistics.median(times[0]):.0f} ms", times[1])):
        print(
            f"decode of 1 x 20 {name}: {len(of) / options.seconds:.0f} calls/s, median {statistics.median(of):.3f} ms, "
            f"mean {statistics.mean(of):.3f}, the longest {max(of):.1f}",
            flush=True,
        )
    for load in (0, options.load):
        others = [multiprocessing.get_context("fork").Process(target=busy, args=(options.seconds + 1,)) for _ in range(load)]
        for other in others:
            other.start()
        time.sleep(0.3 if load else 0)
        for name, make in (("decode of 1 x 20", lambda: step(1, 20)), ("decode of 4 x 256", lambda: step(1, 256, 4))):
            call = make()
            times = together([call], options.seconds / 2)[0]
            print(
                f"{name} at load {load}: median {1e3 * statistics.median(times):.1f} us, "
                f"90 % {1e3 * percentile(times, 0.9):.1f} us, mean {1e3 * statistics.mean(times):.1f} us",
                flush=True,
            )
        for other in others:
            other.join()


if __name__ == "__main__":
    main()
