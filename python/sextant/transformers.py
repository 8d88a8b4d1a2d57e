"""Hugging Face transformers: every backend as an attention implementation.

    import sextant.transformers
    sextant.transformers.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="sextant_rocm_aiter_fa")

Continuous batching (`generate_batch`) takes the same names; versions of transformers that ask for "paged|" in front find them under that
name too. MHA, GQA and MQA models take the four MHA backends; DeepSeek-V3 style models take "sextant_triton_mla" and
"sextant_rocm_aiter_mla" as well, which attend in the latent space of the model's own kv_b_proj.

With `past_key_values=sextant.transformers.PagedCache(model.config)` keys and values stay in blocks. Without it a step after the first reads
transformers' own cache where it lies, as blocks of one request each, on the CPU; other calls (a prompt, padding on the left, GPUs) run the
backend over a paged cache of their own, to which the keys are written. The mask is what `eager` would use: causal, windows, chunks, padding, holes, packed
sequences, image blocks, static caches. What cannot be served is refused by name (biases, dropout), and so are gradients, in `backward`.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Optional

import torch

from sextant import api
from sextant._transformers_batch import attend as _attend
from sextant._transformers_batch import attend_in_place as _attend_in_place
from sextant._transformers_batch import attend_latent, may_attend_in_place
from sextant._transformers_batching import allow as allow_continuous_batching
from sextant._transformers_blocks import attend_in_blocks, packed_lengths
from sextant._transformers_mask import Part, chosen_keys, exact_mask, parts_of, plain_part
from sextant.errors import SextantInvalidArgument, SextantUnsupported
from sextant.torch import dtype_name, last_dense, without_gradient

if TYPE_CHECKING:
    from sextant._paged_cache import PagedCache as PagedCache
    from sextant._paged_graph import use_cuda_graphs as use_cuda_graphs
MHA_BACKENDS = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")
MLA_BACKENDS = ("TRITON_MLA", "ROCM_AITER_MLA")


def __getattr__(name: str) -> Any:
    if name == "PagedCache":  # imports transformers, which `register` alone needs otherwise
        from sextant._paged_cache import PagedCache

        return PagedCache
    if name == "use_cuda_graphs":
        from sextant._paged_graph import use_cuda_graphs

        return use_cuda_graphs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def implementation_name(backend: str) -> str:
    """"sextant_rocm_aiter_fa" for "ROCM_AITER_FA"."""
    return "sextant_" + backend.lower()


def register() -> list[str]:
    """Adds every backend to transformers' AttentionInterface, plain and paged. Gives the names."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

    allow_continuous_batching(list(map(implementation_name, MHA_BACKENDS)))
    names = []
    for backend in MHA_BACKENDS + MLA_BACKENDS:
        name = implementation_name(backend)
        AttentionInterface.register(name, functools.partial(_forward, backend))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, exact_mask)
        names.append(name)
        if backend in MHA_BACKENDS:
            AttentionInterface.register("paged|" + name, functools.partial(_packed_forward, backend))
            # Its batches say themselves where sequences begin and end.
            ALL_MASK_ATTENTION_FUNCTIONS.register("paged|" + name, flash_attention_mask)
            names.append("paged|" + name)
    return names


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
        self.ropes: Optional[torch.Tensor] = None  # [B, S, rope]: which rows these latents belong to, after a beam search's reordering

    def up_to(self, ropes: torch.Tensor) -> torch.Tensor:
        """Of the keys whose rope parts are given, [B, S, rope]."""
        if self.newest is None:
            raise SextantUnsupported("the model's latents are not known; call sextant.transformers.prepare_mla(model) first")
        length, fresh = ropes.shape[1], self.newest.shape[1]
        old = length - fresh
        if old <= 0:
            self.all = self.newest[:, :length]
        elif self.all is None or self.ropes is None or self.all.shape[1] < old or ropes.shape[0] != self.newest.shape[0]:
            raise SextantUnsupported(f"{length} keys are cached but the latents of the first {old} were not seen; allowed: one cache a model")
        else:
            self.all = torch.cat([self.all[self._rows(ropes[:, :old]), :old], self.newest], dim=1)
        self.ropes = ropes
        return self.all

    def _rows(self, ropes: torch.Tensor) -> torch.Tensor:
        """Which kept row each of the cache's rows was: beams are copied and change places."""
        assert self.ropes is not None
        kept = self.ropes[:, : ropes.shape[1]]
        if torch.equal(kept, ropes):
            return torch.arange(len(ropes), device=ropes.device)
        same = torch.stack([(kept == row).flatten(1).all(1) for row in ropes])  # [B, kept rows]
        if not bool(same.any(1).all()):
            raise SextantUnsupported("the cache holds keys whose latents were not seen; allowed: one cache a model, whose rows may change places")
        return same.int().argmax(1)


