"""Hugging Face transformers: every backend as an attention implementation.

    import sextant.transformers
    sextant.transformers.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="sextant_rocm_aiter_fa")

Continuous batching (`generate_batch`) takes the same names; versions of transformers that ask for "paged|" in front find them under that
name too. MHA, GQA and MQA models take the four MHA backends; DeepSeek-V3 style models take "sextant_triton_mla" and
"sextant_rocm_aiter_mla" as well, which attend in the latent space of the model's own kv_b_proj.

Each call runs the backend over a paged cache: keys that transformers already holds are written to its blocks, the new
tokens go through the backend's own cache write. Sliding windows, softcap, sinks, padding and packed batches are honoured.
"""

from __future__ import annotations

import functools
import inspect
from typing import Optional, Sequence

import torch

from sextant import api
from sextant.errors import SextantUnsupported
from sextant.torch import device_name, dtype_name

_BLOCK_SIZE = 16
MHA_BACKENDS = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")
MLA_BACKENDS = ("TRITON_MLA", "ROCM_AITER_MLA")


def implementation_name(backend: str) -> str:
    """"sextant_rocm_aiter_fa" for "ROCM_AITER_FA"."""
    return "sextant_" + backend.lower()


def register() -> list[str]:
    """Adds every backend to transformers' AttentionInterface, plain and paged. Gives the names."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

    _allow_in_continuous_batching()
    names = []
    for backend in MHA_BACKENDS + MLA_BACKENDS:
        name = implementation_name(backend)
        AttentionInterface.register(name, functools.partial(_forward, backend))
        # The 2-D padding mask (or None), as flash attention takes it: causality and windows are the backend's business.
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, flash_attention_mask)
        names.append(name)
        if backend in MHA_BACKENDS:
            AttentionInterface.register("paged|" + name, functools.partial(_packed_forward, backend))
            ALL_MASK_ATTENTION_FUNCTIONS.register("paged|" + name, flash_attention_mask)
            names.append("paged|" + name)
    return names


def _allow_in_continuous_batching() -> None:
    """transformers 5 lets `generate_batch` run with a fixed list of implementations; ours join it, every other name is its own business."""
    try:
        from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager as Manager
    except ImportError:
        return
    original = getattr(Manager, "switch_to_cb_friendly_attn", None)
    if original is None or hasattr(original, "_sextant"):
        return

    @functools.wraps(original)
    def switch(self, model, *args, **kwargs):
        name = str(model.config._attn_implementation)
        if not name.startswith("sextant_"):
            return original(self, model, *args, **kwargs)
        if name not in map(implementation_name, MHA_BACKENDS):
            allowed = ", ".join(map(implementation_name, MHA_BACKENDS))
            raise SextantUnsupported(f"attn_implementation is {name} in continuous batching; allowed: {allowed}")

    setattr(switch, "_sextant", True)
    setattr(Manager, "switch_to_cb_friendly_attn", switch)


def prepare_mla(model: torch.nn.Module) -> None:
    """Lets the MLA backends see a DeepSeek-style model's latents. Call once, after loading the model."""
    for module in model.modules():
        if hasattr(module, "kv_b_proj") and hasattr(module, "kv_a_layernorm") and not hasattr(module, "_sextant_latents"):
            latents = _Latents()
            setattr(module, "_sextant_latents", latents)
            getattr(module, "kv_a_layernorm").register_forward_hook(functools.partial(_remember_latent, latents))


class _Latents:
    """kv_c of all tokens of the running sequences, [B, S, rank], kept beside transformers' own cache of full keys."""

    def __init__(self):
        self.newest: Optional[torch.Tensor] = None
        self.all: Optional[torch.Tensor] = None

    def up_to(self, length: int) -> torch.Tensor:
        if self.newest is None:
            raise SextantUnsupported("the model's latents are not known; call sextant.transformers.prepare_mla(model) first")
        fresh = self.newest.shape[1]
        if fresh == length:
            self.all = self.newest
        elif self.all is not None and self.all.shape[1] >= length - fresh and self.all.shape[0] == self.newest.shape[0]:
            self.all = torch.cat([self.all[:, : length - fresh], self.newest], dim=1)
        else:
            raise SextantUnsupported(f"{length} keys are cached but the latents of the first {length - fresh} were not seen; allowed: one cache a model")
        return self.all


