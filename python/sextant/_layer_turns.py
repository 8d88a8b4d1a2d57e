"""A plan that the layers of a step run one after another, and its memory: the work is divided once a step, by the first of them (HIP)."""

from __future__ import annotations

from typing import Any, Optional

from sextant._dlpack import Tensor


class Memory:
    """A workspace for one run at a time, and whose run was the last in it."""

    def __init__(self, tensor: Optional[Tensor] = None) -> None:
        self.tensor = tensor
        self.last: Any = None


class LayerTurns:
    """`run` for each layer of a step in turn. A layer that comes again begins a new step, of other lengths."""

    def __init__(self, plan: Any, memory: Memory) -> None:
        self.plan, self.workspace = plan, memory.tensor
        self._memory, self._came = memory, set()  # type: ignore[var-annotated]
        self._way: Any = None

    def begin(self) -> None:
        """A step, of other lengths."""
        self._way = None

    def run(self, layer: Any, **tensors: Any) -> None:
        """`layer`: what tells it from others of the step. Tensors as the plan's own `run` takes them, without the workspace."""
        way = (tensors.get("k") is None, tensors.get("slot_mapping") is None, _captures(tensors["q"]))
        is_next = self.workspace is not None and self._memory.last is self and way == self._way and layer not in self._came
        self._memory.last = None  # what a run leaves that fails is nobody's
        self.plan.run(**tensors, workspace=self.workspace, next_layer=is_next)
        if not is_next:
            self._came.clear()
        self._came.add(layer)
        self._way, self._memory.last = way, self


def _captures(tensor: Any) -> bool:
    """Whether the run becomes part of a graph, whose replays must divide their work themselves."""
    if getattr(getattr(tensor, "device", None), "type", None) != "cuda":
        return False
    import torch

    return bool(torch.cuda.is_current_stream_capturing())