def _remember_latent(latents: _Latents, module, inputs, output) -> None:
    latents.newest = output.detach()


@torch.compiler.disable  # plans are made on the host, from the step's lengths
def _forward(backend, module, query, key, value, attention_mask=None, scaling=None, dropout=0.0, sliding_window=None, softcap=None, s_aux=None,
             **kwargs):
    """query [B, Hq, Sq, D], key [B, Hkv, Sk, D], value [B, Hkv, Sk, Dv] -> [B, Sq, Hq, Dv]."""
    _refuse_what_is_not_served(dropout, kwargs)
    paged = getattr(key, "_sextant_paged", None)
    if paged is not getattr(value, "_sextant_paged", None) or paged is None and hasattr(attention_mask, "_sextant_window"):
        raise SextantUnsupported(f"{type(module).__name__} changes the keys or values that a PagedCache gave it; allowed: models that attend to them as they are")
    if paged is not None:
        return _paged_forward(backend, module, paged, query, key, value, attention_mask, scaling, sliding_window, softcap, s_aux, kwargs), None
    if kwargs.get("cache") is not None or kwargs.get("cu_seq_lens_q") is not None or _starts(query, key, attention_mask, kwargs) is not None:
        return _packed_forward(backend, module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, softcap=softcap, s_aux=s_aux,
                               **kwargs)  # fmt: skip
    _check_shapes(query, key, value)
    batch, _, queries, _ = query.shape
    keys = key.shape[2]
    causal = _is_causal(module, kwargs)
    window = int(sliding_window or 0)
    scale, sinks = _scale(scaling, query), _sinks(module, s_aux, kwargs)
    if kwargs.get("indices") is not None:
        attention_mask = chosen_keys(attention_mask, kwargs["indices"], batch, queries, keys)
    if attention_mask is None and getattr(module, "compressor", None) is not None:
        raise SextantUnsupported(f"{type(module).__name__} gave no attention_mask over its compressed keys; allowed: one that says which of them are seen")
    if attention_mask is None:
        parts = [plain_part(_plain_rule(causal, window), batch, queries, keys, query.device)]
    else:
        parts = parts_of(attention_mask, batch, queries, keys, causal, window)
    latents = _latent_rows(module, key, parts) if backend in MLA_BACKENDS else None
    head_dim_v = value.shape[-1] if latents is None else module.v_head_dim
    whole = len(parts) == 1 and len(parts[0].queries[0]) == batch * queries
    result = None if whole else query.new_zeros(batch, queries, query.shape[1], head_dim_v)
    for part in parts:
        one = batch == 1 and len(part.key_lens) == 1  # sequence, whose rows are in order: nothing to gather
        q = _rows(query, part.queries, one and part.query_lens[0] == queries)
        features = scale, {**dict(part.rule), "logits_soft_cap": float(softcap or 0.0)}, sinks
        if latents is not None:
            out = _attend_latent(backend, module, q, latents[part.keys], part.query_lens, part.key_lens, features, part.spans)
        elif may_attend_in_place(part, q, key, value):
            out = _attend_in_place(backend, q, key, value, part, features)
        else:
            k, v = (_rows(x, part.keys, one and part.key_lens[0] == keys) for x in (key, value))
            out = _attend(backend, q, k, v, part.query_lens, part.key_lens, features, part.spans)
        if result is None:
            result = out.view(batch, queries, *out.shape[1:])  # a single part's rows are in order
        else:
            result[part.queries] = out
    return without_gradient(result, query, key, value, sinks), None


