"""Hugging Face transformers on an NVIDIA GPU: every backend's logits and text as those of its own eager attention."""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import sextant  # noqa: E402
from test_paged_cache import SMALL, check, prompts, random_model  # noqa: E402
from test_transformers import MHA, MLA, deepseek, gemma2, gpt_oss, greedy, logits, st  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not any(d["kind"] == "cuda" and d["available"] for d in sextant.devices()),
    reason="needs an NVIDIA GPU and a package with the CUDA device: pip install . -C cmake.define.SEXTANT_CUDA=ON",
)


def llama():
    return random_model(transformers.LlamaConfig(**SMALL))


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("make", [gpt_oss, gemma2])
def test_windows_sinks_and_softcap(make, implementation):
    model, ids = make().cuda(), torch.randint(3, 128, (2, 30), generator=torch.Generator().manual_seed(1)).cuda()
    expected = logits(model, "eager", ids)
    torch.testing.assert_close(logits(model, implementation, ids), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("implementation", MLA + MHA)
def test_deepseek_v3(implementation):
    model, ids = deepseek().cuda(), torch.randint(3, 128, (2, 30), generator=torch.Generator().manual_seed(2)).cuda()
    expected = logits(model, "eager", ids)
    st.prepare_mla(model)
    torch.testing.assert_close(logits(model, implementation, ids), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("implementation", MHA)
def test_padded_batch_in_bf16(implementation):
    model = gemma2().cuda().bfloat16()
    ids = torch.randint(3, 128, (2, 40), generator=torch.Generator().manual_seed(3)).cuda()
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        model.set_attn_implementation(implementation)
        got = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("graphs", [False, None])
@pytest.mark.parametrize("make", [gpt_oss, llama])
@pytest.mark.parametrize("implementation", MHA)
def test_continuous_batching(implementation, make, graphs):
    """Windows keep their keys in a ring, which is gathered; without one decode steps run in a graph unless told not to."""
    model = make().cuda()
    if not hasattr(model, "generate_batch"):
        pytest.skip(f"needs generate_batch: transformers {transformers.__version__} has none")
    texts = [[5, 9, 7], list(range(10, 31)), [3, 4, 5, 6, 7, 8, 9, 10]]
    expected = [greedy(model, "eager", torch.tensor([p]).cuda(), 24)[0, len(p) :].tolist() for p in texts]
    model.set_attn_implementation(implementation)
    config = transformers.GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=0, eos_token_id=-1)
    options = {}
    if hasattr(transformers, "ContinuousBatchingConfig"):
        settings = transformers.ContinuousBatchingConfig(use_cuda_graph=graphs, num_blocks=64, max_batch_tokens=256)
        options["continuous_batching_config"] = settings
    results = model.generate_batch(inputs=texts, generation_config=config, progress_bar=False, **options)
    got = {tuple(r.prompt_ids): list(r.generated_tokens) for r in results.values()}
    assert [got[tuple(p)] for p in texts] == expected


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("padded", [0, 9])
def test_decode_steps_in_graphs(implementation, options, padded):
    model = llama().cuda()
    st.use_cuda_graphs(model)
    inputs = {name: x.cuda() for name, x in prompts(padded=padded).items()}
    cache = st.PagedCache(model.config, max_tokens=64)
    check(model, implementation, cache, inputs, **options)
    assert [graph for graph in cache.graphs.values() if not isinstance(graph, str)]
    cache.reset()  # the graph goes on
    check(model, implementation, cache, inputs, **options)
