"""Random weights of a trained model's size.

vLLM's own dummy ones lie within 0.001 of 0: every key then weighs the same, and no comparison of outputs would see a
wrong mask."""

from __future__ import annotations

from typing import Any

_count = 0  # parameters so far: each has its own seed


def scaled(module: Any, *_: Any, **__: Any) -> None:
    """The module's own parameters: matrices with a standard deviation of 1 / sqrt(columns), norms 1, biases small."""
    import torch

    global _count
    for name, value in sorted(module.named_parameters(recurse=False)):
        _count += 1
        if not torch.is_floating_point(value) or value.element_size() < 2 or "scale" in name:
            continue
        generator = torch.Generator(device=value.device).manual_seed(1234 + _count)
        with torch.no_grad():
            if value.dim() > 1 and "bias" not in name:
                value.normal_(0.0, value.shape[-1] ** -0.5, generator=generator)
            elif "bias" in name or "sinks" in name:
                value.normal_(0.0, 0.1, generator=generator)
            else:
                value.fill_(0.0 if "Gemma" in type(module).__name__ else 1.0)  # Gemma's norms add 1


def install() -> None:
    """`--load-format dummy` of this process takes them."""
    from vllm.model_executor.model_loader import dummy_loader

    dummy_loader.initialize_dummy_weights = scaled
