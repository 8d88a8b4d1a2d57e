"""A client's program, checked by `mypy --strict` in test_typing.py and run there too."""

import numpy as np
import numpy.typing as npt

import sextant


def decode() -> "npt.NDArray[np.float32]":
    spec = sextant.AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, softmax_scale=0.35, dtype="fp32")
    cache = sextant.KvCacheSpec(num_blocks=4, block_size=4, num_kv_heads=2, head_dim=8, dtype="fp32")
    selection: sextant.Selection = sextant.select(spec, cache)
    reasons: list[str] = [reason for candidate in selection.candidates for reason in candidate.reasons]
    assert reasons
    k_shape, v_shape, layout = sextant.cache_shape(cache, selection.chosen)
    assert layout.upper() == layout or layout
    query_start_loc, seq_lens = np.array([0, 1], np.int32), np.array([1], np.int32)
    block_table, slot_mapping = np.array([[2]], np.int32), np.array([8], np.int64)
    plan: sextant.Plan = sextant.plan(selection.chosen, spec, cache, query_start_loc=[0, 1], seq_lens=seq_lens, block_table=[[2]])
    out = np.empty((1, 4, 8), np.float32)
    plan.run(
        q=np.ones((1, 4, 8), np.float32), k=np.ones((1, 2, 8), np.float32), v=np.full((1, 2, 8), 3, np.float32), out=out,
        k_cache=np.zeros(k_shape, np.float32), v_cache=np.zeros(v_shape, np.float32), query_start_loc=query_start_loc, seq_lens=seq_lens,
        block_table=block_table, slot_mapping=slot_mapping,
    )  # fmt: skip
    return out


def refused() -> str:
    try:
        sextant.select(sextant.AttentionSpec(4, 3, 8, 0.35), sextant.KvCacheSpec(4, 4, 3, 8))
    except sextant.SextantError as error:
        code: str = error.code
        return code
    return ""


if __name__ == "__main__":
    print(decode().max(), refused())
