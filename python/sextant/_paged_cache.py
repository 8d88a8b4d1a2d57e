"""A cache of transformers that keeps keys and values in blocks: nothing is copied, and a step's plan serves all
layers.

`update` hands the new keys back with a note of the step on them; the attention implementation finds the note,
writes the keys to their blocks and attends. What a step needs (lengths, block table, slots) is made once, on the
host, before its first layer: no layer waits for a device.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, DynamicCache

from sextant import api
from sextant._dlpack import current_stream, workspace_beside
from sextant._layer_turns import LayerTurns, Memory
from sextant._paged_layer import Layer, Step
from sextant.errors import (
    SextantInvalidArgument,
    SextantResourceExhausted,
    SextantUnsupported,
)
from sextant.ops import copy_blocks
from sextant.torch import device_name, dtype_name, last_dense

Integers = npt.NDArray[np.int64]
_ROOM = 256  # tokens a request for which a new cache has memory beyond its prompt


class PagedCache(Cache):  # type: ignore[misc]
    """Keys and values in blocks, for `generate(..., past_key_values=PagedCache(model.config))` and for calls of
    the model.

    config: the model's, whose attention implementation is one of the MHA names of `register`. block_size: tokens a
    block. max_tokens: of a request, padding included; memory for that many is made at once and stays where it is.
    0: memory grows by doubling. reuse_plans: decode steps share a plan that has room for more tokens, and the
    step's numbers stay at their addresses, as a captured graph wants them; default: on GPUs. Beams, assisted
    decoding, padding to the left and windows are served as `eager` would; masks that are neither causal nor a
    window of it, recurrent layers and MLA names are refused by name (SextantUnsupported).
    """

    layers: Any

    def __init__(
        self, config: Any, *, block_size: int = 16, max_tokens: int = 0, reuse_plans: Optional[bool] = None
    ) -> None:
        if not hasattr(config, "get_text_config"):
            raise SextantInvalidArgument(
                f"config is a {type(config).__name__}; allowed: a configuration of transformers, such as model.config"
            )
        text = config.get_text_config(decoder=True)
        kinds = getattr(text, "layer_types", None) or []
        wrong = sorted({kind for kind in kinds if kind not in ("full_attention", "sliding_attention")})
        if wrong:
            raise SextantUnsupported(
                f"config.layer_types holds {', '.join(wrong)}; allowed: full_attention, sliding_attention"
            )
        for name, number, least in (("block_size", block_size, 1), ("max_tokens", max_tokens, 0)):
            if not isinstance(number, int) or number < least:
                raise SextantInvalidArgument(f"{name} is {number!r}; allowed: an integer >= {least}")
        shared = getattr(text, "num_kv_shared_layers", 0) or 0
        super().__init__(layers=[Layer(self) for _ in range(text.num_hidden_layers - shared)])
        for layer, usual in zip(self.layers, DynamicCache(config=text).layers):
            layer.window = int(getattr(usual, "sliding_window", 0) or 0)
        self._config, self.block_size, self.max_tokens, self._reuse = text, block_size, max_tokens, reuse_plans
        self._kept_plans: "dict[Any, LayerTurns]" = {}
        self._buffers: "dict[Any, tuple[Any, torch.Tensor]]" = {}
        self.graphs: "dict[Any, Any]" = {}  # of use_cuda_graphs; none that is older than the memory
        self.num_blocks = 0
        self.device, self.device_name, self.dtype = (
            torch.device("cpu"),
            "cpu",
            torch.float32,
        )  # those of the first keys
        self.reset()

    def __repr__(self) -> str:
        held = f"{max(0, self.batch)} requests, {self.columns} tokens"
        return f"PagedCache({len(self.layers)} layers, {self.num_blocks} blocks of {self.block_size} tokens, {held})"

    def __getstate__(self) -> "dict[str, Any]":
        """For copies (of a prompt's cache, say): the tokens and their blocks, without what belongs to one step."""
        return {**self.__dict__, "_step": None, "_buffers": {}, "_kept_plans": {}, "graphs": {}}

    def reset(self) -> None:
        """Forgets all tokens; the memory stays."""
        self.batch, self.columns = -1, 0
        self._lens: Integers = np.zeros(0, np.int64)  # tokens of each request
        self._real: Optional[npt.NDArray[np.bool_]] = None  # [B, columns], where there is padding
        self._table: Integers = np.zeros((0, 0), np.int64)
        self._counts: Integers = np.zeros(0, np.int64)  # blocks of each request
        self._refs: Integers = np.zeros(self.num_blocks, np.int64)
        self._free = list(range(self.num_blocks))[::-1]
        self._step: Optional[Step] = None
        self._waiting: Optional[int] = None  # the layer whose new keys no attention has taken
        for layer in self.layers:
            layer.columns = 0

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """The new keys and values as they came, noted for the attention that follows."""
        self._refuse_what_waits()
        batch, _, queries, _ = key_states.shape
        layer, step = self.layers[layer_idx], self._step
        if step is None or step.start != layer.columns or step.queries != queries:
            if layer.columns != self.columns:
                raise SextantUnsupported(
                    f"layer {layer_idx} has seen {layer.columns} tokens and others {self.columns}; allowed: the same"
                )
            step = self.begin(batch, queries, key_states.device)
        layer.columns = step.start + queries
        layer.is_initialized = True
        self._waiting = layer_idx
        note = self, layer, step
        setattr(key_states, "_sextant_paged", note)
        setattr(value_states, "_sextant_paged", note)
        return key_states, value_states

    def _refuse_what_waits(self) -> None:
        if self._waiting is not None:
            name = getattr(self._config, "_attn_implementation", "")
            raise SextantUnsupported(
                f"layer {self._waiting}'s keys did not reach Sextant's attention (attn_implementation is {name}); "
                "allowed: the MHA names of "
                "sextant.transformers.register, in models that hand the cache's keys to the attention interface as "
                "they are"
            )

    def mask(
        self,
        batch: int,
        queries: int,
        start: int,
        rule: Any,
        function: Any,
        mask: Optional[torch.Tensor],
        device: Any,
        plain: bool,
    ) -> torch.Tensor:
        """What the layers get for a mask: nothing but its window. Padding is not written, so that no layer has to
        leave it out.
        """
        self._refuse_what_waits()
        if rule is None or not rule.causal or rule.sequences is not None:
            name = getattr(function, "__qualname__", str(function)).partition(".")[0]
            raise SextantUnsupported(
                f"the mask function is {name} with a PagedCache; allowed: causal, with or without a window"
            )
        if not plain:
            raise SextantUnsupported(
                "the model adds to its mask or changes it, with a PagedCache; allowed: models that take the mask as "
                "it is"
            )
        if self._step is None or (self._step.start, self._step.queries) != (
            start,
            queries,
        ):  # else a mask of the same step was made before
            self.begin(batch, queries, device, mask)
        made = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device)
        setattr(made, "_sextant_window", 0 if rule.window >= 1 << 62 else rule.window)
        return made

    def begin(self, batch: int, queries: int, device: Any, mask: Optional[torch.Tensor] = None) -> Step:
        """Room for `queries` new columns: blocks, slots, lengths. On the host, once a step; a captured graph is
        replayed after it.

        mask: bool [B, columns], False where there is padding; None: none.
        """
        if self.batch < 0:
            self._first(batch, queries, torch.device(device))
        if batch != self.batch:
            raise SextantInvalidArgument(
                f"the batch has {batch} requests; allowed: {self.batch}, as in the cache's first step"
            )
        if self.max_tokens and self.columns + queries > self.max_tokens:
            raise SextantResourceExhausted(
                f"max_tokens is {self.max_tokens}; allowed: at least {self.columns + queries} for this step"
            )
        real = self._new_columns(queries, mask)
        before, fresh = self._lens, np.full(batch, queries) if real is None else real.sum(1)
        self._lens = before + fresh
        self._make_room(before)
        rows = None if real is None else torch.from_numpy(np.flatnonzero(real)).to(self.device)
        step = self._step = Step(self.columns, queries, rows)
        self.columns += queries
        step.lens, step.starts = self._lens, np.concatenate([[0], np.cumsum(fresh)])
        position = np.arange(int(fresh.sum())) - np.repeat(step.starts[:-1] - before, fresh)
        request = np.repeat(np.arange(batch), fresh)
        slots = self._table[request, position // self.block_size] * self.block_size + position % self.block_size
        for name, values, dtype in (
            ("query_start_loc", step.starts, np.int32),
            ("seq_lens", self._lens, np.int32),
            ("block_table", self._table, np.int32),
            ("slot_mapping", slots, np.int64),
        ):
            step.tensors[name] = self._placed(name, values, dtype)
        return step

    @property
    def captures_decode(self) -> bool:
        """Whether a step of one token a request may be captured: all that it reads stays at its addresses."""
        return self.batch > 0 and bool(self._reuse) and self.device.type == "cuda"

    def config_key(self) -> "tuple[Any, ...]":
        """What a captured step depends on beside its inputs."""
        return (*self._table.shape, self.dtype, getattr(self._config, "_attn_implementation", ""))

    def finish(self) -> None:
        """The step that was begun has run in all layers, in a graph."""
        for layer in self.layers:
            layer.columns = self.columns

    def begin_again(self) -> None:
        """The step that was begun has run in some layers, in a capture that failed."""
        self._waiting = None
        for layer in self.layers:
            layer.columns = self.columns if self._step is None else self._step.start

    def _first(self, batch: int, queries: int, device: torch.device) -> None:
        if self.num_blocks and device != self.device:
            raise SextantInvalidArgument(f"the keys are on {device}; allowed: {self.device}, as before the reset")
        self.device, self.device_name, self.batch = device, device_name(device), batch
        if self._reuse is None:
            self._reuse = device.type != "cpu"
        self._lens, self._counts = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        tokens = self.max_tokens or queries + _ROOM
        self._table = np.zeros((batch, self._blocks_of(tokens)), np.int64)
        if not self.num_blocks:
            self._grow(self._table.size)

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _new_columns(self, queries: int, mask: Optional[torch.Tensor]) -> "Optional[npt.NDArray[np.bool_]]":
        """Which of the new columns are tokens, [B, queries]; None: all. What was said of the old ones must hold."""
        given = None if mask is None else mask.cpu().numpy().astype(bool)
        if given is not None and given.shape != (self.batch, self.columns + queries):
            raise SextantUnsupported(
                f"attention_mask has shape {list(given.shape)} with a PagedCache; allowed: [{self.batch}, "
                f"{self.columns + queries}]"
            )
        old = None if given is None else given[:, : self.columns]
        same = old is None or (old.all() if self._real is None else np.array_equal(old, self._real))
        if not same:
            raise SextantUnsupported(
                "attention_mask differs from earlier steps about tokens that a PagedCache holds; allowed: the same, "
                "with new columns"
            )
        new = None if given is None or given[:, self.columns :].all() else given[:, self.columns :]
        if new is not None and queries and not new[:, -1].all():  # eager goes on from what the padding attends to
            row = int(np.flatnonzero(~new[:, -1])[0])
            raise SextantUnsupported(
                f"attention_mask of request {row} ends with padding, with a PagedCache; allowed: padding to the left"
            )
        if new is not None or self._real is not None:
            past = np.ones((self.batch, self.columns), bool) if self._real is None else self._real
            self._real = np.concatenate([past, np.ones((self.batch, queries), bool) if new is None else new], 1)
        return new

    def _make_room(self, before: Integers) -> None:
        """Blocks for the new tokens. A block that is partly filled and shared is copied before it is written."""
        needed = -(-self._lens // self.block_size)
        if int(needed.max(initial=0)) > self._table.shape[1]:
            wider = np.zeros((self.batch, max(2 * self._table.shape[1], int(needed.max()))), np.int64)
            wider[:, : self._table.shape[1]] = self._table
            self._table = wider
        partly = np.flatnonzero((before % self.block_size > 0) & (self._lens > before))
        copied = [row for row in partly if self._refs[self._table[row, before[row] // self.block_size]] > 1]
        missing = int((needed - self._counts).sum()) + len(copied)
        if missing > len(self._free):
            self._grow(max(2 * self.num_blocks, self.num_blocks + missing))
        pairs = []
        for row in copied:
            at = before[row] // self.block_size
            source = self._table[row, at]
            if self._refs[source] > 1:  # the last request that shared it keeps it
                self._table[row, at] = self._take()
                self._refs[source] -= 1
                pairs.append((int(source), int(self._table[row, at])))
        for row in np.flatnonzero(needed > self._counts):
            for at in range(self._counts[row], needed[row]):
                self._table[row, at] = self._take()
        self._counts = needed
        if pairs:
            mapping = torch.tensor(pairs, dtype=torch.int64, device=self.device)
            for layer in self.layers:
                if layer.spec is not None:
                    copy_blocks(layer.k_cache, layer.v_cache, mapping, layer.spec)

    def _take(self) -> int:
        block = self._free.pop()
        self._refs[block] = 1
        return block

    def _grow(self, num_blocks: int) -> None:
        self._free = list(range(self.num_blocks, num_blocks))[::-1] + self._free
        self._refs = np.concatenate([self._refs, np.zeros(num_blocks - self.num_blocks, np.int64)])
        self.num_blocks = num_blocks
        self._kept_plans.clear()
        self.graphs.clear()
        for layer in self.layers:
            if layer.spec is not None:
                layer.make(num_blocks)

    def _placed(self, name: str, values: Integers, dtype: Any) -> torch.Tensor:
        """`values` on the device, at the same address for the same shape."""
        host, there = self._buffers.get((name, values.shape), (None, None))
        if host is None or there is None:
            host = np.empty(values.shape, dtype)
            there = torch.from_numpy(host).to(self.device)  # the same memory on a CPU
            self._buffers = {key: kept for key, kept in self._buffers.items() if key[0] != name or self._reuse}
            self._buffers[name, values.shape] = host, there
        host[...] = values
        if self.device.type != "cpu":
            there.copy_(torch.from_numpy(host))
        return there

    def attend(
        self,
        backend: str,
        layer: Any,
        step: Step,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int,
        softcap: float,
        sinks: Optional[torch.Tensor],
    ) -> torch.Tensor:
        """query [B, Hq, S, D] over the layer's blocks, which get key [B, Hkv, S, D] and value [B, Hkv, S, Dv] ->
        [B, S, Hq, Dv].
        """
        if layer.backend != backend:
            self._make_layer(layer, backend, key, value)
        self._waiting = None
        if (
            layer.window and not window and layer.columns > layer.window
        ):  # then eager sees all tokens in a prompt, and fewer in a later step
            raise SextantUnsupported(
                f"the mask has no window and transformers' cache has one of {layer.window} tokens; allowed: the "
                "same, or PagedCache not at all"
            )
        packed = [
            x[0].transpose(0, 1) if len(x) == 1 else x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)
        ]
        if step.rows is not None:
            packed = [x[step.rows] for x in packed]
        q, k, v = map(last_dense, packed)
        out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
        if q.shape[0]:
            shape = (q.shape[1], k.shape[1], q.shape[2], v.shape[2], scale, window, softcap, sinks is not None)
            plan = step.plans.get(shape) or self._planned(backend, layer, step, shape, q)
            plan.run(
                layer,
                q=q,
                k=k,
                v=v,
                out=out,
                k_cache=layer.k_cache,
                v_cache=layer.v_cache,
                sinks=sinks,
                **step.tensors,
            )
        if step.rows is not None:
            whole = out.new_zeros(len(query) * step.queries, *out.shape[1:])
            whole[step.rows] = out
            out = whole
        return out.view(len(query), step.queries, *out.shape[1:])

    def _make_layer(self, layer: Any, backend: str, key: torch.Tensor, value: torch.Tensor) -> None:
        if layer.spec is not None:
            raise SextantUnsupported(
                f"the attention implementation became {backend}; allowed: {layer.backend}, whose layout the "
                "PagedCache has"
            )
        self.dtype = key.dtype
        wanted = api.KvCacheSpec(
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            num_kv_heads=key.shape[1],
            head_dim=key.shape[3],
            head_dim_v=value.shape[3],
            dtype=dtype_name(key.dtype),
        )
        _, _, layout = api.cache_shape(wanted, backend, self.device_name)
        layer.backend, layer.spec = backend, api.KvCacheSpec(**{**wanted.__dict__, "layout": layout})
        layer.make(self.num_blocks)

    def _planned(self, backend: str, layer: Any, step: Step, shape: Any, q: torch.Tensor) -> LayerTurns:
        """The step's plan for layers of one shape; of decode steps the one that earlier steps had, where plans are
        kept.
        """
        kept = bool(self._reuse) and step.queries == 1 and step.rows is None
        key = (backend, shape, self.batch, self._table.shape[1], layer.spec)
        found = self._kept_plans.get(key) if kept else None
        if found is None:
            num_heads, num_kv_heads, head_dim, head_dim_v, scale, window, softcap, has_sinks = shape
            spec = api.AttentionSpec(
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                head_dim_v=head_dim_v,
                softmax_scale=scale,
                dtype=dtype_name(q.dtype),
                sliding_window=window,
                logits_soft_cap=softcap,
                has_sinks=has_sinks,
            )
            bounds = {"max_query_len": 1, "max_seq_len": self._table.shape[1] * self.block_size} if kept else {}
            plan = api.plan(
                backend,
                spec,
                layer.spec,
                query_start_loc=step.starts,
                seq_lens=step.lens,
                max_blocks_per_request=self._table.shape[1],
                device=self.device_name,
                **bounds,
            )
            found = LayerTurns(plan, Memory(workspace_beside(q, plan.workspace_bytes, current_stream(q))))
            if kept:
                self._kept_plans[key] = found
        found.begin()
        step.plans[shape] = found
        return found

    def _select(self, rows: "Sequence[int] | Integers") -> None:
        """Requests change places, are left out or doubled; doubled ones share their blocks until either writes."""
        chosen = np.asarray(rows, np.int64)
        self._table, self._counts, self._lens = self._table[chosen], self._counts[chosen], self._lens[chosen]
        self._real = None if self._real is None else self._real[chosen]
        self.batch = len(chosen)
        self._count_references()

    def _count_references(self) -> None:
        used = self._table[np.arange(self._table.shape[1])[None] < self._counts[:, None]]
        self._refs = np.bincount(used, minlength=self.num_blocks)
        self._free = np.flatnonzero(self._refs == 0)[::-1].tolist()
        self._step = None

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        if self.batch >= 0:
            self._select(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.batch >= 0:
            self._select(np.arange(self.batch)[indices.cpu().numpy()])

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.batch >= 0:
            self._select(np.repeat(np.arange(self.batch), repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the newest columns: a negative number of them, or all after the first n as older versions of
        transformers say it.
        """
        remove = -tokens_to_remove if tokens_to_remove <= 0 else max(0, self.columns - tokens_to_remove)
        if remove == 0 or self.batch < 0:
            return
        remove = min(remove, self.columns)
        self.columns -= remove
        if self._real is None:
            self._lens = self._lens - remove
        else:
            self._real = self._real[:, : self.columns]
            self._lens = self._real.sum(1)
        self._counts = -(-self._lens // self.block_size)
        self._count_references()
        for layer in self.layers:
            layer.columns = min(layer.columns, self.columns)
