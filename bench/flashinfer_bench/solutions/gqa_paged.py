"""GQA decode and causal prefill over a paged cache, through ROCM_AITER_UNIFIED_ATTN: the keys are read where they lie."""

import torch

import sextant

from .paged_batch import block_table, host_lengths, planned, write_lse

BACKEND = "ROCM_AITER_UNIFIED_ATTN"


def attend(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, kv_last_page_len, sm_scale, output, lse):
    num_pages, page_size, num_kv_heads, head_dim = k_cache.shape
    seq_lens, pages = host_lengths(kv_indptr, kv_last_page_len, page_size)
    starts = list(range(len(seq_lens) + 1)) if qo_indptr is None else qo_indptr.tolist()
    dtype = str(q.dtype).removeprefix("torch.")
    spec = sextant.AttentionSpec(q.shape[1], num_kv_heads, head_dim, softmax_scale=float(sm_scale), dtype=dtype)
    cache = sextant.KvCacheSpec(num_pages, page_size, num_kv_heads, head_dim, dtype, layout="NHD")
    columns = max([1, *pages])
    plan, query_start_loc, lengths = planned(BACKEND, spec, cache, starts, seq_lens, columns, q.device)
    natural = torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device=q.device)
    plan.run(
        q=q, out=output, lse=natural, k_cache=k_cache, v_cache=v_cache, query_start_loc=query_start_loc, seq_lens=lengths,
        block_table=block_table(kv_indptr, kv_indices, columns),
    )  # fmt: skip
    write_lse(lse, natural)
