#!/usr/bin/env python3
"""Makes a small DeepSeek-V3 with random weights and SmolLM2's tokenizer, for comparing MLA backends. What it says means nothing.

    python python/tools/random_deepseek.py SmolLM2-135M-Instruct.Q4_1.gguf OUT

Latent attention has DeepSeek-V3's own sizes (rank 512, nope 128, rope 64, v 128), for which vLLM's own CPU kernel is made; the rest is small. All
layers are dense: a router turns a rounding error into another expert, and then texts differ for reasons that are not attention's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DeepseekV3Config


def make(gguf: Path, folder: Path, *, kv_lora_rank: int = 512, heads: int = 4, seed: int = 0) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    torch.manual_seed(seed)
    config = DeepseekV3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, moe_intermediate_size=64, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=heads, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=2,
        q_lora_rank=64, kv_lora_rank=kv_lora_rank, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, max_position_embeddings=2048,
        initializer_range=0.12,  # large enough that attention decides what is said
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kv-lora-rank", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    options = parser.parse_args()
    make(options.gguf, options.folder, kv_lora_rank=options.kv_lora_rank, heads=options.heads)
    print(f"{options.folder}: {sum(f.stat().st_size for f in options.folder.iterdir()) >> 20} MiB")


if __name__ == "__main__":
    main()
