#!/usr/bin/env python3
"""Compares `sextant size` with vLLM's own count of KV blocks: its grouping of layers, its blocks in the pool, its blocks for a request of a length.

Runs in an environment that has vLLM (scripts/vllm_environment FOLDER); no model is loaded: vLLM is given the specs of the layers.

    build/vllm/bin/python scripts/vllm_capacity.py --sextant build/release/apps/sextant/sextant
"""
import argparse
import json
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import torch
from vllm.config import VllmConfig
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import ChunkedLocalAttentionSpec, FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec

MEMORY = 60 << 30
LENGTHS = (1024, 8192, 32768, 131072)
BLOCK_SIZE = 16
# Built-in names, and configs of others: full, windows and full, windows alone, chunks and full, latents, K and V of different size.
MODELS = {
    "Llama-3.1-8B": None,
    "Gemma-3-27b": None,
    "gpt-oss-120b": None,
    "DeepSeek-V3": None,
    "Mistral-7B-v0.1": None,
    "Qwen3-32B": None,
    "Llama-4-Scout": {"model_type": "llama4_text", "dtype": "bfloat16"},
    "Gemma-4": {"model_type": "gemma4_text", "dtype": "bfloat16"},
    "MiMo-V2-Flash": {"model_type": "mimo_v2_flash", "dtype": "bfloat16"},
    "Command-A": {"model_type": "cohere2", "hidden_size": 12288, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
                  "num_hidden_layers": 64, "sliding_window": 4096, "dtype": "bfloat16"},
}  # fmt: skip


def sizes(sextant, model, config):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        if config:
            json.dump(config, file)
            file.flush()
        run = subprocess.run([sextant, "size", "--model", file.name if config else model, "--memory", str(MEMORY), "--block-size", str(BLOCK_SIZE),
                              "--lengths", ",".join(map(str, LENGTHS)), "--json"], capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(run.stdout)


def layer_specs(answer):
    """The specs that vLLM's layers would name, in the model's order of kinds."""
    specs = {}
    for kind in answer["kinds"]:
        a = kind["attention"]
        shape = dict(block_size=BLOCK_SIZE, num_kv_heads=a["num_kv_heads"], head_size=a["head_dim"], dtype=torch.bfloat16)
        if a["kv_lora_rank"]:
            spec = MLAAttentionSpec(**{**shape, "num_kv_heads": 1, "head_size": a["kv_lora_rank"] + a["qk_rope_head_dim"]})
        elif a["sliding_window"]:
            spec = SlidingWindowSpec(**shape, head_size_v=a["head_dim_v"], sliding_window=a["sliding_window"])
        elif a["attention_chunk_size"]:
            spec = ChunkedLocalAttentionSpec(**shape, attention_chunk_size=a["attention_chunk_size"])
        else:
            spec = FullAttentionSpec(**shape, head_size_v=a["head_dim_v"])
        for _ in range(kind["layers"]):
            specs[f"layers.{len(specs)}.attn"] = spec
    return specs


def counts_of_vllm(specs, batched_tokens):
    config = VllmConfig()
    config.cache_config.kv_cache_layout = "LBHNC"
    config.scheduler_config.max_num_batched_tokens = batched_tokens
    config.scheduler_config.disable_hybrid_kv_cache_manager = False
    groups = kv_cache_utils.get_kv_cache_groups(config, specs)
    made = kv_cache_utils.get_kv_cache_config_from_groups(config, groups, MEMORY)
    blocks = []
    for length in LENGTHS:
        config.model_config = SimpleNamespace(max_model_len=length, enable_return_routed_experts=False)
        concurrency = kv_cache_utils.get_max_concurrency_for_kv_cache_config(config, made)
        blocks.append(round(made.num_blocks / concurrency))
    return made.num_blocks, len(groups), blocks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sextant", required=True)
    arguments = parser.parse_args()
    different = 0
    for model, config in MODELS.items():
        ours = sizes(arguments.sextant, model, config)
        num_blocks, groups, blocks = counts_of_vllm(layer_specs(ours), 8192)
        here = ours["num_blocks"], sum(kind["groups"] for kind in ours["kinds"]), [row["blocks_a_request"] for row in ours["lengths"]]
        same = here == (num_blocks, groups, blocks)
        different += not same
        print(f"{model}: {num_blocks} blocks in {groups} groups, {blocks} for a request" + ("" if same else f"; here {here}"))
    import vllm

    print(f"vLLM {vllm.__version__}: {len(MODELS) - different} of {len(MODELS)} models agree")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
