"""bench/serving's own logic: the loads, the models' configs and the table. No vLLM is needed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "serving"))

import backends  # noqa: E402
import closed_loop  # noqa: E402
import figure  # noqa: E402
import loads  # noqa: E402
import shapes  # noqa: E402
import profile_step  # noqa: E402
import table  # noqa: E402


@pytest.mark.parametrize("name", loads.LOADS)
def test_loads_are_the_same_each_time_and_fit(name):
    load = loads.LOADS[name]
    made = loads.requests(load, 1000, count=20)
    assert made == loads.requests(load, 1000, count=20) != loads.requests(load, 1000, seed=1, count=20)
    for request in made:
        assert request.new_tokens >= 1 and len(request.prompt) + request.new_tokens <= load.max_len
        assert all(3 <= token < 1000 for token in request.prompt)


def test_mixed_load_shares_prefixes_and_has_mooncakes_means():
    made = loads.requests(loads.LOADS["mixed"], 1000)
    firsts = [tuple(request.prompt[:64]) for request in made]
    assert len(set(firsts)) <= 4
    assert 5000 < sum(len(r.prompt) for r in made) / len(made) < 9000
    assert 120 < sum(r.new_tokens for r in made) / len(made) < 260


@pytest.mark.parametrize("name", shapes.MODELS)
def test_fewer_layers_keep_their_kinds(name, tmp_path):
    config = shapes.config_of(name, 8)
    assert config["num_hidden_layers"] == 8 and len(config.get("layer_types", range(8))) == 8
    assert shapes.config_of(name)["num_hidden_layers"] == shapes.MODELS[name]["num_hidden_layers"]
    assert (shapes.write(name, 8, tmp_path) / "config.json").exists()


def test_sextants_are_named_by_the_variable_and_vllms_by_the_argument():
    assert backends.environment("SEXTANT_TRITON_MLA") == {"VLLM_ATTENTION_BACKEND": "SEXTANT_TRITON_MLA"}
    assert backends.arguments("SEXTANT_TRITON_MLA") == {} == backends.environment("FLASH_ATTN")
    assert backends.arguments("FLASH_ATTN") == {"attention_backend": "FLASH_ATTN"}


def answer(tokens, gap=0.5):
    return {"prompt_len": 3, "tokens": tokens, "top": [[(-1.0, token), (-1.0 - gap, 9)] for token in tokens]}


def test_comparison_names_the_first_token_that_differs_and_its_gap():
    found = table.compare([answer([1, 2, 3], 0.25), answer([4, 5])], [answer([1, 7, 3]), answer([4, 5])])
    assert found["equal"] == 1 and found["differing"] == [{"prompt": 0, "prompt_len": 3, "token": 1, "gap": 0.25}]
    assert table.outputs_text(found) == "1/2, gap 0.250" and table.outputs_text(None) == "-"


def test_summary_counts_tokens_and_times():
    lines = [closed_loop.Timeline(0.0, 10, [1.0, 1.5, 2.0], True), closed_loop.Timeline(1.0, 20, [2.0])]
    found = closed_loop.summary([*lines, closed_loop.Timeline(3.0, 5)], 4.0)
    assert (found["requests"], found["finished"], found["new_tokens"], found["prompt_tokens"]) == (3, 1, 4, 30)
    assert found["new_tokens_per_s"] == 1.0 and found["ttft_ms"]["p50"] == 1000.0 and found["tpot_ms"]["p50"] == 500.0


def test_a_request_without_a_first_token_counts_with_its_wait():
    """Four prompts one after another: an engine that got to three of them is not the faster one."""
    fast = [closed_loop.Timeline(0.0, 10, [1.0 + i]) for i in range(4)]
    slow = [closed_loop.Timeline(0.0, 10, [1.3 + 1.3 * i]) for i in range(3)] + [closed_loop.Timeline(0.0, 10)]
    found = [closed_loop.summary(lines, 4.5) for lines in (fast, slow)]
    assert [f["answered"] for f in found] == [4, 3]
    assert found[0]["ttft_ms"]["p50"] == 3000.0 < found[1]["ttft_ms"]["p50"] == pytest.approx(3900.0)
    assert found[1]["ttft_first_ms"] == [1300.0, 2600.0, 3900.0, 4500.0]


def test_table_shows_what_ran_and_what_failed():
    job = {"model": "m", "kv_cache_dtype": "auto", "backend": "B"}
    load = {
        "kind": "load",
        "load": "decode",
        **closed_loop.summary([closed_loop.Timeline(0.0, 10, [1.0, 2.0], True)], 2.0),
    }
    profile = {"kind": "profile", "step": "decode", "kernels_ms": 4.0, "attention_ms": 1.0}
    text = table.text(
        [{"job": job, "results": [load, profile], "error": None}, {"job": job, "results": [], "error": "exit 1: no"}]
    )
    assert "-/25" in text and "failed" in text and len(text.splitlines()) == 4
    assert table.last_error("a\nValueError: bad\n  at x\n") == "ValueError: bad"


def test_figures_name_whose_backend_it_is_and_take_prompts_one_after_another():
    def run(backend, prompts):
        lines = [closed_loop.Timeline(0.0, 100000, [1.0 + i]) for i in range(prompts)]
        lines += [closed_loop.Timeline(0.0, 100000) for _ in range(4 - prompts)]
        load = {"kind": "load", "load": "long", **closed_loop.summary(lines, 5.0)}
        return {"job": {"backend": backend}, "results": [load]}

    runs = [run("FLASH_ATTN", 4), run("SEXTANT_TRITON_MLA", 3), run("TRITON_ATTN", 0)]
    (group,) = figure.groups(runs)
    assert group["bars"] == [["vLLM FLASH_ATTN", 1.0], ["TRITON_MLA", 1.0]] and group["better"] == "lower"
    assert [row[4] for row in figure.rows(runs)] == ["80001, 1.00", "60001, 1.00", "0, -"]


def test_kernels_of_attention_are_known_by_their_names():
    for name in (
        "void sextant::cuda::forward",
        "flash::FlashAttnFwdSm90",
        "kernel_unified_attention",
        "reshape_and_cache_flash_kernel",
    ):
        assert profile_step.is_attention(name)
    for name in ("nvjet_tst_128x256", "fused_moe_kernel", "rms_norm_kernel"):
        assert not profile_step.is_attention(name)
