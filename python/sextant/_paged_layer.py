"""The parts of a PagedCache: one layer's memory, and one step's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import torch
from transformers.cache_utils import CacheLayerMixin

from sextant import api
from sextant._layer_turns import LayerTurns

if TYPE_CHECKING:
    from sextant._paged_cache import PagedCache


class Length(int):
    """A number of keys that remembers its cache: transformers hands it to the mask function, and nothing else of
    the cache.
    """

    cache: "PagedCache"


class Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's blocks. Made when its first keys come, whose sizes and backend are known then."""

    is_sliding = False  # windows are the masks' business: all blocks stay
    is_croppable = True

    def __init__(self, cache: "PagedCache") -> None:
        super().__init__()
        self._cache = cache
        self.columns = 0  # tokens and padding that this layer has seen
        self.window = 0  # tokens that transformers' own cache would keep in this layer; 0: all
        self.backend = ""
        self.spec: Optional[api.KvCacheSpec] = None
        self.k_cache: Any = None
        self.v_cache: Any = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Memory comes with the first attention, which knows its backend."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._cache.update(key_states, value_states, self._cache.layers.index(self))

    def get_mask_sizes(self, query_length: Any) -> "tuple[int, int]":
        queries = query_length if isinstance(query_length, int) else int(query_length.shape[0])
        length = Length(self.columns + queries)
        length.cache = self._cache
        return length, 0

    def get_seq_length(self, *_: Any) -> int:
        return self.columns

    def get_max_length(self) -> int:
        return self._cache.max_tokens or -1

    get_max_cache_shape = get_max_length

    @property
    def batch_size(self) -> int:
        if self._cache.batch < 0:
            raise AttributeError("no tokens yet")
        return self._cache.batch

    def make(self, num_blocks: int) -> None:
        """Memory for that many blocks; what is in the present ones stays."""
        assert self.spec is not None
        wanted = api.KvCacheSpec(**{**self.spec.__dict__, "num_blocks": num_blocks})
        k_shape, v_shape, _ = api.cache_shape(wanted, device=self._cache.device_name)
        for name, shape in (("k_cache", k_shape), ("v_cache", v_shape)):
            old = getattr(self, name)
            new = torch.empty(shape, dtype=self._cache.dtype, device=self._cache.device)
            if old is not None:
                new[: len(old)] = old
            setattr(self, name, new)
        self.spec = wanted


class Step:
    """New tokens of all requests: the numbers that every layer's run takes, and the plans that were made."""

    def __init__(self, start: int, queries: int, rows: "Optional[torch.Tensor]") -> None:
        self.start, self.queries = start, queries
        self.rows = rows  # of [B * queries], those that are no padding; None: all
        self.plans: "dict[Any, LayerTurns]" = {}
        self.tensors: "dict[str, Any]" = {}
        self.lens: Any = None
        self.starts: Any = None
