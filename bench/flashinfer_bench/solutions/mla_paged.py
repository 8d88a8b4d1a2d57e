"""MLA decode in the latent space, through ROCM_AITER_MLA.

The backend takes queries before W_UK and gives outputs after W_UV, so kv_b_proj is made of identities: two products more
than the op itself needs, exact in every type. It reads latents as rows of [ckv | kpe]; two caches that are no such rows
already are copied into some. An engine that keeps Sextant's cache pays for neither.
"""

import torch

import sextant

from .paged_batch import block_table, host_lengths, planned, write_lse

BACKEND = "ROCM_AITER_MLA"
_identities = {}


def identities(heads, rank, like):
    key = (heads, rank, like.dtype, str(like.device))
    if key not in _identities:
        one = torch.eye(rank, dtype=like.dtype, device=like.device)
        _identities[key] = torch.cat([one, one]).repeat(heads, 1)  # per head first k_nope rows, then v rows
    return _identities[key]


def latent_rows(ckv_cache, kpe_cache):
    """[pages, page_size, rank + rope]: the memory itself where the two caches are parts of such rows, else a copy."""
    rank, rope = ckv_cache.shape[-1], kpe_cache.shape[-1]
    beside = kpe_cache.data_ptr() - ckv_cache.data_ptr() == rank * ckv_cache.element_size()
    rows = ckv_cache.stride() == kpe_cache.stride() == (ckv_cache.shape[1] * (rank + rope), rank + rope, 1)
    if beside and rows:
        return ckv_cache.as_strided((*ckv_cache.shape[:2], rank + rope), ckv_cache.stride())
    return torch.cat([ckv_cache, kpe_cache], -1)


def attend(q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale, output, lse):
    (num_rows, heads, rank), rope = q_nope.shape, q_pe.shape[-1]
    num_pages, page_size = ckv_cache.shape[:2]
    seq_lens, pages = host_lengths(kv_indptr, kv_last_page_len, page_size)
    spec = sextant.AttentionSpec.mla(
        num_heads=heads, kv_lora_rank=rank, qk_nope_head_dim=rank, qk_rope_head_dim=rope, v_head_dim=rank,
        softmax_scale=float(sm_scale), dtype=str(q_nope.dtype).removeprefix("torch."),
    )  # fmt: skip
    columns = max([1, *pages])
    starts = list(range(num_rows + 1))
    plan, query_start_loc, lengths = planned(BACKEND, spec, spec.latent_cache(num_pages, page_size), starts, seq_lens, columns, q_nope.device)
    natural = torch.empty((heads, num_rows), dtype=torch.float32, device=q_nope.device)
    plan.run(  # kv_c and k_pe are asked for and, in a decode over a cache that holds all keys, not read
        q=torch.cat([q_nope, q_pe], -1), kv_c=q_nope[:, 0], k_pe=q_pe[:, 0], out=output, lse=natural, k_cache=latent_rows(ckv_cache, kpe_cache),
        kv_b_proj=identities(heads, rank, q_nope), query_start_loc=query_start_loc, seq_lens=lengths,
        block_table=block_table(kv_indptr, kv_indices, columns),
    )  # fmt: skip
    write_lse(lse, natural)
