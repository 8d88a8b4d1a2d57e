"""Cases drawn from a declared space: batches of requests of any lengths, so that no row is chosen because it looks well.

    python bench/peers/grid.py --random 60 --seed 1 > cases.json   # for cuda_bench --cases
"""

import argparse
import json
import random
from dataclasses import asdict, dataclass, field

HEADS = ((8, 1), (16, 2), (32, 8), (32, 8), (32, 32), (16, 16), (40, 8), (64, 8), (64, 4), (128, 8))
HEAD_DIMS = (128,) * 6 + (64,) * 3 + (256,) * 2 + (40, 80, 96, 112, 160, 192, 224)
PAGES = (16, 16, 16, 1, 8, 32, 48, 64, 128, 256)
FORMATS = (("bf16", "bf16", "bf16"),) * 5 + (("bf16", "bf16", "fp8"),) * 2 + (("bf16", "fp8", "fp8"),)  # dtype, q, kv
BYTES = {"fp8": 1.0, "fp8_e5m2": 1.0, "bf16": 2.0, "fp16": 2.0, "fp32": 4.0}
KINDS = ("decode", "tokens", "extend", "prefill", "short", "ragged decode", "ragged extend", "mixed", "mla decode", "mla prefill")


@dataclass(frozen=True)
class GridCase:
    name: str
    kind: str
    query_lens: tuple
    kv_lens: tuple  # new tokens included
    num_heads: int
    num_kv_heads: int
    head_dim: int = 128
    head_dim_v: int = 128
    page: int = 16
    kv: str = "bf16"  # or "fp8"
    q: str = "bf16"
    dtype: str = "bf16"  # of the output, and of the queries that are not fp8
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    tags: tuple = field(default=(), compare=False)

    @property
    def latent(self):
        return self.kind == "mla decode"

    @property
    def packed(self):
        return self.kind == "mla prefill"

    @property
    def flops(self):
        pairs = 0
        for q, n in zip(self.query_lens, self.kv_lens):
            window = self.window or 1 << 60
            partial = min(max(window - 1 - (n - q), 0), q)
            pairs += partial * (n - q) + partial * (partial + 1) / 2 + (q - partial) * min(window, n)
        return 2.0 * (self.head_dim + self.head_dim_v) * self.num_heads * pairs

    @property
    def kv_bytes(self):
        width = self.head_dim if self.latent else self.num_kv_heads * (self.head_dim + self.head_dim_v)
        return BYTES[self.kv] * sum(self.kv_lens) * width


def log_uniform(r, low, high):
    return int(round(low * (high / low) ** r.random()))


def _lengths(r, kind):
    """(query_lens, kv_lens) of a batch."""
    if kind == "prefill":
        n = log_uniform(r, 1024, 32768)
        return (n,), (n,)
    if kind == "extend":
        q, context = log_uniform(r, 128, 8192), log_uniform(r, 1024, 65536)
        return (q,), (q + context,)
    if kind == "short":
        batch, n = log_uniform(r, 8, 512), log_uniform(r, 32, 1024)
        return (n,) * batch, (n,) * batch
    if kind == "ragged extend":
        batch = log_uniform(r, 4, 24)
        q = [log_uniform(r, 16, 2048) for _ in range(batch)]
        return tuple(q), tuple(x + log_uniform(r, 1, 16384) for x in q)
    if kind == "mixed":
        batch, n = log_uniform(r, 8, 128), log_uniform(r, 512, 8192)
        decodes = [log_uniform(r, 64, 16384) for _ in range(batch)]
        return (1,) * batch + (n,), tuple(decodes) + (n + r.choice((0, 0, 4096)),)
    batch = log_uniform(r, 1, 512)
    if kind == "ragged decode" or (kind == "mla decode" and r.random() < 0.4):
        return (1,) * batch, tuple(log_uniform(r, 32, 32768) for _ in range(batch))
    query_len = r.randint(2, 8) if kind == "tokens" else r.choice((1, 1, 2)) if kind == "mla decode" else 1
    n = max(query_len, log_uniform(r, 32, 131072))
    return (query_len,) * batch, (n,) * batch


@dataclass(frozen=True)
class Space:
    """What is drawn from. What is too large for the memory or for the time of a run is drawn again."""

    lengths: object = _lengths
    formats: tuple = FORMATS
    pages: tuple = PAGES
    mla_page: int = 64
    max_cache_bytes: float = 8e9
    max_flops: float = 3e13
    max_tokens: int = 1 << 16


GPU = Space()


def _draw(r, kind, space):
    query_lens, kv_lens = space.lengths(r, "prefill" if kind == "mla prefill" else kind)
    values = {"kind": kind, "query_lens": query_lens, "kv_lens": kv_lens}
    tags = [kind]
    if kind == "mla decode":
        values.update(num_heads=r.choice((16, 16, 64, 128, 128)), num_kv_heads=1, head_dim=576, head_dim_v=512, page=space.mla_page)
        values["kv"] = r.choice(("bf16", "bf16", "fp8"))
        if values["kv"] == "fp8" and any(q == "fp8" for _, q, _ in space.formats):
            own = random.Random(f"{query_lens} {kv_lens} {values['num_heads']}")  # `r` gives the cases behind this one what it always gave
            values["q"] = own.choice(("bf16", "fp8"))
        tags += [f"h{values['num_heads']}"]
    elif kind == "mla prefill":
        heads = r.choice((16, 32, 128))
        values.update(num_heads=heads, num_kv_heads=heads, head_dim=192, head_dim_v=128, page=0)
    else:
        heads, dim = r.choice(HEADS), r.choice(HEAD_DIMS)
        values.update(num_heads=heads[0], num_kv_heads=heads[1], head_dim=dim, head_dim_v=dim, page=r.choice(space.pages))
        values["dtype"], values["q"], values["kv"] = r.choice(space.formats)
        values["window"] = r.choice((0, 0, 0, 128, 1024))
        values["softcap"] = r.choice((0.0, 0.0, 0.0, 0.0, 30.0))
        values["sinks"] = r.choice((False, False, True))
        tags += [f"D{dim}", f"page {values['page']}"]
        tags += [name for name, has in (("window", values["window"]), ("softcap", values["softcap"]), ("sinks", values["sinks"])) if has]
    if values.get("dtype", "bf16") != "bf16":
        tags.append(values["dtype"])
    if values.get("kv", "").startswith("fp8"):
        tags.append("fp8 queries" if values.get("q") == "fp8" else "fp8 cache")
    return named(GridCase(name="", tags=tuple(tags), **values))


def named(case):
    lengths = f"B{len(case.kv_lens)} q{max(case.query_lens)} kv{min(case.kv_lens)}..{max(case.kv_lens)}"
    name = f"{lengths} {case.num_heads}/{case.num_kv_heads} {' '.join(case.tags)}"
    return GridCase(**{**case.__dict__, "name": name})


def draw_cases(count, seed, space=GPU, kinds=KINDS):
    """`count` cases; `kinds` take turns."""
    r, cases = random.Random(seed), []
    while len(cases) < count:
        case = _draw(r, kinds[len(cases) % len(kinds)], space)
        if case.kv_bytes <= space.max_cache_bytes and case.flops <= space.max_flops and sum(case.query_lens) <= space.max_tokens:
            cases.append(case)
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=60, help="so many cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of the cases, comma-separated")
    args = parser.parse_args()
    print(json.dumps([asdict(case) for case in draw_cases(args.random, args.seed, kinds=args.kinds.split(","))], indent=1))


if __name__ == "__main__":
    main()
