#!/usr/bin/env python3
"""Converts a GGUF model to a folder that vLLM and transformers load: config.json, model.safetensors, tokenizer.

    python python/tools/gguf_to_safetensors.py SmolLM2-135M-Instruct.Q4_1.gguf OUT [--dtype bf16]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def convert(gguf: Path, folder: Path, dtype: str = "fp32") -> None:
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    config = AutoConfig.from_pretrained(**source)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model loaded from GGUF counts as quantised and refuses to be saved; a plain one with the same weights does not.
    plain = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    options = parser.parse_args()
    convert(options.gguf, options.folder, options.dtype)
    print(f"{options.folder}: {sum(f.stat().st_size for f in options.folder.iterdir()) >> 20} MiB")


if __name__ == "__main__":
    main()
