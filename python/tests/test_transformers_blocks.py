"""Continuous batching over transformers' own blocks: decode steps read and write them where they lie, padded ones
(of a CUDA graph) too.
"""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import transformers  # noqa: E402

import sextant  # noqa: E402
import sextant._transformers_blocks as blocks  # noqa: E402
import sextant.transformers as st  # noqa: E402
from test_paged_cache import MHA, SMALL, random_model  # noqa: E402

st.register()
try:
    from transformers.generation.continuous_batching import initialization
except ImportError:
    initialization = None
FEATURES = (32**-0.5, {"causal": True, "sliding_window": 0, "logits_soft_cap": 0.0}, None)


def settings(**given):
    return transformers.ContinuousBatchingConfig(**{"page_size": 16, "num_blocks": 64, "max_batch_tokens": 64, **given})


def batched(model, prompts, tokens, config):
    generation = transformers.GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=-1)
    results = model.generate_batch(
        inputs=prompts, generation_config=generation, progress_bar=False, continuous_batching_config=config
    )
    assert not [r.error for r in results.values() if getattr(r, "error", None)]
    got = {tuple(r.prompt_ids): list(r.generated_tokens) for r in results.values()}
    return [got[tuple(prompt)] for prompt in prompts]


def eager(model, prompts, tokens):
    model.set_attn_implementation("eager")
    more = dict(max_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=[])
    return [model.generate(torch.tensor([p]), **more)[0, len(p) :].tolist() for p in prompts]


@pytest.mark.skipif(initialization is None, reason="needs a transformers with continuous batching")
@pytest.mark.parametrize("implementation", MHA)
def test_decode_steps_copy_nothing(implementation, monkeypatch):
    if not hasattr(initialization, "ensure_decode_fast_path_is_available"):
        pytest.skip(f"transformers {transformers.__version__} hands no blocks over")
    model = random_model(transformers.LlamaConfig(**SMALL))
    prompts = [[5, 9, 7], list(range(10, 41)), [3, 4, 5, 6, 7, 8, 9, 10]]
    expected = eager(model, prompts, 24)
    steps, gathered, attend, attend_gathered = [], [], st.attend_in_blocks, st._attend
    monkeypatch.setattr(st, "attend_in_blocks", lambda *a: steps.append(1) or attend(*a))
    monkeypatch.setattr(st, "_attend", lambda *a, **k: gathered.append(1) or attend_gathered(*a, **k))
    model.set_attn_implementation(implementation)
    assert batched(model, prompts, 24, settings()) == expected
    layers = SMALL["num_hidden_layers"]
    assert len(steps) >= 20 * layers and len(gathered) <= 4 * layers, (len(steps), len(gathered))


@pytest.mark.skipif(initialization is None, reason="needs a transformers with continuous batching")
def test_padded_batches_of_transformers():
    """As a graph has them: a compiled step is padded to a power of two requests."""
    if not hasattr(initialization, "ensure_decode_fast_path_is_available"):
        pytest.skip(f"transformers {transformers.__version__} hands no blocks over")
    model = random_model(transformers.LlamaConfig(**SMALL))
    prompts = [[5, 9, 7], list(range(10, 41)), [3, 4, 5, 6, 7, 8, 9, 10]]
    expected = eager(model, prompts, 12)
    model.set_attn_implementation(MHA[3])
    compiled = transformers.CompileConfig(backend="eager", mode=None, dynamic=False)
    assert batched(model, prompts, 12, settings(decode_compile_config=compiled)) == expected


