"""Multi-head latent attention in the latent space over a paged cache, one request after the other, in fp32."""

import torch


def attend(q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale):
    page_size = ckv_cache.shape[1]
    output = torch.zeros_like(q_nope)
    lse = torch.full(q_nope.shape[:2], -torch.inf, device=q_nope.device)
    for b in range(len(kv_indptr) - 1):
        pages = kv_indices[kv_indptr[b] : kv_indptr[b + 1]].long()
        if len(pages) == 0:
            continue
        last = page_size if kv_last_page_len is None else int(kv_last_page_len[b])
        length = (len(pages) - 1) * page_size + last
        latent = ckv_cache[pages].flatten(0, 1)[:length].float()  # keys without positions, and the values
        rope = kpe_cache[pages].flatten(0, 1)[:length].float()
        scores = (q_nope[b].float() @ latent.T + q_pe[b].float() @ rope.T) * sm_scale
        log_sum = torch.logsumexp(scores, -1)
        output[b] = (torch.exp(scores - log_sum[:, None]) @ latent).to(output.dtype)
        lse[b] = log_sum / torch.log(torch.tensor(2.0))  # base 2
    return output, lse
