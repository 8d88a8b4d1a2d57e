"""CPU attention beside PyTorch's: the same shapes, in turns, one process after the other on the same machine.

python bench/peers_cpu.py --sextant build/release/apps/sextant/sextant [--rounds 5] [--output peers_cpu.json]

Each round runs `sextant bench` (its median) and then torch.nn.functional.scaled_dot_product_attention (its median); the table has
the median of the rounds and their range. Needs PyTorch.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch

# name, batch of `sextant bench`, (requests, query length, KV length); 32 query heads, 8 KV heads, head size 128, bf16.
CASES = [
    ("prefill 2k", "q2k", (1, 2048, 2048)),
    ("prefill 4k", "q4k", (1, 4096, 4096)),
    ("decode 8 x 8k", "8q1s8k", (8, 1, 8192)),
    ("decode 1 x 32k", "1q1s32k", (1, 1, 32768)),
]
HEADS, KV_HEADS, DIM = 32, 8, 128


def sextant_ms(binary, batch, seconds):
    command = [binary, "bench", "--model", "Llama-3.1-8B", "--batch", batch, "--device", "cpu", "--no-check", "--json"]
    answer = json.loads(subprocess.run(command + ["--seconds", str(seconds)], capture_output=True, check=True).stdout)
    return {r["backend"]: r["ms_median"] for r in answer["results"]}, answer["ceilings"]


def torch_ms(shape, seconds):
    """Contiguous K and V, no pages, no cache write: less work than the paged calls do."""
    requests, query_len, kv_len = shape
    q = torch.randn(requests, HEADS, query_len, DIM, dtype=torch.bfloat16)
    k = torch.randn(requests, KV_HEADS, kv_len, DIM, dtype=torch.bfloat16)
    v = torch.randn(requests, KV_HEADS, kv_len, DIM, dtype=torch.bfloat16)

    def run():
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=query_len > 1, enable_gqa=True)

    for _ in range(2):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sextant", required=True, help="the sextant program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.5, help="for one measurement")
    parser.add_argument("--output", help="JSON file")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    report = []
    for name, batch, shape in CASES:
        if args.cases not in name:
            continue
        times, ceilings = {}, []
        for _ in range(args.rounds):
            ours, measured = sextant_ms(args.sextant, batch, args.seconds)
            ceilings.append(measured)
            for backend, ms in ours.items():
                times.setdefault(backend, []).append(ms)
            times.setdefault("torch SDPA", []).append(torch_ms(shape, args.seconds))
        requests, query_len, kv_len = shape
        pairs = requests * (query_len * (kv_len - query_len) + query_len * (query_len + 1) / 2)
        for who, ms in times.items():
            median = statistics.median(ms)
            tflops = 4 * pairs * HEADS * DIM / median * 1e-9
            gbs = requests * kv_len * KV_HEADS * DIM * 4 / median * 1e-6
            print(
                f"{name:16} {who:24} {median:9.2f} ms  {min(ms):9.2f}..{max(ms):<9.2f} {tflops:7.3f} TFLOP/s {gbs:7.2f} GB/s",
                flush=True,
            )
            report.append(
                {"case": name, "who": who, "ms": ms, "ms_median": median, "tflops": tflops, "gbs": gbs, "ceilings": ceilings}
            )
    if args.output:
        with open(args.output, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