def _remember_latent(latents: _Latents, module, inputs, output) -> None:
    latents.newest = output.detach()


def _forward(backend, module, query, key, value, attention_mask=None, scaling=None, dropout=0.0, sliding_window=None, softcap=None, s_aux=None,
             **kwargs):
    """query [B, Hq, Sq, D], key [B, Hkv, Sk, D], value [B, Hkv, Sk, Dv] -> [B, Sq, Hq, Dv]."""
    if dropout:
        raise SextantUnsupported(f"dropout is {dropout}; allowed: 0 (Sextant serves, it does not train)")
    if kwargs.get("cache") is not None or kwargs.get("cu_seq_lens_q") is not None or _starts(query, key, attention_mask, kwargs) is not None:
        return _packed_forward(backend, module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, softcap=softcap, s_aux=s_aux,
                               **kwargs)  # fmt: skip
    batch, _, queries, _ = query.shape
    keys = key.shape[2]
    causal = getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"]
    kept = _kept_keys(attention_mask, batch, keys)
    query_rows = [rows[rows >= keys - queries] - (keys - queries) for rows in kept]
    features = _features(module, scaling, causal, sliding_window, softcap, s_aux, query.shape[-1])
    q = torch.cat([query[b].transpose(0, 1)[rows] for b, rows in enumerate(query_rows)])
    query_lens, key_lens = [len(rows) for rows in query_rows], [len(rows) for rows in kept]
    if backend in MLA_BACKENDS:
        latents = _latent_rows(module, key, kept)
        out = _attend_latent(backend, module, q, latents, query_lens, key_lens, features)
    else:
        k = torch.cat([key[b].transpose(0, 1)[rows] for b, rows in enumerate(kept)])
        v = torch.cat([value[b].transpose(0, 1)[rows] for b, rows in enumerate(kept)])
        out = _attend(backend, q, k, v, query_lens, key_lens, features)
    result = query.new_zeros(batch, queries, query.shape[1], out.shape[-1])
    for b, (rows, part) in enumerate(zip(query_rows, out.split(query_lens))):
        result[b, rows] = part
    return result, None


@torch.compiler.disable  # plans are made on the host, from the step's lengths
def _packed_forward(backend, module, query, key, value, attention_mask=None, scaling=None, sliding_window=None, softcap=None, s_aux=None, **kwargs):
    """Sequences in a row: packed queries [1, Hq, T, D] over packed keys, as continuous batching and padding-free batches have them.

    In continuous batching the cache gives every request's keys in a row. Some versions of transformers leave that to the attention implementation and
    pass `cache`; others have done it before.
    """
    if query.shape[0] != 1:
        raise SextantUnsupported(f"query has shape {list(query.shape)} with packed sequences; allowed: batch size 1")
    if backend not in MHA_BACKENDS:
        raise SextantUnsupported(f"the attention implementation is {backend} with packed sequences; allowed: {', '.join(MHA_BACKENDS)}")
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise SextantUnsupported("lengths cannot be read in a CUDA graph capture; allowed: ContinuousBatchingConfig(use_cuda_graph=False)")
    cache = kwargs.pop("cache", None)
    if sliding_window is None:
        sliding_window = getattr(module, "sliding_window", None)
    if cache is not None:
        key, value = _cached(cache, module.layer_idx, key, value, kwargs)
    if kwargs.get("block_table") is not None:
        raise SextantUnsupported("a block table came without its keys; allowed: ContinuousBatchingConfig(max_blocks_per_request=0)")
    if kwargs.get("cu_seq_lens_q") is not None:
        key_starts = kwargs["cu_seq_lens_k"]
        if isinstance(key_starts, dict):  # of the layers with a window, and of the others
            key_starts = key_starts["sliding_attention" if sliding_window else "full_attention"]
        query_lens, key_lens = kwargs["cu_seq_lens_q"].diff().tolist(), key_starts.diff().tolist()
    else:
        starts = _starts(query, key, attention_mask, kwargs)
        query_lens = key_lens = [end - start for start, end in zip(starts, [*starts[1:], query.shape[2]])]
    if s_aux is None:
        s_aux = getattr(module, "sinks", None)
    features = _features(module, scaling, True, sliding_window, softcap, s_aux, query.shape[-1])
    packed = [x[0].transpose(0, 1) for x in (query, key, value)]
    # A window's cache holds fewer keys than the request has tokens; never more queries than keys.
    tokens = sum(query_lens)
    out = query.new_zeros(packed[0].shape[0], packed[0].shape[1], packed[2].shape[-1])
    out[:tokens] = _attend(backend, packed[0][:tokens], packed[1][: sum(key_lens)], packed[2][: sum(key_lens)], query_lens, key_lens, features)
    return out.unsqueeze(0), None


