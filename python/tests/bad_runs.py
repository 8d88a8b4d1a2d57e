"""One list of runs that must be refused with nothing written, for every door that takes arrays: NumPy, torch, the custom op.

Each: what is wrong, the changed arguments of a `test_api.Step` run, and what the error says. `lambda step: value` where the good array is needed.
"""

import numpy as np


def _at(name, index, value):
    def changed(step):
        array = step.arguments()[name].copy()
        array[index] = value
        return array

    return changed


def _strided(name, strides):
    """The array with other strides, in elements: numbers at one place, or apart."""

    def changed(step):
        array = step.arguments()[name]
        return np.lib.stride_tricks.as_strided(array, strides=[4 * stride for stride in strides])

    return changed


def _odd(name):
    """A copy one byte further on in memory."""

    def changed(step):
        array = step.arguments()[name]
        memory = np.zeros(array.nbytes + 8, np.uint8)
        memory[1 : 1 + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        return memory[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)

    return changed


def _within(name, elements, shape):
    """Another tensor's memory."""
    return lambda step: getattr(step, name).reshape(-1)[:elements].reshape(shape)


BAD_RUNS = [
    ("a block id past the cache", {"block_table": _at("block_table", (0, 2), 91)}, r"block_table\[0\]\[2\] is 91; allowed: 0..3"),
    ("a negative block id", {"block_table": _at("block_table", (0, 0), -1)}, r"block_table\[0\]\[0\] is -1; allowed: 0..3"),
    ("a slot past the cache", {"slot_mapping": _at("slot_mapping", 1, 16)}, r"slot_mapping\[1\] is 16; allowed: < 16"),
    ("a slot twice", {"slot_mapping": _at("slot_mapping", 1, 12)}, "allowed: a slot of its own"),
    ("another length", {"seq_lens": _at("seq_lens", 0, 10)}, r"seq_lens\[0\] is 10"),
    ("a negative length", {"seq_lens": _at("seq_lens", 0, -1)}, r"seq_lens\[0\] is -1; allowed: >= 0"),
    ("other queries", {"query_start_loc": _at("query_start_loc", 1, 2)}, "query_start_loc ends with 2; allowed: 3, as planned"),
    ("too few lengths", {"seq_lens": lambda step: step.arguments()["seq_lens"][:0]}, "seq_lens has 0 elements"),
    ("too few slots", {"slot_mapping": lambda step: step.arguments()["slot_mapping"][:2]}, "slot_mapping has 2 elements"),
    ("a narrow block_table", {"block_table": lambda step: step.arguments()["block_table"][:, :1].copy()}, "block_table"),
    ("lengths of another type", {"seq_lens": lambda step: step.arguments()["seq_lens"].astype(np.float32)}, "seq_lens has dtype fp32; allowed: int32"),
    ("q of another type", {"q": lambda step: step.q.astype(np.float16)}, "q has dtype fp16; allowed: fp32"),
    ("q of another shape", {"q": lambda step: step.q.reshape(3, 2, 16)}, r"q is fp32\[3, 2, 16\]; allowed"),
    ("short q", {"q": lambda step: step.q[:2].copy()}, "allowed: at least 3 rows"),
    ("k without v", {"v": None}, "v is absent; allowed: a tensor"),
    ("fewer heads of k", {"k": lambda step: step.arguments()["k"][:, :1].copy()}, r"k is fp32\[3, 1, 8\]; allowed"),
    ("no q", {"q": None}, "q is absent; allowed: a tensor"),
    ("no out", {"out": None}, "out is absent; allowed: a tensor"),
    ("no lse", {"lse": None}, "lse is absent"),
    ("no keys", {"k": None, "v": None}, "k is absent; allowed: a tensor"),
    ("no cache", {"k_cache": None}, "cache.k is null"),
    ("no block_table", {"block_table": None}, "block_table"),
    ("strided q", {"q": lambda step: np.repeat(step.q, 2, axis=-1)[..., ::2]}, "q has last stride 2; allowed: 1"),
    ("rows of out at one place", {"out": _strided("out", (0, 8, 1))}, "give every element a place|elements that share memory"),
    ("heads of out over one another", {"out": _strided("out", (32, 4, 1))}, "give every element a place|elements that share memory"),
    ("odd q", {"q": _odd("q")}, "q is at .*; allowed: a multiple of 4 bytes"),
    ("odd seq_lens", {"seq_lens": _odd("seq_lens")}, "seq_lens is at"),
    ("out in the cache", {"out": _within("k_cache", 96, (3, 4, 8))}, "out overlaps"),
    ("lse in out", {"lse": _within("out", 12, (4, 3))}, "overlaps"),
    ("one memory for both caches", {"v_cache": lambda step: step.k_cache}, "cache.v"),
    ("a token with a key and no slot", {"slot_mapping": _at("slot_mapping", 1, -1)}, r"slot_mapping\[1\] is -1; allowed: a slot, as request 0 has 3"),
    ("a short cache", {"k_cache": lambda step: step.k_cache[:2].copy()}, "k_cache is"),
    ("a short lse", {"lse": lambda step: step.lse[:2].copy()}, "lse"),
]
IDS = [what for what, _, _ in BAD_RUNS]


def arguments(step, changes):
    """The arguments of the step's run with the changes made."""
    return {**step.arguments(), **{name: value(step) if callable(value) else value for name, value in changes.items()}}
