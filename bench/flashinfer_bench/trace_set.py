#!/usr/bin/env python3
"""Writes a trace set for flashinfer-bench: definitions of our ops, Sextant's solutions, and workloads to time them with.

    python bench/flashinfer_bench/trace_set.py OUT
    flashinfer-bench run --local OUT        # needs an NVIDIA GPU

Names, axes and inputs are those of the public flashinfer-trace, so that a definition of the same name there takes the same
solution. Definitions and solutions need nothing but Python; workloads need torch and safetensors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
GQA_SHAPES = ((32, 8, 128), (32, 4, 128))  # query heads, KV heads, head size: Llama-3.1-8B, Qwen3-30B-A3B
MLA_SHAPES = ((16, 512, 64), (128, 512, 64))  # heads, kv_lora_rank, rope: DeepSeek-V3 on eight GPUs and on one
PAGE_SIZES = (1, 64)
AUTHOR = "sextant"


def tensor(shape: str, dtype: str = "bfloat16") -> dict:
    return {"shape": shape.split(), "dtype": dtype}


def page_inputs(page_size: int) -> dict:
    inputs = {"kv_indptr": tensor("len_indptr", "int32"), "kv_indices": tensor("num_kv_indices", "int32")}
    if page_size > 1:  # every page is full but a request's last
        inputs["kv_last_page_len"] = tensor("batch_size", "int32")
    return inputs


def constants(**values: int) -> dict:
    return {name: {"type": "const", "value": value} for name, value in values.items()}


def variables(*names: str) -> dict:
    return {name: {"type": "var"} for name in names}


def call(inputs: dict, arguments: str, outputs: str = "") -> str:
    """A `run` that takes the definition's inputs (and outputs) and calls `attend` with `arguments`."""
    return f"\n\ndef run({', '.join(inputs)}{outputs}):\n    return attend({arguments}{outputs})\n"


def definition(name: str, op_type: str, axes: dict, inputs: dict, outputs: dict, arguments: str, description: str) -> dict:
    inputs = {**inputs, "sm_scale": {"shape": None, "dtype": "float32"}}
    reference = (HERE / "references" / f"{op_type}.py").read_text() + call(inputs, arguments)
    return {"name": name, "op_type": op_type, "description": description, "axes": axes, "inputs": inputs, "outputs": outputs,
            "constraints": ["len_indptr == batch_size + 1"] if "batch_size" in axes else [], "reference": reference}  # fmt: skip


def last_page(page_size: int) -> str:
    return "kv_last_page_len" if page_size > 1 else "None"


def gqa(kind: str, heads: int, kv_heads: int, dim: int, page_size: int) -> dict:
    decode = kind == "decode"
    rows = "batch_size" if decode else "total_q"
    axes = constants(num_qo_heads=heads, num_kv_heads=kv_heads, head_dim=dim, page_size=page_size)
    axes |= variables(rows, "num_pages", "len_indptr", "num_kv_indices", *(["batch_size"] if page_size > 1 else []))
    caches = {name: tensor("num_pages page_size num_kv_heads head_dim") for name in ("k_cache", "v_cache")}
    starts = {} if decode else {"qo_indptr": tensor("len_indptr", "int32")}
    inputs = {"q": tensor(f"{rows} num_qo_heads head_dim"), **caches, **starts, **page_inputs(page_size)}
    outputs = {"output": tensor(f"{rows} num_qo_heads head_dim"), "lse": tensor(f"{rows} num_qo_heads", "float32")}
    first = "torch.arange(len(kv_indptr))" if decode else "qo_indptr"
    arguments = f"q, k_cache, v_cache, {first}, kv_indptr, kv_indices, {last_page(page_size)}, sm_scale"
    name = f"gqa_paged_{kind}_h{heads}_kv{kv_heads}_d{dim}_ps{page_size}"
    return definition(name, "gqa_paged", axes, inputs, outputs, arguments, f"GQA {kind} over a paged cache; the LSE is base 2")


def mla(heads: int, rank: int, rope: int, page_size: int) -> dict:
    axes = constants(num_qo_heads=heads, head_dim_ckv=rank, head_dim_kpe=rope, page_size=page_size)
    axes |= variables("batch_size", "num_pages", "len_indptr", "num_kv_indices")
    inputs = {
        "q_nope": tensor("batch_size num_qo_heads head_dim_ckv"), "q_pe": tensor("batch_size num_qo_heads head_dim_kpe"),
        "ckv_cache": tensor("num_pages page_size head_dim_ckv"), "kpe_cache": tensor("num_pages page_size head_dim_kpe"),
        **page_inputs(page_size),
    }  # fmt: skip
    outputs = {"output": tensor("batch_size num_qo_heads head_dim_ckv"), "lse": tensor("batch_size num_qo_heads", "float32")}
    arguments = f"q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, {last_page(page_size)}, sm_scale"
    name = f"mla_paged_decode_h{heads}_ckv{rank}_kpe{rope}_ps{page_size}"
    return definition(name, "mla_paged", axes, inputs, outputs, arguments, "MLA decode in the latent space; the LSE is base 2")