def _cached(cache, layer_idx: int, key, value, kwargs: dict):
    """Writes the step's keys and values to a continuous-batching cache; all that the step attends to, both as [1, Hkv, S, D]."""
    if "kwargs" in inspect.signature(cache.update).parameters:
        return cache.update(key_states=key, value_states=value, layer_idx=layer_idx, kwargs=kwargs)
    if kwargs.get("block_table") is not None:
        raise SextantUnsupported("a block table came without its keys; allowed: ContinuousBatchingConfig(max_blocks_per_request=0)")
    read, write = kwargs["read_index"], kwargs["write_index"]
    rows = cache.update(key_states=key, value_states=value, layer_idx=layer_idx, read_index=read, write_index=write)  # [S, Hkv, D] each
    return tuple(x.transpose(0, 1).unsqueeze(0) for x in rows)


def _starts(query, key, mask, kwargs) -> Optional[list[int]]:
    """First rows of sequences that are packed in one row of a batch: positions begin again at 0. None when there is one sequence."""
    positions = kwargs.get("position_ids")
    if mask is not None or positions is None or positions.dim() != 2 or query.shape[0] != 1 or query.shape[2] != key.shape[2] or positions.shape[1] != query.shape[2]:
        return None
    starts = (positions[0] == 0).nonzero().flatten().tolist()
    return [0, *[at for at in starts if at > 0]] if any(starts) else None


def _kept_keys(mask, batch: int, keys: int) -> list[torch.Tensor]:
    """The key rows of each sequence that are not padding."""
    if mask is None:
        return [torch.arange(keys)] * batch
    if mask.dim() != 2:
        raise SextantUnsupported(f"attention_mask has shape {list(mask.shape)}; allowed: [B, Sk] padding masks")
    return [row.nonzero().flatten() for row in mask[:, -keys:].bool().cpu()]


def _features(module, scaling, causal, window, softcap, sinks, head_dim):
    scale = float(scaling) if scaling is not None else head_dim**-0.5
    return scale, bool(causal), int(window or 0), float(softcap or 0.0), sinks