def _check_shapes(query, key, value) -> None:
    """What no model gives, since memory of other sizes would be read as if it were right."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, torch.Tensor) or x.dim() != 4:
            given = f"has shape {list(x.shape)}" if isinstance(x, torch.Tensor) else f"is a {type(x).__name__}"
            raise SextantInvalidArgument(f"{name} {given}; allowed: a tensor [B, H, S, D]")
    heads, keys = key.shape[1:3]
    for name, x, width in (("key", key, query.shape[3]), ("value", value, value.shape[3])):
        if x.shape != (query.shape[0], heads, keys, width):
            raise SextantInvalidArgument(f"{name} has shape {list(x.shape)}; allowed: {[query.shape[0], heads, keys, width]}")


def _rows(x: torch.Tensor, rows, everything: bool) -> torch.Tensor:
    """Of x [B, H, S, D] the named rows, packed [T, H, D]; everything: all of one sequence, as they lie."""
    return last_dense(x[0].transpose(0, 1) if everything else x.transpose(1, 2)[rows])


def _paged_forward(backend, module, paged, query, key, value, mask, scaling, sliding_window, softcap, s_aux, kwargs) -> torch.Tensor:
    """Over the blocks of a PagedCache, which `update` noted on the keys."""
    if backend not in MHA_BACKENDS:
        raise SextantUnsupported(f"the attention implementation is {backend} with a PagedCache; allowed: {', '.join(MHA_BACKENDS)}")
    window = getattr(mask, "_sextant_window", None)
    if window is None:  # the model made no mask, or cut ours, which is empty
        if mask is not None and mask.numel():
            raise SextantUnsupported(f"attention_mask has shape {list(mask.shape)} with a PagedCache; allowed: [B, S], or none")
        if not _is_causal(module, kwargs):
            raise SextantUnsupported("attention is not causal with a PagedCache; allowed: causal")
        window = _window_of_layer(module, sliding_window)
    if kwargs.get("indices") is not None:
        raise SextantUnsupported("indices was given with a PagedCache; allowed: None (no keys are chosen)")
    cache, layer, step = paged
    sinks = _sinks(module, s_aux, kwargs)
    out = cache.attend(
        backend, layer, step, query, key, value, scale=_scale(scaling, query), window=int(window or 0), softcap=float(softcap or 0.0),
        sinks=None if sinks is None else sinks.detach().float().contiguous(),
    )  # fmt: skip
    return without_gradient(out, query, key, value, sinks)


def _refuse_what_is_not_served(dropout, kwargs) -> None:
    if dropout:
        raise SextantUnsupported(f"dropout is {dropout}; allowed: 0 (Sextant serves, it does not train)")
    for name in ("position_bias", "head_mask", "block_indices"):
        if kwargs.get(name) is not None:
            raise SextantUnsupported(f"{name} was given; allowed: None (nothing is added to scores, no head is scaled, no blocks are chosen)")


def _is_causal(module, kwargs) -> bool:
    return bool(getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"])


def _sinks(module, s_aux, kwargs) -> Optional[torch.Tensor]:
    for sinks in (s_aux, kwargs.get("sinks"), getattr(module, "sinks", None)):
        if isinstance(sinks, torch.Tensor):
            return sinks
    return None


def _scale(scaling, query) -> float:
    return float(scaling) if scaling is not None else query.shape[-1] ** -0.5


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
    cache = kwargs.pop("cache", None)
    _refuse_what_is_not_served(kwargs.pop("dropout", 0.0), kwargs)
    sliding_window = _window_of_layer(module, sliding_window)
    if cache is not None:
        key, value = _cached(cache, module.layer_idx, key, value, kwargs)
    rule = dict(_plain_rule(_is_causal(module, kwargs), int(sliding_window or 0)))
    features = _scale(scaling, query), {**rule, "logits_soft_cap": float(softcap or 0.0)}, _sinks(module, s_aux, kwargs)
    if kwargs.get("block_table") is not None:
        if kwargs.get("k_cache") is None:
            raise SextantUnsupported("a block table came without its keys; allowed: ContinuousBatchingConfig(max_blocks_per_request=0)")
        return without_gradient(attend_in_blocks(backend, query, key, value, kwargs, features).unsqueeze(0), query, key, value, features[2]), None
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise SextantUnsupported("lengths cannot be read in a CUDA graph capture; allowed: ContinuousBatchingConfig(use_cuda_graph=(False, True))")
    if kwargs.get("cu_seq_lens_q") is not None:
        key_starts = kwargs["cu_seq_lens_k"]
        if isinstance(key_starts, dict):  # of the layers with a window, and of the others
            key_starts = key_starts["sliding_attention" if sliding_window else "full_attention"]
        query_lens, key_lens = packed_lengths(kwargs["cu_seq_lens_q"], key_starts)
    else:
        starts = _starts(query, key, attention_mask, kwargs)
        query_lens = key_lens = [end - start for start, end in zip(starts, [*starts[1:], query.shape[2]])]
    packed = [x[0].transpose(0, 1) for x in (query, key, value)]
    # A window's cache holds fewer keys than the request has tokens; never more queries than keys.
    tokens = sum(query_lens)
    out = query.new_zeros(packed[0].shape[0], packed[0].shape[1], packed[2].shape[-1])
    out[:tokens] = _attend(backend, packed[0][:tokens], packed[1][: sum(key_lens)], packed[2][: sum(key_lens)], query_lens, key_lens, features)
    return without_gradient(out.unsqueeze(0), query, key, value, features[2]), None


def _window_of_layer(module, given) -> Optional[int]:
    """The layer's window where the call does not say it: packed batches have no mask that would."""
    config, index = getattr(module, "config", None), getattr(module, "layer_idx", None)
    kinds = getattr(config, "layer_types", None)
    kind = kinds[index] if kinds and index is not None and index < len(kinds) else ""
    if "chunked" in kind:
        raise SextantUnsupported(f"layer {index} has {kind} with packed sequences; allowed: a batch of padded sequences")
    if given is None:
        given = getattr(module, "sliding_window", None)
    if given is None and kind == "sliding_attention":
        given = getattr(config, "sliding_window", None)
        if given is None:
            raise SextantUnsupported(f"layer {index} has a window of unknown length with packed sequences; allowed: config.sliding_window")
    return given


