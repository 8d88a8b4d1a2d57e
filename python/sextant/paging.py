"""A paged cache to build an engine on: which blocks a request has, and the memory of all layers.

    cache = sextant.PagedKVCache(spec, "ROCM_AITER_FA", num_blocks=1024, num_layers=32)
    step = cache.step({"first": prompt, "second": [token]})      # the tokens that are new; prompts find their cached prefix
    for layer in range(32):
        step.run(layer, q=q, k=k, v=v, out=out)                    # rows of step.tokens
    step.commit()                                                  # full blocks can be found by later prompts
    cache.free("first")
"""

from __future__ import annotations

import sys
import weakref
from typing import Any, Hashable, Mapping, Optional, Sequence

import numpy as np

from sextant import api
from sextant._library import library
from sextant.errors import SextantInvalidArgument
from sextant.ops import copy_blocks, slot_mapping


class BlockAllocator:
    """Hands out the blocks of a cache: reference counts, a prefix cache over what is in them, eviction of the longest unused.

    It knows numbers of blocks, never memory. Threads may share it. `salt` keeps apart what must not be shared (tenants, adapters).
    verify_tokens compares tokens on a hit, so that equal hashes are no hit. Raises SextantInvalidArgument, and SextantResourceExhausted
    when too few blocks are free.
    """

    def __init__(self, num_blocks: int, block_size: int = 16, *, verify_tokens: bool = False, salt: str = ""):
        self.num_blocks, self.block_size = num_blocks, block_size
        self._handle = library["allocator_make"](num_blocks, block_size, verify_tokens, salt)
        self._finalizer = weakref.finalize(self, library["allocator_free"], self._handle)

    def allocate(self, count: int = 1) -> list[int]:
        """`count` blocks with one reference each, or none and SextantResourceExhausted."""
        return [int(block) for block in library["allocator_allocate"](self._handle, count)]

    def share(self, block: int) -> None:
        """One more reference."""
        library["allocator_share"](self._handle, block)

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less of each; a block without any is free and stays findable, when it was published, until its memory is needed."""
        library["allocator_release"](self._handle, [int(block) for block in blocks])

    def publish(self, blocks: Sequence[int], tokens: Sequence[int]) -> None:
        """Makes the full blocks of a sequence findable; `tokens` from its first on. Their keys and values are written."""
        library["allocator_publish"](self._handle, [int(block) for block in blocks], [int(token) for token in tokens])

    def acquire_prefix(self, tokens: Sequence[int]) -> list[int]:
        """The blocks of the longest cached prefix of `tokens`, full blocks only, each with one more reference for the caller."""
        return [int(block) for block in library["allocator_acquire_prefix"](self._handle, [int(token) for token in tokens])]

    def clear_cache(self) -> None:
        """Forgets what is in the blocks (new weights). Referenced blocks stay allocated."""
        library["allocator_clear_cache"](self._handle)

    def ref_count(self, block: int) -> int:
        return int(library["allocator_ref_count"](self._handle, block))

    @property
    def num_free(self) -> int:
        """Blocks without a reference, cached ones included."""
        return int(library["allocator_counts"](self._handle)[0])

    @property
    def num_cached(self) -> int:
        """Blocks that a prompt can find."""
        return int(library["allocator_counts"](self._handle)[1])

    @property
    def hit_rate(self) -> float:
        """Of the blocks that acquire_prefix was asked for, the share that was found."""
        _, _, lookups, hits, _ = library["allocator_counts"](self._handle)
        return float(hits) / float(lookups) if lookups else 0.0

    def __repr__(self) -> str:
        return f"BlockAllocator({self.num_free} of {self.num_blocks} blocks of {self.block_size} tokens free, {self.num_cached} cached)"


class _Request:
    def __init__(self, blocks: list[int], tokens: list[int]):
        self.blocks, self.tokens = blocks, tokens
        self.written = len(tokens)


class Step:
    """The new tokens of some requests. Made by `PagedKVCache.step`.

    requests: their names, in the order of the rows. tokens: what to compute, a list for each request, after its cached prefix.
    query_start_loc, seq_lens, block_table, slot_mapping: as sextant.Plan.run takes them. plan: of the step, shared by all layers.
    """

    def __init__(self, cache: "PagedKVCache", requests: list[Hashable], tokens: list[list[int]]):
        self._cache = cache
        self.requests, self.tokens = requests, tokens
        held = [cache._requests[name] for name in requests]
        starts = np.concatenate([[0], np.cumsum([len(new) for new in tokens])]).astype(np.int32)
        lens = np.array([len(request.tokens) for request in held], np.int32)
        table = np.zeros((len(held), max([1, *(len(request.blocks) for request in held)])), np.int32)
        for row, request in zip(table, held):
            row[: len(request.blocks)] = request.blocks
        slots = slot_mapping(starts, lens, table, cache.cache.block_size)
        self.plan = api.plan(
            cache.backend, cache.spec, cache.cache, query_start_loc=starts, seq_lens=lens, block_table=table, slot_mapping=slots,
            device=cache.device, **cache.options,
        )  # fmt: skip
        place = cache._memory.place
        self.query_start_loc, self.seq_lens, self.block_table, self.slot_mapping = place(starts), place(lens), place(table), place(slots)

    def run(self, layer: int, **tensors: Any) -> None:
        """Writes the layer's new keys and values and attends: q, k, v (or kv_c, k_pe, kv_b_proj) and out, as sextant.Plan.run takes them."""
        k_cache, v_cache = self._cache.layers[layer]
        k_scale, v_scale = self._cache.scales[layer]
        self.plan.run(
            k_cache=k_cache, v_cache=v_cache, query_start_loc=self.query_start_loc, seq_lens=self.seq_lens, block_table=self.block_table,
            slot_mapping=self.slot_mapping, **{"k_scale": k_scale, "v_scale": v_scale, **tensors},
        )  # fmt: skip

    def commit(self) -> None:
        """All layers have run: the full blocks can be found by later prompts."""
        for name in self.requests:
            request = self._cache._requests.get(name)
            if request is not None:
                request.written = len(request.tokens)
                self._cache.allocator.publish(request.blocks, request.tokens)


