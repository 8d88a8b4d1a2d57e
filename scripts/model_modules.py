#!/usr/bin/env python3
"""Compares `sextant select` with the attention modules that Hugging Face transformers builds (on the meta device: no weights, no memory).

Where scripts/model_facts.py asks the config classes, this asks the modules what they made of the config: softmax scale, causality, window, head
size and heads a KV head, layer by layer, for every model type of the table that AutoModel can build from its defaults.
Without PyTorch and transformers it says so and exits with 77, which ctest counts as skipped.

    scripts/model_modules.py --sextant build/release/apps/sextant/sextant [--types gemma4_text,neomme]
"""
import argparse
import json
import os
import pathlib
import re
import sys
import warnings

import model_facts

TABLE = pathlib.Path(__file__).resolve().parent.parent / "src/model/attention_facts.json"
ASKED = ("scaling", "is_causal", "sliding_window", "head_dim", "num_key_value_groups")
# What a module calls by one of those names and means something else, and modules of another part of the model.
EXCUSED = {
    "albert": "one layer's weights run many times",
    "bailing_hybrid": "linear attention is a module too",
    "clip_text_model": "its causality is in the mask",
    "cohere_asr": "the encoder's modules come first",
    "esm": "queries are scaled before",
    "exaone4": "full layers carry the window and do not use it",
    "exaone_moe": "full layers carry the window and do not use it",
    "git": "the encoder's modules come first",
    "glm5_next_text": "linear attention is a module too",
    "idefics": "the encoder's modules come first",
    "kimi_linear": "linear attention is a module too",
    "kolibri1": "full layers carry the window and do not use it",
    "minimax": "linear attention is a module too",
    "neucodec": "the encoder's modules come first",
    "openai_privacy_filter": "queries and keys are scaled, each by the root",
    "sam3_lite_text_text_model": "some layers are convolutions",
    "xcodec2": "the encoder's modules come first",
    "zamba2": "two kinds of layers share a module",
}


def modules_of(config, torch, auto):
    """By layer: what its attention module says."""
    with torch.device("meta"):
        model = auto.from_config(config)
    rows = {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        if "ttention" not in kind or kind.endswith(("Output", "Layer", "Block")) or not hasattr(module, "scaling"):
            continue
        layer = getattr(module, "layer_idx", None)
        numbers = re.findall(r"\.(\d+)\.", name)
        layer = layer if layer is not None else int(numbers[0]) if numbers else None
        said = {asked: getattr(module, asked) for asked in ASKED if hasattr(module, asked)}
        if layer is not None:
            rows.setdefault(layer, {key: value for key, value in said.items() if isinstance(value, (int, float, type(None)))})
    return rows


def differences(rows, answered):
    ours = {layer: kind for kind in answered["layer_kinds"] + answered["not_served"] for layer in kind["layers"]}
    found = set()
    for layer, said in rows.items():
        kind = ours.get(layer)
        if kind is None or not kind["attention"]:
            found.add("attends, here it does not")
            continue
        spec, served = kind["attention"], kind in answered["layer_kinds"]
        scale = said.get("scaling")
        if scale and abs(scale - spec["softmax_scale"]) > 1e-4 * scale:
            found.add(f"scale {scale:.6g}, here {spec['softmax_scale']:.6g}")
        if not served:  # its mask is in words
            continue
        if isinstance(said.get("is_causal"), bool) and said["is_causal"] != spec["causal"]:
            found.add(f"causal {said['is_causal']}, here {spec['causal']}")
        window = said.get("sliding_window") or 0
        here = spec["sliding_window"] if spec["causal"] else max(spec["window_left"], 0)
        both = not spec["causal"] and window > 0  # there most classes count one more
        if "sliding_window" in said and window not in ((here, here + 1) if both else (here,)):
            found.add(f"window {window}, here {here}")
        if spec["kv_lora_rank"] == 0:
            if said.get("head_dim", spec["head_dim"]) not in (None, spec["head_dim"]):
                found.add(f"head_dim {said['head_dim']}, here {spec['head_dim']}")
            groups = spec["num_heads"] // spec["num_kv_heads"]
            if said.get("num_key_value_groups", groups) != groups:
                found.add(f"groups {said['num_key_value_groups']}, here {groups}")
    return sorted(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sextant", required=True)
    parser.add_argument("--types", help="model types, separated by commas (default: all)")
    arguments = parser.parse_args()
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.filterwarnings("ignore")
    try:
        import torch
        import transformers
    except ImportError:
        print("skipped: PyTorch and transformers are not installed (pip install torch transformers)")
        return model_facts.SKIPPED
    table = json.loads(TABLE.read_text())["models"]
    known = model_facts.classes()
    compared, different, unbuilt = 0, 0, 0
    for model_type in arguments.types.split(",") if arguments.types else sorted(table):
        facts = table[model_type]
        if model_type not in known or model_type in EXCUSED or any(key in facts for key in ("refused", "text", "encoder_decoder")):
            continue
        answered, _ = model_facts.answer(arguments.sextant, {"model_type": model_type, "dtype": "bfloat16"})
        try:
            default = known[model_type]().to_dict()
            few = {name: min(default[name], 8) for name in default if "num_" in name and name.endswith("experts") and isinstance(default[name], int)}
            try:
                rows = modules_of(known[model_type](**few), torch, transformers.AutoModel)
            except Exception:  # not as many experts as it wants
                rows = modules_of(known[model_type](), torch, transformers.AutoModel)
        except Exception:  # a class that AutoModel does not know, or that refuses its own defaults
            unbuilt += 1
            continue
        if not answered or not rows:
            unbuilt += 1
            continue
        compared += 1
        found = differences(rows, answered)
        different += bool(found)
        for line in found:
            print(f"differs: {model_type}: {line}", flush=True)
    print(f"transformers {transformers.__version__}: modules of {compared} types compared, {different} differ, {unbuilt} could not be, "
          f"{len(EXCUSED)} are excused by name")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