def _pages(lens: Sequence[int]) -> tuple[torch.Tensor, int]:
    """A block table [B, max_blocks] that gives each sequence blocks of its own, and the number of blocks."""
    blocks = [(n + _BLOCK_SIZE - 1) // _BLOCK_SIZE for n in lens]
    table = torch.zeros(len(lens), max([1, *blocks]), dtype=torch.int32)
    at = 0
    for b, n in enumerate(blocks):
        table[b, :n] = torch.arange(at, at + n, dtype=torch.int32)
        at += n
    return table, at


@functools.lru_cache(maxsize=64)
def _planned(backend: str, spec: api.AttentionSpec, cache: api.KvCacheSpec, query_lens: tuple, key_lens: tuple, device: torch.device):
    table, _ = _pages(key_lens)
    plan = api.plan(backend, spec, cache, query_start_loc=_start(query_lens), seq_lens=key_lens, block_table=table, device=device_name(device))
    slots = torch.cat([
        table[b].repeat_interleave(_BLOCK_SIZE)[:n].long() * _BLOCK_SIZE + torch.arange(n) % _BLOCK_SIZE for b, n in enumerate(key_lens)
    ] or [torch.zeros(0, dtype=torch.int64)])
    old_rows, new_rows, at = [], [], 0
    for queries, n in zip(query_lens, key_lens):
        old_rows.append(torch.arange(at, at + n - queries))
        new_rows.append(torch.arange(at + n - queries, at + n))
        at += n

    def on(x):
        return x.to(device)

    old, new = torch.cat(old_rows), torch.cat(new_rows)
    return (
        plan,
        on(torch.tensor(_start(query_lens), dtype=torch.int32)),
        on(torch.tensor(key_lens, dtype=torch.int32)),
        on(table),
        on(old),
        on(new),
        on(slots[old]),
        on(slots[new]),
    )


def _start(lens) -> list[int]:
    total, locs = 0, [0]
    for n in lens:
        total += int(n)
        locs.append(total)
    return locs


def _attend(backend, q, k, v, query_lens, key_lens, features) -> torch.Tensor:
    """Packed q [T, Hq, D] over packed k, v [Tk, Hkv, D] through a paged cache of the backend's layout."""
    scale, causal, window, softcap, sinks = features
    spec = api.AttentionSpec(
        num_heads=q.shape[1], num_kv_heads=k.shape[1], head_dim=q.shape[2], head_dim_v=v.shape[2], softmax_scale=scale, dtype=dtype_name(q.dtype),
        causal=causal, sliding_window=window, logits_soft_cap=softcap, has_sinks=sinks is not None,
    )
    _, blocks = _pages(key_lens)
    cache = api.KvCacheSpec(num_blocks=max(1, blocks), block_size=_BLOCK_SIZE, num_kv_heads=k.shape[1], head_dim=k.shape[2], head_dim_v=v.shape[2], dtype=spec.dtype)
    plan, query_start_loc, seq_lens, table, old, new, old_slots, new_slots = _planned(backend, spec, cache, tuple(query_lens), tuple(key_lens), q.device)
    k_shape, v_shape, layout = api.cache_shape(cache, backend, device_name(q.device))
    k_cache, v_cache = q.new_empty(k_shape), q.new_empty(v_shape)
    resolved = api.KvCacheSpec(**{**cache.__dict__, "layout": layout})
    if len(old):
        api.reshape_and_cache(k[old], v[old], old_slots, k_cache, v_cache, resolved)
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    plan.run(
        q=q.contiguous(), k=k[new], v=v[new], out=out, k_cache=k_cache, v_cache=v_cache, query_start_loc=query_start_loc, seq_lens=seq_lens,
        block_table=table, slot_mapping=new_slots, sinks=None if sinks is None else sinks.detach().float().contiguous(),
    )
    return out


def _latent_rows(module, key, kept) -> torch.Tensor:
    """[Tk, rank + rope]: the latents that the hook saw, and the rope part that every head's key ends with."""
    latents = getattr(module, "_sextant_latents", None)
    if latents is None:
        raise SextantUnsupported("this model was not prepared for MLA; call sextant.transformers.prepare_mla(model) after loading it")
    rope = module.qk_rope_head_dim
    rows = torch.cat([latents.up_to(key.shape[2]), key[:, 0, :, -rope:]], dim=-1)
    return torch.cat([rows[b, keep] for b, keep in enumerate(kept)])


def _attend_latent(backend, module, q, latents, query_lens, key_lens, features) -> torch.Tensor:
    scale, causal, window, softcap, sinks = features
    rank, rope = module.kv_lora_rank, module.qk_rope_head_dim
    spec = api.AttentionSpec(
        num_heads=q.shape[1], num_kv_heads=q.shape[1], head_dim=module.qk_nope_head_dim + rope, head_dim_v=module.v_head_dim, softmax_scale=scale,
        dtype=dtype_name(q.dtype), causal=causal, sliding_window=window, logits_soft_cap=softcap, has_sinks=sinks is not None, kv_lora_rank=rank,
        qk_nope_head_dim=module.qk_nope_head_dim, qk_rope_head_dim=rope, v_head_dim=module.v_head_dim,
    )
    _, blocks = _pages(key_lens)
    cache = api.KvCacheSpec(num_blocks=max(1, blocks), block_size=_BLOCK_SIZE, num_kv_heads=1, head_dim=rank + rope, head_dim_v=rank, dtype=spec.dtype)
    plan, query_start_loc, seq_lens, table, old, new, old_slots, new_slots = _planned(backend, spec, cache, tuple(query_lens), tuple(key_lens), q.device)
    k_cache = q.new_empty(cache.num_blocks * _BLOCK_SIZE, rank + rope)
    k_cache[old_slots] = latents[old]
    out = q.new_empty(q.shape[0], q.shape[1], module.v_head_dim)
    fresh = latents[new]
    plan.run(
        q=q.contiguous(), out=out, kv_c=fresh[:, :rank].contiguous(), k_pe=fresh[:, rank:].contiguous(), kv_b_proj=module.kv_b_proj.weight,
        k_cache=k_cache, query_start_loc=query_start_loc, seq_lens=seq_lens, block_table=table, slot_mapping=new_slots,
        sinks=None if sinks is None else sinks.detach().float().contiguous(),
    )
    return out
