"""Grouped-query attention over a paged cache, one request after the other, in fp32."""

import torch


def keys_of(cache, pages, length):
    """The first `length` tokens that lie in `pages`: [length, heads, width]."""
    return cache[pages.long()].flatten(0, 1)[:length].float()


def attend(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, kv_last_page_len, sm_scale):
    page_size, num_kv_heads = k_cache.shape[1:3]
    output = torch.zeros_like(q)
    lse = torch.full(q.shape[:2], -torch.inf, device=q.device)
    for b in range(len(kv_indptr) - 1):
        pages = kv_indices[kv_indptr[b] : kv_indptr[b + 1]]
        rows = slice(int(qo_indptr[b]), int(qo_indptr[b + 1]))
        num_rows = rows.stop - rows.start
        if len(pages) == 0 or num_rows == 0:
            continue
        last = page_size if kv_last_page_len is None else int(kv_last_page_len[b])
        length = (len(pages) - 1) * page_size + last
        k, v = keys_of(k_cache, pages, length), keys_of(v_cache, pages, length)
        grouped = q[rows].float().unflatten(1, (num_kv_heads, -1))  # [rows, KV heads, group, head size]
        scores = torch.einsum("rhgd,khd->rhgk", grouped, k) * sm_scale
        # The last query is the newest token: row i sees keys up to length - num_rows + i.
        position = torch.arange(length - num_rows, length, device=q.device)
        hidden = torch.arange(length, device=q.device) > position[:, None]
        scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
        log_sum = torch.logsumexp(scores, -1)
        weights = torch.exp(scores - log_sum[..., None]).nan_to_num(0.0)  # a row that sees nothing
        output[rows] = torch.einsum("rhgk,khd->rhgd", weights, v).flatten(1, 2).to(q.dtype)
        lse[rows] = log_sum.flatten(1, 2) / torch.log(torch.tensor(2.0))  # base 2
    return output, lse