class PagedKVCache:
    """Keys and values of all layers in blocks, and which request has which. Not for several threads at once.

    spec: of the attention; backend: its name. num_blocks, block_size: blocks a layer has, tokens a block. dtype: of the cache, default
    spec.dtype; "int8_per_token_head" too. device: "cpu", "cuda:0", ... layers: (k_cache, v_cache) of each layer; v_cache is None for MLA.
    scales: (k_scale, v_scale) of each layer where tokens have scales of their own, else (None, None): a shared scale is given to `run`.
    Memory is PyTorch's where it is imported, else NumPy's. options: of sextant.plan (deterministic, lse_out, ...).
    """

    def __init__(
        self, spec: api.AttentionSpec, backend: str, *, num_blocks: int, num_layers: int = 1, block_size: int = 16, dtype: Any = None,
        device: str = "cpu", salt: str = "", **options: Any,
    ):  # fmt: skip
        self.spec, self.backend, self.device, self.options = spec, backend, device, options
        latent = spec.kv_lora_rank > 0
        wanted = api.KvCacheSpec(
            num_blocks=num_blocks,
            block_size=block_size,
            num_kv_heads=1 if latent else spec.num_kv_heads,
            head_dim=spec.kv_lora_rank + spec.qk_rope_head_dim if latent else spec.head_dim,
            head_dim_v=spec.kv_lora_rank if latent else spec.head_dim_v or spec.head_dim,
            dtype=spec.dtype if dtype is None else dtype,
        )
        k_shape, v_shape, layout = api.cache_shape(wanted, backend, device)
        self.cache = api.KvCacheSpec(**{**wanted.__dict__, "layout": layout})
        self.allocator = BlockAllocator(num_blocks, block_size, salt=salt)
        self._memory = _Memory(device)
        make = self._memory.zeros
        self.layers = [(make(k_shape, self.cache.dtype), None if latent else make(v_shape, self.cache.dtype)) for _ in range(num_layers)]
        of_tokens = (num_blocks, block_size, spec.num_kv_heads) if self.cache.scales == "token_head" else None
        self.scales = [tuple(None if of_tokens is None else make(of_tokens, "fp32") for _ in "kv") for _ in range(num_layers)]
        self._requests: dict[Hashable, _Request] = {}

    def step(self, new_tokens: Mapping[Hashable, Sequence[int]]) -> Step:
        """Gives each request room for its new tokens. One that is not known begins here, with the longest cached prefix of its prompt.

        Raises SextantInvalidArgument (no tokens), and SextantResourceExhausted when too few blocks are free: then nothing has changed.
        """
        for name, tokens in new_tokens.items():
            if len(tokens) == 0:
                raise SextantInvalidArgument(f"request {name!r} has no new tokens; allowed: at least one")
        before = {name: (list(request.blocks), list(request.tokens)) for name in new_tokens if (request := self._requests.get(name))}
        began: list[Hashable] = []
        grown: list[int] = []
        copies: list[tuple[int, int]] = []
        computed = []
        try:
            for name, tokens in new_tokens.items():
                request = self._requests.get(name)
                if request is None:
                    blocks = self.allocator.acquire_prefix(list(tokens)[:-1])  # one token at least is computed
                    request = self._requests[name] = _Request(blocks, list(tokens)[: len(blocks) * self.cache.block_size])
                    began.append(name)
                computed.append([int(token) for token in tokens][len(request.tokens) if name in began else 0 :])
                self._own_last_block(request, grown, copies)
                request.tokens += computed[-1]
                missing = -(-len(request.tokens) // self.cache.block_size) - len(request.blocks)
                fresh = self.allocator.allocate(max(0, missing))
                grown += fresh
                request.blocks += fresh
        except Exception:
            self.allocator.release(grown)
            for name in began:
                kept = [block for block in self._requests.pop(name).blocks if block not in grown]
                self.allocator.release(kept)
            for name, (blocks, held) in before.items():
                self._requests[name].blocks, self._requests[name].tokens = blocks, held
            raise
        if copies:
            pairs = self._memory.place(np.array(copies, np.int64))
            for (k_cache, v_cache), (k_scale, v_scale) in zip(self.layers, self.scales):
                copy_blocks(k_cache, v_cache, pairs, self.cache, k_scale=k_scale, v_scale=v_scale, device=self.device)
            self.allocator.release([source for source, _ in copies])
        return Step(self, list(new_tokens), computed)

    def _own_last_block(self, request: _Request, grown: list[int], copies: list[tuple[int, int]]) -> None:
        """A block that is partly filled and shared is copied before it is written."""
        if len(request.tokens) % self.cache.block_size and self.allocator.ref_count(request.blocks[-1]) > 1:
            own = self.allocator.allocate(1)
            grown += own
            copies.append((request.blocks[-1], own[0]))
            request.blocks[-1] = own[0]

    def fork(self, request: Hashable, name: Hashable) -> None:
        """A second request with the same tokens, which shares the blocks until either writes (beams, samples)."""
        source = self._of(request)
        if name in self._requests:
            raise SextantInvalidArgument(f"request {name!r} is known; allowed: a new name")
        for block in source.blocks:
            self.allocator.share(block)
        self._requests[name] = _Request(list(source.blocks), list(source.tokens))

    def free(self, request: Hashable) -> None:
        """The request has ended; what was committed stays findable until its memory is needed."""
        self.allocator.release(self._of(request).blocks)
        del self._requests[request]

    def tokens(self, request: Hashable) -> list[int]:
        """All tokens of the request that have room in the cache."""
        return list(self._of(request).tokens)

    def blocks(self, request: Hashable) -> list[int]:
        """The request's blocks, in order."""
        return list(self._of(request).blocks)

    def _of(self, request: Hashable) -> _Request:
        if request not in self._requests:
            raise SextantInvalidArgument(f"request {request!r} is not known; allowed: {', '.join(map(repr, self._requests)) or 'none'}")
        return self._requests[request]

    def __repr__(self) -> str:
        return f"PagedKVCache({self.backend} on {self.device}, {len(self.layers)} layers, {len(self._requests)} requests, {self.allocator!r})"


class _Memory:
    """Arrays of PyTorch where it is imported, else of NumPy."""

    def __init__(self, device: str):
        self._torch: Optional[Any] = sys.modules.get("torch")
        self._device = device.replace("hip-emulated", "cpu").replace("hip", "cuda")
        if self._torch is None and self._device != "cpu":
            raise SextantInvalidArgument(f"device is {device} without PyTorch; allowed: cpu, or import torch first")

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:
        if self._torch is not None:
            types = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
            return self._torch.zeros(tuple(shape), dtype=getattr(self._torch, types.get(dtype, "uint8")), device=self._device)
        return np.zeros(tuple(shape), {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16, "int8": np.int8}.get(dtype, np.uint8))

    def place(self, array: Any) -> Any:
        return array if self._torch is None else self._torch.from_numpy(array).to(self._device)
