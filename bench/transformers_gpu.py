"""A Llama-3.1-8B shape with random weights through transformers on one GPU: sdpa beside Sextant's PagedCache in
`generate`, and continuous batching. Texts are compared first, on a small model in fp32.

    python bench/transformers_gpu.py                     # NVIDIA GPU of 40 GiB or more, about 100 s of it
    python bench/transformers_gpu.py --device cpu --tiny # tries the script itself

Aims: `generate` never slower than sdpa, 1.3 times faster from 8 requests or 8k tokens on; continuous batching three
times sdpa's. Prints one line a figure; --json FILE writes them too.
"""

import argparse
import gc
import inspect
import json
import time
import traceback

import torch
import transformers

import sextant
import sextant.transformers as st

# requests, tokens of each prompt, and whether 1.3 times is the aim
LARGE = ((32, 512, 1.3), (8, 2048, 1.3), (1, 8192, 1.3), (1, 2048, 1.0))
TINY = ((3, 20, 1.3), (1, 40, 1.0))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers")
    parser.add_argument("--backend", default="ROCM_AITER_FA")
    parser.add_argument("--tokens", type=int, default=24, help="new tokens whose time is taken")
    parser.add_argument("--seconds", type=float, default=90, help="what would begin later is left out")
    parser.add_argument("--skip", default="", help="of texts,generate,batching, by commas")
    parser.add_argument("--json", default="")
    return parser.parse_args()


def config_of(tiny: bool) -> transformers.LlamaConfig:
    if tiny:
        sizes = dict(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2)  # fmt: skip
    else:
        sizes = dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                     num_attention_heads=32, num_key_value_heads=8)  # fmt: skip
    return transformers.LlamaConfig(**sizes, max_position_embeddings=16384, rope_theta=500000.0,
                                    pad_token_id=0, bos_token_id=1, eos_token_id=None)  # fmt: skip


def random_model(config: transformers.LlamaConfig, device: str, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    return model


def prompts(requests: int, length: int, vocabulary: int, device: str) -> torch.Tensor:
    return torch.randint(3, vocabulary, (requests, length), generator=torch.Generator().manual_seed(1)).to(device)


class Way:
    """sdpa with transformers' cache, or Sextant with ours."""

    def __init__(self, model: torch.nn.Module, name: str, implementation: str, graphs: bool) -> None:
        self.model, self.name, self.implementation, self.graphs = model, name, implementation, graphs
        self.cache = None

    def begin(self, tokens: int) -> None:
        self.model.set_attn_implementation(self.implementation)
        self.cache = st.PagedCache(self.model.config, max_tokens=tokens, block_size=16) if self.graphs else None

    def generate(self, ids: torch.Tensor, tokens: int) -> torch.Tensor:
        kept = {}
        if self.cache is not None:
            self.cache.reset()
            kept = {"past_key_values": self.cache}
        return self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
                                   min_new_tokens=tokens, do_sample=False, pad_token_id=0, **kept)  # fmt: skip

    def seconds(self, ids: torch.Tensor, tokens: int) -> float:
        synchronize(ids)
        start = time.perf_counter()
        self.generate(ids, tokens)
        synchronize(ids)
        return time.perf_counter() - start


