"""CUDA graphs for the decode steps of a model over a PagedCache.

A step of one token a request launches the same kernels with the same addresses each time, as long as the cache's
memory stays where it is: its lengths, block table and slots are written to fixed places on the host's order, before
the step. So the model's forward pass is captured once a shape and replayed, which spares the host the whole model.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any, Callable, NamedTuple

import torch

from sextant.errors import SextantInvalidArgument, SextantUnsupported

_KEPT = 8  # graphs of one cache
_CACHES = ("past_key_values", "cache")  # transformers' names for it, older and newer
_TENSORS = ("input_ids", "position_ids", "cache_position")  # what a graph reads; other tensors must be absent
_PLAIN = (bool, int, float, str, type(None))


def use_cuda_graphs(model: torch.nn.Module) -> None:
    """Decode steps of `model` over a `PagedCache` on a GPU are captured in a CUDA graph when their shape comes for the
    second time, and replayed from then on, in `generate` and in calls of the model. Call once, after loading.

    Prompts, other caches, and calls that ask for hidden states or pass embeddings run as before. A graph is dropped
    when the cache's memory grows: with `PagedCache(max_tokens=...)` it never does.

    Raises SextantInvalidArgument where model is no model of transformers.
    """
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise SextantInvalidArgument(f"model is a {type(model).__name__}; allowed: a model of transformers")
    if not hasattr(model.forward, "_sextant_graphs"):
        model.forward = _Graphs(model.forward).as_function()  # type: ignore[assignment]


class _Captured:
    """A function's launches in a CUDA graph, and what it returned: `replay` fills the returned tensors anew."""

    def __init__(self, function: Callable[[], Any], device: torch.device) -> None:
        with torch.cuda.device(device):
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = function()

    def replay(self) -> Any:
        self._graph.replay()
        return self._result


class _Graph(NamedTuple):
    captured: Any
    inputs: "dict[str, torch.Tensor]"


_SEEN, _NEVER = "seen", "never"  # in place of a graph: the next step is captured; the model cannot be captured


class _Graphs:
    """Around a model's forward. Graphs are kept by the cache whose memory they hold."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._parameters = list(inspect.signature(forward).parameters)

    def as_function(self) -> Callable[..., Any]:
        @functools.wraps(self._forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._call(*args, **kwargs)

        setattr(forward, "_sextant_graphs", self)
        return forward

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(self._parameters, args)), **kwargs}
        caches = {name: given[name] for name in _CACHES if given.get(name) is not None}
        cache: Any = next(iter(caches.values()), None)
        if not _is_decode_step(given, cache):
            return self._forward(*args, **kwargs)
        tensors = {name: given[name] for name in _TENSORS if given.get(name) is not None}
        if "position_ids" not in tensors:  # which the model would take from the cache as a number
            tensors["position_ids"] = torch.full_like(tensors["input_ids"], cache.columns)
        rest = {name: x for name, x in given.items() if name not in (*_TENSORS, *_CACHES, "attention_mask")}
        shapes = tuple((name, tuple(x.shape), x.dtype) for name, x in tensors.items())
        key = (self, shapes, tuple(sorted(rest.items(), key=str)), cache.config_key())
        if cache.graphs.get(key, _NEVER) == _NEVER:
            if key not in cache.graphs and len(cache.graphs) < _KEPT:
                cache.graphs[key] = _SEEN  # this step runs as it is: what it makes and keeps is made outside a graph
            return self._forward(*args, **kwargs)
        cache.begin(len(tensors["input_ids"]), 1, tensors["input_ids"].device, given.get("attention_mask"))
        # Padding is known to the cache, so the model needs no mask.
        step = functools.partial(self._forward, **caches, **rest)
        graph = cache.graphs.get(key)  # gone where the step needed more memory
        if graph == _SEEN and cache.config_key() == key[-1]:
            graph = cache.graphs[key] = _captured(step, tensors, cache)
        if not isinstance(graph, _Graph):
            return step(**tensors)
        for name, fixed in graph.inputs.items():
            fixed.copy_(tensors[name])
        outputs = graph.captured.replay()
        cache.finish()
        return _own(outputs)


def _is_decode_step(given: "dict[str, Any]", cache: Any) -> bool:
    ids, mask = given.get("input_ids"), given.get("attention_mask")
    others = {name: x for name, x in given.items() if name not in (*_TENSORS, *_CACHES, "attention_mask")}
    return (
        getattr(cache, "captures_decode", False)
        and isinstance(ids, torch.Tensor)
        and ids.dim() == 2
        and ids.shape[1] == 1
        and cache.columns > 0
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and (mask is None or mask.dim() == 2)
        and not others.get("output_attentions")
        and not others.get("output_hidden_states")
        and all(isinstance(x, _PLAIN) for x in others.values())
    )


def _captured(step: Callable[..., Any], tensors: "dict[str, torch.Tensor]", cache: Any) -> Any:
    inputs = {name: x.clone() for name, x in tensors.items()}
    try:
        return _Graph(_Captured(functools.partial(step, **inputs), cache.device), inputs)
    except RuntimeError as error:  # the model waits for the device, say, to choose its experts
        warnings.warn(f"decode steps are not captured: {error}", stacklevel=2)
        cache.begin_again()
        return _NEVER


def _own(outputs: Any) -> Any:
    """The graph's outputs as tensors that the next replay leaves alone."""
    if isinstance(outputs, torch.Tensor):
        return outputs.clone()
    if isinstance(outputs, tuple):
        return tuple(map(_own, outputs))
    if hasattr(outputs, "items"):
        return type(outputs)(**{name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in outputs.items()})
    raise SextantUnsupported(f"the model returns a {type(outputs).__name__}; allowed: an output of transformers")
