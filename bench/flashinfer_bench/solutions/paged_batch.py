"""FlashInfer's page lists as Sextant's block tables."""

import torch

import sextant
from sextant.torch import device_name

LOG2_E = 1.4426950408889634  # Sextant's LSE is natural, flashinfer-bench's is base 2
_plans = {}


def host_lengths(kv_indptr, kv_last_page_len, page_size):
    """seq_lens and pages of each request, on the host: one copy, since plans are made there."""
    last = torch.full_like(kv_indptr[1:], page_size) if kv_last_page_len is None else kv_last_page_len
    pages, last = torch.stack([kv_indptr[1:] - kv_indptr[:-1], last]).tolist()
    return [max(0, (n - 1) * page_size + rest) for n, rest in zip(pages, last)], pages


def block_table(kv_indptr, kv_indices, columns):
    """[B, columns] int32 on the device; entries past a request's last page name page 0, which nobody reads there."""
    column = torch.arange(columns, device=kv_indptr.device, dtype=torch.int32)
    place = kv_indptr[:-1, None] + column
    inside = place < kv_indptr[1:, None]
    place = place.clamp(max=max(0, len(kv_indices) - 1)).long()
    return torch.where(inside, kv_indices[place] if len(kv_indices) else place, 0).to(torch.int32)


def planned(backend, spec, cache, query_start_loc, seq_lens, columns, device):
    """A plan for these lengths; kept, because a benchmark asks for the same ones again."""
    key = (backend, spec, cache, tuple(query_start_loc), tuple(seq_lens), columns, str(device))
    if key not in _plans:
        if len(_plans) >= 64:
            _plans.clear()
        plan = sextant.plan(
            backend, spec, cache, query_start_loc=query_start_loc, seq_lens=seq_lens, max_blocks_per_request=columns,
            device=device_name(device), lse_out=True,
        )  # fmt: skip
        integers = dict(dtype=torch.int32, device=device)
        _plans[key] = plan, torch.tensor(query_start_loc, **integers), torch.tensor(seq_lens, **integers)
    return _plans[key]


def write_lse(lse, natural):
    """natural [heads, T] -> lse [T, heads], base 2."""
    torch.mul(natural.T, LOG2_E, out=lse)