def _plain_rule(causal: bool, window: int) -> tuple[tuple[str, Any], ...]:
    if causal:
        return (("causal", True), ("sliding_window", window))
    # transformers' window of an encoder, where no mask says it, reaches W - 1 keys to both sides.
    return (("causal", False), ("window_left", window - 1), ("window_right", window - 1))


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
    plain = (mask is None or hasattr(mask, "_sextant_plain")) and kwargs.get("indices") is None
    if not plain or positions is None or positions.dim() != 2 or query.shape[0] != 1 or query.shape[2] != key.shape[2] or positions.shape[1] != query.shape[2]:
        return None
    starts = (positions[0] == 0).nonzero().flatten().tolist()
    return [0, *[at for at in starts if at > 0]] if any(starts) else None


def _latent_rows(module, key, parts: list[Part]) -> torch.Tensor:
    """[B, S, rank + rope]: the latents that the hook saw, and the rope part that every head's key ends with."""
    latents = getattr(module, "_sextant_latents", None)
    if latents is None:
        raise SextantUnsupported("this model was not prepared for MLA; call sextant.transformers.prepare_mla(model) after loading it")
    if any(queries > keys for part in parts for queries, keys in zip(part.query_lens, part.key_lens)):
        raise SextantUnsupported("more queries than keys attend to the same keys in MLA; allowed: causal attention")
    length = 1 + max(int(part.keys[1].max()) for part in parts)  # a static cache has room for more
    ropes = key[:, 0, :, -module.qk_rope_head_dim :]
    fresh = 0 if latents.newest is None else latents.newest.shape[1]
    ropes = ropes[:, : max(length, fresh)]
    return torch.cat([latents.up_to(ropes), ropes], dim=-1)


def _attend_latent(backend, module, q, latents, query_lens, key_lens, features, spans=None) -> torch.Tensor:
    scale, mask, sinks = features
    rank, rope = module.kv_lora_rank, module.qk_rope_head_dim
    spec = api.AttentionSpec(
        num_heads=q.shape[1], num_kv_heads=q.shape[1], head_dim=module.qk_nope_head_dim + rope, head_dim_v=module.v_head_dim, softmax_scale=scale,
        dtype=dtype_name(q.dtype), has_sinks=sinks is not None, **mask, kv_lora_rank=rank,
        qk_nope_head_dim=module.qk_nope_head_dim, qk_rope_head_dim=rope, v_head_dim=module.v_head_dim,
    )
    return attend_latent(backend, spec, q, latents, module.kv_b_proj.weight, query_lens, key_lens, sinks, spans)
