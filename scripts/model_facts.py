#!/usr/bin/env python3
"""Compares the table of attention facts (src/model/attention_facts.json) with Hugging Face transformers' config classes.

For every model type of the table that the installed transformers knows, an empty config ({"model_type": ...}), others with few and odd
numbers of layers, nulls, and the file that the class itself saves go through `sextant select --json` and through the class; heads, KV heads, head sizes, windows and the type of every layer must agree.
So do the published configs of tests/model/published_models.json.
Without transformers it says so and exits with 77, which ctest counts as skipped. PyTorch is not needed.

    scripts/model_facts.py --sextant build/release/apps/sextant/sextant
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

SKIPPED = 77
PUBLISHED = pathlib.Path(__file__).resolve().parent.parent / "tests/model/published_models.json"
TABLE = pathlib.Path(__file__).resolve().parent.parent / "src/model/attention_facts.json"

def classes():
    """Config classes by model type, the stand-alone ones of text models included."""
    import importlib
    import inspect
    import pkgutil

    import transformers.models
    from transformers import PretrainedConfig

    found = {}
    for module in pkgutil.walk_packages(transformers.models.__path__, "transformers.models."):
        if ".configuration_" not in module.name:
            continue
        try:
            loaded = importlib.import_module(module.name)
        except Exception:  # a class that needs a package that is not there
            continue
        for value in vars(loaded).values():
            if inspect.isclass(value) and issubclass(value, PretrainedConfig) and value.model_type:
                if value.__module__ == module.name:
                    found.setdefault(value.model_type, value)
    return found


def layers_of(config, table):
    """What the class says of every layer: (what it does, heads, KV heads, head size, window)."""

    def get(*names, of=config):
        for name in names:
            value = getattr(of, name, None)
            if value is not None:
                return value
        return None

    types = get("layer_types", "layers_block_type", "attention_layers")
    if config.model_type == "recurrent_gemma":
        types = ["sliding_attention" if "attention" in kind and kind != "linear_attention" else kind for kind in types]
    if config.model_type == "xlstm":
        types = ["recurrent"] * config.num_hidden_layers
    count = get("num_hidden_layers", "num_layers", "n_layer")
    count = len(types) if types else count
    differ = getattr(config, "is_heterogeneous", False)
    rows = []
    for layer in range(count):
        own = config.per_layer_config[layer] if differ else config
        name = types[layer] if types else None
        facts = table["layer_types"].get(name) if name else None
        what = facts["as"] if facts else "full"
        if what == "none":
            rows.append(("none",))
            continue

        def pick(*names):
            return get(*names, of=own)

        heads = pick("num_attention_heads", "n_head", "num_heads")
        if what == "sliding":
            heads = pick("swa_num_attention_heads") or heads
        kv = pick("num_key_value_heads", "num_kv_heads") or heads
        if what == "sliding":
            kv = pick("swa_num_key_value_heads") or kv
        if config.model_type == "mimo_v2_flash" and what == "sliding" and not get("swa_num_key_value_heads"):
            kv *= 2  # modeling_mimo_v2_flash.py doubles them; the models' own configs say swa_num_key_value_heads
        if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
            kv = 1
        if pick("kv_lora_rank"):
            kv, dim = heads, pick("qk_nope_head_dim") + pick("qk_rope_head_dim")
        else:
            dim = pick("attention_head_dim", "head_dim", "attention_head_size", "d_kv", "d_head", "kv_channels") or get("hidden_size") // heads
        window = 0
        sliding = what == "sliding" or (types is None and pick("sliding_window", "attention_window_size"))
        if sliding:
            window = pick("sliding_window", "attention_window_size", "window_size") or 0
            if getattr(config, "use_bidirectional_attention", False) in (True, "all"):
                window -= 1  # Gemma's classes count half a window and one more, as an exclusive bound
        if config.model_type == "t5gemma2_text" and sliding:
            window = (window + 1) // 2 - 1  # half to either side, itself to the left
        if config.model_type == "mobilebert":
            dim = config.true_hidden_size // heads
        rows.append(("attends", heads, kv, dim, window))
    return rows


def answer(sextant, config):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        run = subprocess.run([sextant, "select", "--device", "cpu", "--json", "--model", file.name], capture_output=True,
                             text=True, check=False)
    if run.returncode == 2 or not run.stdout:
        return None, run.stderr.strip()
    return json.loads(run.stdout), run.stderr.strip()


def layers_here(answered):
    rows = [None] * answered["num_layers"]
    for kind in answered["layer_kinds"]:
        a = kind["attention"]
        window = a["sliding_window"] if a["causal"] else max(a["window_left"], 0)  # -1: sees all
        for layer in kind["layers"]:
            rows[layer] = ("attends", a["num_heads"], a["num_kv_heads"], a["head_dim"], window)
    for kind in answered["not_served"]:
        a = kind["attention"]
        for layer in kind["layers"]:
            rows[layer] = ("attends", a["num_heads"], a["num_kv_heads"], a["head_dim"], None) if a else ("none",)
    return rows


def differ(theirs, ours):
    if len(theirs) != len(ours):
        return f"{len(theirs)} layers, here {len(ours)}"
    for layer, (a, b) in enumerate(zip(theirs, ours)):
        if b[-1] is None:  # a mask that the spec cannot say: its window is in words
            a, b = a[:-1], b[:-1]
        if tuple(a) != tuple(b):
            return f"layer {layer}: {a}, here {b}"
    return ""


def variants(known_class, facts):
    """Few and odd numbers of layers, and nulls, which say "none" where the class has a default."""
    yield {}
    if "layers_times" not in facts:  # the class counts pairs
        yield {"num_hidden_layers": 4}
        yield {"num_hidden_layers": 13}
    try:
        default = known_class().to_dict()
    except Exception:  # a class that refuses its own defaults
        return
    for field in ("num_key_value_heads", "head_dim"):
        if default.get(field) is not None and "attn_config" not in default:
            yield {field: None}


def cases(table, known):
    """(name, model type, fields for the class, config for sextant)."""
    skip = ("refused", "text", "encoder_decoder")
    for model_type, facts in table["models"].items():
        if model_type == "pp_formulanet_text":  # its class counts layers of an encoder that its model has not
            continue
        if model_type not in known or any(key in facts for key in skip):
            continue
        for variant in variants(known[model_type], facts):
            config = {"model_type": model_type, "dtype": "bfloat16", **variant}
            yield f"{model_type} {variant or ''}", model_type, variant, config
        try:
            saved = json.loads(known[model_type]().to_json_string(use_diff=False))
        except Exception:  # a class that refuses its own defaults
            continue
        if model_type == "dory":  # its file lists attention and feed-forward apart, its class together
            continue
        yield f"{model_type} as saved", model_type, {}, {**saved, "model_type": model_type, "dtype": "bfloat16"}
    for model in json.loads(PUBLISHED.read_text()):
        part = model["config"].get("text_config", model["config"])
        model_type = part.get("model_type", "")
        facts = table["models"].get(model_type, {})
        if model_type in known and not any(key in facts for key in skip):
            fields = {key: value for key, value in part.items() if key not in ("model_type", "torch_dtype", "_block_types")}
            yield model["name"], model_type, fields, model["config"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sextant", required=True)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.filterwarnings("ignore")
    try:
        import transformers
    except ImportError:
        print("skipped: transformers is not installed (pip install transformers; PyTorch is not needed)")
        return SKIPPED
    table = json.loads(TABLE.read_text())
    known = classes()
    agreed, different, refused, unread, compared = 0, [], [], [], 0
    for name, model_type, fields, sent in cases(table, known):
        try:
            config = known[model_type](**fields)
            theirs = layers_of(config, table)
        except Exception as error:  # the class refuses its own defaults, or has no such layers
            unread.append(f"{name}: {error!r:.80}")
            continue
        compared += 1
        ours, message = answer(arguments.sextant, sent)
        problem = differ(theirs, layers_here(ours)) if ours else ""
        if not ours:
            refused.append(f"{name}: {message}")
        elif problem:
            different.append(f"{name}: {problem}")
        else:
            agreed += 1
    for line in different:
        print("differs:", line)
    if arguments.verbose:
        for line in refused:
            print("refused here:", line)
        for line in unread:
            print("not comparable:", line)
    print(f"transformers {transformers.__version__}: {agreed} of {compared} configs agree, {len(different)} differ, "
          f"{len(refused)} are refused here, {len(unread)} are not comparable")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
