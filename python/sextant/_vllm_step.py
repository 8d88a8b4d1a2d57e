"""One step of vLLM: the batch on the host, the plan that layers of a kind share, and the memory that their kernels take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import torch

from sextant import api
from sextant._dlpack import Tensor, current_stream, workspace_beside
from sextant._layer_turns import LayerTurns, Memory
from sextant.torch import device_name


@dataclass(frozen=True, eq=False)
class Features:
    """A layer's spec and cache. Equal ones are one object, which is found by what it is and not by its fields."""

    spec: api.AttentionSpec
    cache: api.KvCacheSpec

    @classmethod
    def of(cls, spec: api.AttentionSpec, cache: api.KvCacheSpec) -> "Features":
        return _known.setdefault((spec, cache), cls(spec, cache))


_known: "dict[tuple[api.AttentionSpec, api.KvCacheSpec], Features]" = {}


class Workspace:
    """Memory for one run at a time. It grows; what a captured graph uses lives as long as the graph's metadata."""

    def __init__(self) -> None:
        self._memory: Any = Memory()
        self._of_kinds: dict[Any, "Workspace"] = {}

    def at_least(self, size: int, beside: torch.Tensor) -> Optional[Tensor]:
        """Grown by half at least: a long prompt wants more in each step, and PyTorch's allocator keeps what each of them leaves."""
        held = 0 if self._memory.tensor is None else self._memory.tensor.numel()
        if size > held:
            self._memory = Memory(workspace_beside(beside, max(size, held + held // 2), current_stream(beside)))
        return self._memory.tensor if size else None

    def turns(self, plan: Any, features: Features, beside: torch.Tensor) -> LayerTurns:
        """The plan with memory for it. On ROCm kinds of layers that take turns have memory of their own, so that a kind finds how it divided its work."""
        memory = self if torch.version.hip is None else self._of_kinds.setdefault(features, Workspace())
        held = memory.at_least(plan.workspace_bytes, beside)
        return LayerTurns(plan, memory._memory if held is not None else Memory())


def dcp_ranks() -> "tuple[int, int]":
    """(how many ranks share a context, which one this is)."""
    try:
        from vllm.distributed.parallel_state import get_dcp_group

        group = get_dcp_group()
        return group.world_size, group.rank_in_group
    except (AssertionError, ImportError):  # not set up: a test, or a tool that only asks
        return 1, 0


def host_batch(common: Any, requests: int) -> "Optional[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]":
    """query_start_loc and seq_lens (or bounds of it) that vLLM has on the host anyway: no step waits for the device. None: on the CPU platform,
    whose tensors are on the host.
    """
    if common.seq_lens.device.type == "cpu":
        return None
    lens = getattr(common, "seq_lens_cpu_upper_bound", None)
    if lens is None:
        lens = getattr(common, "_seq_lens_cpu", None)
    if lens is None:
        lens = common.seq_lens.cpu()
    return common.query_start_loc_cpu[: requests + 1].numpy(), lens[:requests].numpy()


def plan_step(step: Any, backend: str, features: Features) -> LayerTurns:
    """The plan of a step for layers with these features."""
    if step.host is None:
        batch = dict(query_start_loc=step.query_start_loc, seq_lens=step.seq_lens, block_table=step.block_table, slot_mapping=step.slot_mapping)
    else:
        starts, lens = step.host
        batch = dict(query_start_loc=starts, seq_lens=lens, max_blocks_per_request=step.block_table.shape[1])
    plan = api.plan(backend, features.spec, features.cache, device=device_name(step.seq_lens.device), **batch, **step.options)
    turns: LayerTurns = step.workspace.turns(plan, features, step.seq_lens)
    return turns