def definitions() -> list[dict]:
    found = [gqa(kind, *shape, page_size) for kind in ("decode", "prefill_causal") for shape in GQA_SHAPES for page_size in PAGE_SIZES]
    return found + [mla(*shape, page_size) for shape in MLA_SHAPES for page_size in PAGE_SIZES]


def solution(of: dict) -> dict:
    """Sextant's, destination passing: the outputs are its last arguments."""
    op_type, inputs = of["op_type"], of["inputs"]
    last = "kv_last_page_len" if "kv_last_page_len" in inputs else "None"
    if op_type == "gqa_paged":
        first = "qo_indptr" if "qo_indptr" in inputs else "None"
        arguments = f"q, k_cache, v_cache, {first}, kv_indptr, kv_indices, {last}, sm_scale"
    else:
        arguments = f"q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, {last}, sm_scale"
    sources = {name: (HERE / "solutions" / name).read_text() for name in ("paged_batch.py", f"{op_type}.py")}
    sources["main.py"] = f"from .{op_type} import attend{call(inputs, arguments, ', output, lse')}"
    return {
        "name": f"sextant_{of['name']}", "definition": of["name"], "author": AUTHOR,
        "description": "Sextant's tuned backend; needs the package `sextant`.",
        "spec": {"language": "python", "target_hardware": ["cpu", "cuda"], "entry_point": "main.py::run", "dependencies": ["sextant"],
                 "destination_passing_style": True},
        "sources": [{"path": path, "content": content} for path, content in sources.items()],
    }  # fmt: skip


def lengths_of(name: str) -> list[tuple[str, list[int], list[int]]]:
    """Workloads: a name, new tokens and keys of each request."""
    if "decode" in name:
        return [("1x8192", [1], [8192]), ("64x4096", [1] * 64, [4096] * 64), ("64_ragged", [1] * 64, [64 * (i + 1) + i for i in range(64)])]
    return [("4096", [4096], [4096]), ("3616_of_20000", [3616], [20000]), ("8_mixed", [512, 1, 300, 64] * 2, [512, 2048, 1300, 9000] * 2)]


def integers(of: dict, query_lens: list[int], seq_lens: list[int], seed: int) -> tuple[dict, dict]:
    """Axes and index tensors of a workload: pages in random order, no page twice."""
    import torch

    page_size = of["axes"]["page_size"]["value"]
    pages = torch.tensor([-(-n // page_size) for n in seq_lens])
    starts = lambda counts: torch.cat([torch.zeros(1), counts.cumsum(0)]).int()  # noqa: E731
    total = int(pages.sum())
    made = {
        "qo_indptr": starts(torch.tensor(query_lens)), "kv_indptr": starts(pages),
        "kv_indices": torch.randperm(total, generator=torch.Generator().manual_seed(seed)).int(),
        "kv_last_page_len": torch.tensor([(n - 1) % page_size + 1 for n in seq_lens]).int(),
    }  # fmt: skip
    axes = {"batch_size": len(seq_lens), "total_q": sum(query_lens), "num_pages": total, "len_indptr": len(seq_lens) + 1, "num_kv_indices": total}
    return {name: value for name, value in axes.items() if name in of["axes"]}, {n: t for n, t in made.items() if n in of["inputs"]}


def scale(of: dict) -> float:
    axes = of["axes"]
    return 192**-0.5 if of["op_type"] == "mla_paged" else axes["head_dim"]["value"] ** -0.5


def write_workloads(of: dict, out: Path) -> None:
    from safetensors.torch import save_file

    rows = []
    for name, query_lens, seq_lens in lengths_of(of["name"]):
        axes, tensors = integers(of, query_lens, seq_lens, seed=len(rows))
        uuid = f"{of['name']}_{name}"
        path = Path("blob", "workloads", f"{uuid}.safetensors")
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(out / path))
        inputs = {n: {"type": "random"} for n in of["inputs"]} | {n: {"type": "safetensors", "path": str(path), "tensor_key": n} for n in tensors}
        inputs["sm_scale"] = {"type": "scalar", "value": scale(of)}
        rows.append({"definition": of["name"], "workload": {"uuid": uuid, "axes": axes, "inputs": inputs}, "solution": None, "evaluation": None})
    target = out / "workloads" / of["op_type"] / f"{of['name']}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write(out: Path) -> None:
    for of in definitions():
        found = solution(of)
        places = {Path("definitions", of["op_type"], f"{of['name']}.json"): of,
                  Path("solutions", AUTHOR, of["op_type"], of["name"], f"{found['name']}.json"): found}  # fmt: skip
        for path, content in places.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_text(json.dumps(content, indent=2) + "\n")
        write_workloads(of, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder, made if it is not there")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
