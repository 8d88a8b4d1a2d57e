"""Prefill and decode of a random Llama-shaped model through transformers: sdpa, our attention alone, and with
PagedCache; seconds and tokens/s.

    OMP_WAIT_POLICY=PASSIVE python bench/transformers_cpu.py [--layers 8] [--prompt 2304] [--rounds 5]

In turns, the fastest of the rounds: others on the machine lengthen some of them.
"""

import argparse
import time

import torch
import transformers

import sextant
import sextant.transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=2304)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="ROCM_AITER_FA")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="seconds of the process's CPU time: what a shared machine does not lengthen; with --threads 1",
    )
    parser.add_argument("--block-size", type=int, default=16)
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.threads:
        torch.set_num_threads(options.threads)
        sextant.set_num_threads(options.threads)
    sextant.transformers.register()
    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=options.layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=16384,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype)).eval()
    ids = torch.randint(3, 4096, (options.batch, options.prompt))
    name = sextant.transformers.implementation_name(options.backend)
    ways = {
        "sdpa, DynamicCache": ("sdpa", lambda: transformers.DynamicCache(config=model.config)),
        f"{name}, DynamicCache": (name, lambda: transformers.DynamicCache(config=model.config)),
        f"{name}, PagedCache": (
            name,
            lambda: sextant.transformers.PagedCache(model.config, block_size=options.block_size),
        ),
    }
    best: "dict[str, list[float]]" = {way: [1e9, 1e9] for way in ways}
    logits = {}
    with torch.inference_mode():
        for _ in range(options.rounds):
            for way, (implementation, make) in ways.items():
                model.set_attn_implementation(implementation)
                cache = make()
                start = clock()
                step = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                best[way][0] = min(best[way][0], clock() - start)
                token = ids[:, :1]
                for _ in range(options.tokens):
                    start = clock()
                    step = model(token, past_key_values=cache, use_cache=True)
                    best[way][1] = min(best[way][1], clock() - start)
                logits[way] = step.logits
    print(f"{'':44} prefill s   decode tokens/s   difference of the logits from sdpa's")
    for way, (prefill, decode) in best.items():
        difference = (logits[way] - logits["sdpa, DynamicCache"]).abs().max().item()
        print(f"{way:44} {prefill:9.3f} {options.batch / decode:17.1f}   {difference:.1e}")


if __name__ == "__main__":
    main()
