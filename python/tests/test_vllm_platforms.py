"""Which class a backend's name means on which platform, with stand-ins for vLLM's platform and registry: no vLLM is needed."""

import enum
import sys
import types

import pytest

pytest.importorskip("torch")

OWN = "vllm.v1.attention.backends.own.Backend"
NAMES = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA", "TRITON_MLA", "ROCM_AITER_MLA", "FLASH_ATTN")


@pytest.fixture
def platform(request, monkeypatch):
    """The plugin registered on a platform of the kind that the test asks for, and what it registered."""
    kind, registered = request.param, {}

    class Platform:
        is_cpu = staticmethod(lambda: kind == "cpu")
        is_rocm = staticmethod(lambda: kind == "rocm")

        @classmethod
        def get_attn_backend_cls(cls, selected_backend, attn_selector_config, num_heads=None):
            return OWN

        @classmethod
        def check_and_update_config(cls, vllm_config):
            pass

    class Kind(enum.EnumMeta):
        def __getitem__(cls, name):
            if name not in cls.__members__:
                raise ValueError(f"Unknown attention backend: '{name}'")
            return super().__getitem__(name)

    names = Kind.__prepare__("AttentionBackendEnum", (enum.Enum,))
    for name in NAMES:
        names[name] = name
    registry = Kind("AttentionBackendEnum", (enum.Enum,), names)
    registry.register = staticmethod(lambda name, path: registered.__setitem__(name, path))
    logger = types.SimpleNamespace(info_once=lambda *_: None, warning_once=lambda *_: None)
    modules = {
        "vllm": {},
        "vllm.logger": {"init_logger": lambda _: logger},
        "vllm.platforms": {"current_platform": Platform},
        "vllm.v1": {}, "vllm.v1.attention": {}, "vllm.v1.attention.backends": {},
        "vllm.v1.attention.backends.registry": {
            "AttentionBackendEnum": registry,
            "register_backend": lambda backend, path: registered.__setitem__(backend.name, path),
        },
    }  # fmt: skip
    for name, members in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("VLLM_ATTENTION_BACKEND", raising=False)
    from sextant import vllm as plugin

    plugin.register()
    return types.SimpleNamespace(platform=Platform, registry=registry, registered=registered)


@pytest.mark.parametrize("platform", ["cpu", "rocm", "cuda"], indirect=True)
def test_a_misspelt_attention_backend_gets_a_hint(platform):
    with pytest.raises(ValueError, match="Unknown attention backend: 'ROCM_ATN'; did you mean ROCM_ATTN"):
        platform.registry["ROCM_ATN"]
    with pytest.raises(ValueError, match="Unknown attention backend: 'NOTHING'$"):
        platform.registry["NOTHING"]
    assert platform.registry["FLASH_ATTN"].name == "FLASH_ATTN"


CONFIG = types.SimpleNamespace(attn_type="decoder", use_sparse=False, use_mla=False)


@pytest.mark.parametrize("platform", ["rocm"], indirect=True)
def test_on_rocm_a_name_that_is_asked_for_is_ours_and_others_stay(platform):
    choose = platform.platform.get_attn_backend_cls
    assert choose(None, CONFIG) == OWN  # nothing was asked for
    assert choose(platform.registry["FLASH_ATTN"], CONFIG) == OWN
    assert not set(NAMES) & set(platform.registered)
    assert choose(platform.registry["ROCM_AITER_FA"], CONFIG) == "sextant.vllm.SextantRocmAiterFa"
    assert platform.registered["ROCM_AITER_FA"] == "sextant.vllm.SextantRocmAiterFa"
    assert "TRITON_ATTN" not in platform.registered
    with pytest.raises(ValueError, match="is TRITON_MLA and the model's attention is MHA"):
        choose(platform.registry["TRITON_MLA"], CONFIG)


@pytest.mark.parametrize("platform", ["cuda"], indirect=True)
def test_on_cuda_only_names_with_a_prefix_are_ours(platform):
    assert platform.platform.get_attn_backend_cls(platform.registry["TRITON_ATTN"], CONFIG) == OWN
    assert platform.registered["SEXTANT_TRITON_ATTN"] == "sextant.vllm.SextantTritonAttn"
    assert not set(NAMES) & set(platform.registered)


@pytest.mark.parametrize("platform", ["cpu"], indirect=True)
def test_on_cpus_all_names_are_ours(platform):
    assert platform.registered["ROCM_ATTN"] == "sextant.vllm.SextantRocmAttn"
    assert platform.platform.get_attn_backend_cls(platform.registry["ROCM_ATTN"], CONFIG) == "sextant.vllm.SextantRocmAttn"


@pytest.mark.parametrize("missing", ["vllm.logger", "vllm.platforms", "vllm.v1.attention.backends.registry"])
@pytest.mark.parametrize("platform", ["cpu"], indirect=True)
def test_a_vllm_without_what_is_needed_is_told_and_goes_on(platform, missing, monkeypatch, caplog):
    from sextant import vllm as plugin

    monkeypatch.setitem(sys.modules, missing, types.ModuleType(missing))
    plugin.register()
    assert "are not registered with vLLM" in caplog.text and "ImportError" in caplog.text


@pytest.mark.parametrize("platform", ["cpu"], indirect=True)
@pytest.mark.parametrize("version, told", [("0.22.1", True), ("0.23.0", False), ("0.33.2+cpu", False), ("0.34.0", True), ("1.2", True), ("dev", False)])
def test_versions_of_vllm_are_checked(platform, version, told, monkeypatch, caplog):
    from sextant import vllm as plugin

    monkeypatch.setattr(plugin, "_vllm_version", lambda: version)
    plugin.register()
    assert (f"vLLM is {version}; the attention backends were written for 0.23 to 0.33" in caplog.text) == told