def synchronize(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def ways_of(model: torch.nn.Module, backend: str) -> "list[Way]":
    st.use_cuda_graphs(model)
    return [Way(model, "sdpa", "sdpa", False), Way(model, "PagedCache", st.implementation_name(backend), True)]


def compare_texts(options: argparse.Namespace) -> dict:
    """Greedy text of both in fp32, where it must be the same, and of continuous batching."""
    model = random_model(config_of(True), options.device, torch.float32)
    ids = prompts(5, 37, 256, options.device)
    texts = {}
    for way in ways_of(model, options.backend):
        way.begin(37 + 40)
        texts[way.name] = way.generate(ids, 40)[:, 37:].tolist()
    for name, implementation in (("batched sdpa", "sdpa"), ("batched", st.implementation_name(options.backend))):
        texts[name], _, _ = batched(model, implementation, ids, 40, 256)
    return {name: text == texts["sdpa"] for name, text in texts.items()}


def measure_generate(options: argparse.Namespace, model: torch.nn.Module, ends: float) -> "list[dict]":
    rows = []
    for requests, length, aim in TINY if options.tiny else LARGE:
        if time.perf_counter() > ends:
            print(f"left out, out of time: generate {requests} x {length}")
            continue
        ids = prompts(requests, length, model.config.vocab_size, options.device)
        found: "dict[str, tuple[float, float]]" = {}
        for way in ways_of(model, options.backend):
            way.begin(length + options.tokens + 8)
            way.generate(ids, 4)  # warm; captures the graph
            prefill = min(way.seconds(ids, 1) for _ in range(2))
            whole = min(way.seconds(ids, 1 + options.tokens) for _ in range(2))
            found[way.name] = prefill, (whole - prefill) / options.tokens
            captured = getattr(way.cache, "graphs", {}).values()
            way.cache = None
            release()
        (p0, d0), (p1, d1) = found["sdpa"], found["PagedCache"]
        row = dict(case=f"generate {requests} x {length}", prefill_ms=[p0 * 1e3, p1 * 1e3], token_ms=[d0 * 1e3, d1 * 1e3],
                   decode_ratio=d0 / d1, prefill_ratio=p0 / p1, aim=aim)  # fmt: skip
        print(f"{row['case']:22} prefill {p0 * 1e3:8.1f} -> {p1 * 1e3:8.1f} ms ({p0 / p1:.2f})   "
              f"a token {d0 * 1e3:7.2f} -> {d1 * 1e3:7.2f} ms ({d0 / d1:.2f}, aim {aim})   "
              f"graphs {sum(not isinstance(graph, str) for graph in captured)}", flush=True)  # fmt: skip
        rows.append(row)
    return rows


def batching_settings(page_size: int, **settings: object) -> object:
    """Of this transformers: older ones say block_size for page_size, and lack some of the others."""
    kind = transformers.ContinuousBatchingConfig
    known = inspect.signature(kind).parameters
    settings["page_size" if "page_size" in known else "block_size"] = page_size
    return kind(**{name: value for name, value in settings.items() if name in known})


def batched(model: torch.nn.Module, implementation: str, ids: torch.Tensor, tokens: int, page: int) -> tuple:
    """The texts of `generate_batch`, tokens a second, and layers of decode steps that ran outside a graph."""
    model.set_attn_implementation(implementation)
    settings = batching_settings(
        page_size=page, num_blocks=len(ids) * (-(-(ids.shape[1] + tokens) // page) + 2), auto_switch_to_flash=False,
        max_batch_tokens=max(4096, ids.shape[1]), allow_block_sharing=False,
    )  # fmt: skip
    generation = transformers.GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=-1)
    calls, attend = [], st.attend_in_blocks
    st.attend_in_blocks = lambda *a: calls.append(1) or attend(*a)
    try:
        results = model.generate_batch(inputs=ids.tolist(), generation_config=generation, progress_bar=False,
                                       continuous_batching_config=settings)  # fmt: skip
    finally:
        st.attend_in_blocks = attend
    # From the first request to the last answer: what is captured before is not counted.
    seconds = max(r.lifespan[1] for r in results.values()) - min(r.created_time for r in results.values())
    errors = {r.error for r in results.values() if getattr(r, "error", None)}
    if errors or len(results) != len(ids):
        raise SystemExit(f"{implementation}: {len(results)} of {len(ids)} requests, errors: {errors}")
    made = {tuple(r.prompt_ids): list(r.generated_tokens) for r in results.values()}
    return [made[tuple(p)] for p in ids.tolist()], len(ids) * tokens / seconds, len(calls)


def measure_batching(options: argparse.Namespace, model: torch.nn.Module, ends: float) -> "list[dict]":
    requests, length, tokens = (4, 20, 12) if options.tiny else (32, 512, 64)
    ids = prompts(requests, length, model.config.vocab_size, options.device)
    speeds = {}
    for name, implementation in (("sdpa", "sdpa"), ("sextant", st.implementation_name(options.backend))):
        if time.perf_counter() > ends:
            print(f"left out, out of time: continuous batching, {name}")
            continue
        batched(model, implementation, ids[:2], 4, 256)  # warm
        _, speeds[name], outside = batched(model, implementation, ids, tokens, 256)
        print(f"generate_batch {requests} x {length} + {tokens}, {name}: {speeds[name]:.0f} tokens/s "
              f"({outside} layers of decode steps outside a graph)", flush=True)  # fmt: skip
        release()
    ratio = speeds["sextant"] / speeds["sdpa"] if len(speeds) == 2 else None
    if ratio:
        print(f"continuous batching: {ratio:.2f} times sdpa's (aim 3)")
    return [dict(case="continuous batching", tokens_per_second=speeds, ratio=ratio, aim=3.0)]


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attempt(results: dict, skipped: str, name: str, part, *arguments) -> None:
    """A part that fails leaves the others their time."""
    if name in skipped.split(","):
        return
    try:
        results[name] = part(*arguments)
    except Exception:
        results[name] = traceback.format_exc()
        print(f"{name} failed:\n{results[name]}", flush=True)
    release()


def main() -> None:
    options = parse()
    began = time.perf_counter()
    ends = began + options.seconds
    print("sextant", sextant.__version__, "torch", torch.__version__, "transformers", transformers.__version__)
    st.register()
    results: dict = {}
    with torch.no_grad():
        attempt(results, options.skip, "texts", compare_texts, options)
        print("the same text as sdpa:", results.get("texts"), flush=True)
        model = random_model(config_of(options.tiny), options.device, torch.float32 if options.tiny else torch.bfloat16)
        print(f"the model is made: {time.perf_counter() - began:.0f} s", flush=True)
        attempt(results, options.skip, "generate", measure_generate, options, model, ends - 25)
        attempt(results, options.skip, "batching", measure_batching, options, model, ends)
    results["seconds"] = time.perf_counter() - began
    print(f"{results['seconds']:.0f} s in all")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
