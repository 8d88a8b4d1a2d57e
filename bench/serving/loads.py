"""What is sent to the server: lengths and token ids of each kind of load, the same for every backend."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    prompt: "list[int]"
    new_tokens: int


@dataclass(frozen=True)
class Load:
    """A closed loop: `concurrency` requests are always under way, until all are done or the time is up."""

    name: str
    requests: int
    concurrency: int
    prompt_len: int  # mean
    new_tokens: int  # mean
    spread: float = 0.0  # lengths are uniform in mean * (1 -+ spread)
    mooncake: bool = False  # lengths and shared prefixes drawn as below instead

    @property
    def max_len(self) -> int:
        return _LONGEST if self.mooncake else int((self.prompt_len + self.new_tokens) * (1 + self.spread)) + 16


_LONGEST = 32768  # of a mixed request

LOADS = {
    "prefill": Load("prefill", 96, 16, 10000, 1000),
    "decode": Load("decode", 512, 128, 512, 1024, spread=0.5),
    "mixed": Load("mixed", 256, 48, 7000, 180, mooncake=True),
    "long": Load("long", 16, 4, 100000, 256),
}


def lengths(load: Load, rng: random.Random) -> "tuple[int, int]":
    """Prompt and new tokens of one request.

    Mixed: log-normal, near the means of Mooncake's conversation trace (7.6k in, 180 out).
    """
    if load.mooncake:
        prompt = int(rng.lognormvariate(8.4, 0.9))
        new = int(rng.lognormvariate(4.9, 0.8))
        return min(max(prompt, 64), _LONGEST - 1200), min(max(new, 4), 1024)
    stretch = lambda mean: max(1, int(mean * rng.uniform(1 - load.spread, 1 + load.spread)))  # noqa: E731
    return stretch(load.prompt_len), stretch(load.new_tokens)


def requests(load: Load, vocab: int, seed: int = 0, count: int = 0) -> "list[Request]":
    """The load's requests.

    Mixed: half of them go on with an earlier one's prompt, as turns of a conversation do, others share one of four
    openings.
    """
    rng = random.Random(f"{load.name} {seed}")
    ids = lambda n: [rng.randrange(3, vocab) for _ in range(n)]  # noqa: E731
    openings = [ids(512) for _ in range(4)]
    made: list[Request] = []
    for _ in range(count or load.requests):
        prompt_len, new = lengths(load, rng)
        start: list[int] = []
        if load.mooncake:
            start = rng.choice(made).prompt if made and rng.random() < 0.5 else rng.choice(openings)
        start = start[: prompt_len - 1]
        made.append(Request(start + ids(prompt_len - len(start)), new))
    return made


def comparison(vocab: int, seed: int = 7) -> "list[Request]":
    """Short and long prompts, whose greedy tokens are compared before anything is measured."""
    rng = random.Random(seed)
    return [Request([rng.randrange(3, vocab) for _ in range(n)], 32) for n in (5, 17, 64, 130, 511, 1024, 2500, 5000)]