@pytest.mark.skipif(initialization is None, reason="needs a transformers with continuous batching")
def test_graphs_are_for_decode_steps_alone(monkeypatch):
    if not hasattr(initialization, "ensure_decode_fast_path_is_available"):
        pytest.skip(f"transformers {transformers.__version__} hands no blocks over")
    config = transformers.LlamaConfig(**SMALL)
    config._attn_implementation = MHA[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for given, graphs in ((None, (False, True)), (True, (False, True)), (False, (False, False)),
                          ((True, False), (False, False))):  # fmt: skip
        options = settings(use_cuda_graph=given, max_blocks_per_request=4)
        initialization.ensure_decode_fast_path_is_available(config, options, False)
        assert options.use_cuda_graph == graphs and options.use_async_batching is graphs[1]
        padded = options.q_padding_interval_size, options.kv_padding_interval_size
        assert padded == ((1, 1) if graphs[1] else (0, 0))  # the others are not captured, so they are not padded
    window = transformers.Gemma2Config(**SMALL, sliding_window=8)  # whose ring of blocks transformers does not hand over
    window._attn_implementation = MHA[0]
    options = settings(max_blocks_per_request=4)
    initialization.ensure_decode_fast_path_is_available(window, options, False)
    assert options.max_blocks_per_request == 0 and options.use_cuda_graph == (False, False)


def step(lens, padded, page=16, columns=3):
    """What transformers hands over: requests of these lengths, the new token's included, then padded ones."""
    generator = torch.Generator().manual_seed(1)
    total, count = len(lens) + padded, len(lens)
    memory = torch.randn(2 * total * columns + 4, page, 2, 32, generator=generator)
    table = torch.full((total, columns), -1, dtype=torch.int32)
    table[:count] = 2 * torch.arange(count * columns, dtype=torch.int32).view(count, columns)
    return dict(
        block_table=table, k_cache=memory[:-1], v_cache=memory[1:],  # in turns in one memory
        cu_seq_lens_q=torch.tensor([0, *range(1, count + 1), *[count] * padded], dtype=torch.int32),
        cu_seq_lens_k=torch.tensor([0, *torch.tensor(lens).cumsum(0), *[sum(lens)] * padded], dtype=torch.int32),
    )  # fmt: skip


@pytest.mark.parametrize("backend", st.MHA_BACKENDS)
@pytest.mark.parametrize("padded", [0, 3])
def test_a_padded_step(backend, padded):
    lens = (1, 16, 17, 40)
    given = step(lens, padded)
    q, k, v = (torch.randn(1, heads, len(lens) + padded, 32) for heads in (4, 2, 2))
    before = given["k_cache"].clone(), given["v_cache"].clone()
    out = blocks.attend_in_blocks(backend, q, k, v, given, FEATURES)
    assert out.shape == (len(lens) + padded, 4, 32) and not out[len(lens) :].any()
    for row, length in enumerate(lens):
        keys = []
        for new, old in ((k, before[0]), (v, before[1])):
            rows = old[given["block_table"][row].long()].flatten(0, 1)[: length - 1]
            keys.append(torch.cat([rows, new[0, :, row][None]]).repeat_interleave(2, 1).transpose(0, 1)[None])
        expected = torch.nn.functional.scaled_dot_product_attention(q[:, :, row : row + 1], *keys)
        torch.testing.assert_close(out[row], expected[0, :, 0], atol=1e-5, rtol=1e-5)
        block, at = given["block_table"][row, (length - 1) // 16], (length - 1) % 16
        torch.testing.assert_close(given["k_cache"][block, at], k[0, :, row])
        torch.testing.assert_close(given["v_cache"][block, at], v[0, :, row])


def test_what_layers_share_is_made_once():
    given = step((3, 20), 0)
    first = blocks._step_of(given, 16)
    assert blocks._step_of(dict(given), 16) is first  # the next layer
    assert blocks._step_of(step((3, 20), 0), 16) is not first  # the next step


def test_other_block_tables_are_refused():
    given = step((3, 20), 0)
    q, k, v = (torch.randn(1, heads, 3, 32) for heads in (4, 2, 2))
    with pytest.raises(sextant.SextantUnsupported, match="3 queries came with block tables of 2 requests; allowed"):
        blocks.attend_in_blocks("TRITON_ATTN", q, k, v, given, FEATURES)


def test_packed_lengths_are_read_once_a_step():
    q, k = (torch.tensor(x, dtype=torch.int32) for x in ([0, 3, 3, 8, 8, 8], [0, 4, 5, 12, 12, 12]))
    assert blocks.packed_lengths(q, k) == ([3, 0, 5], [4, 1, 7])  # without what is padding at the end
    assert blocks.packed_lengths(q, k)[0] is blocks.packed_lengths(q, k)[0]
    q[3:] = 7
    assert blocks.packed_lengths(q, k) == ([3, 0, 4], [4, 1, 7])
    with torch.inference_mode():
        q, k = q.clone(), k.clone()
        assert blocks.packed_lengths(q, k) == ([3, 0, 4], [4, 1, 7])
        q[3:] = 8
        assert blocks.packed_lengths(q, k) == ([3, 0, 5], [4, 1, 7])
