"""What transformers' mask interface can say is served as `eager` does, or refused by name."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import transformers  # noqa: E402
from test_transformers import MHA, MLA, SMALL, deepseek, gemma3, gpt_oss, random_model  # noqa: E402

import sextant  # noqa: E402
import sextant.transformers as st  # noqa: E402
from sextant._transformers_mask import parts_of  # noqa: E402


def llama(**more):
    return random_model(transformers.LlamaConfig(**SMALL, num_key_value_heads=2, **more))


def mistral():
    return random_model(transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8))


def llama4():
    config = transformers.Llama4TextConfig(
        **SMALL, num_key_value_heads=2, head_dim=16, intermediate_size_mlp=96, num_local_experts=2, attention_chunk_size=12,
        layer_types=["chunked_attention", "full_attention"], pad_token_id=0,
    )
    return random_model(config)


def prompt(batch=2, length=13, seed=1, vocabulary=128):
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def generate(model, implementation, ids, **arguments):
    model.set_attn_implementation(implementation)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": [], **arguments}
    return model.generate(ids, output_logits=True, return_dict_in_generate=True, disable_compile=True, **options)


def same_generation(model, implementation, ids, **arguments):
    expected, got = generate(model, "eager", ids, **arguments), generate(model, implementation, ids, **arguments)
    assert torch.equal(got.sequences, expected.sequences)
    for a, b in zip(got.logits, expected.logits):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


def same_logits(model, implementation, where=None, **inputs):
    results = []
    for name in ("eager", implementation):
        model.set_attn_implementation(name)
        with torch.no_grad():
            results.append(model(**inputs).logits)
    expected, got = results if where is None else [x[where] for x in results]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("cache", ["static", "sliding_window", "offloaded", "dynamic"])
@pytest.mark.parametrize("make", [llama, gemma3, mistral])
def test_cache_implementations(make, cache, implementation):
    """Slots that nothing was written to are no keys, and queries stand where the mask says."""
    if cache == "offloaded" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: offloaded caches copy from one")
    same_generation(make(), implementation, prompt(), cache_implementation=cache)


@pytest.mark.parametrize("implementation", MLA)
def test_mla_with_a_static_cache(implementation):
    model = deepseek()
    st.prepare_mla(model)
    same_generation(model, implementation, prompt(), cache_implementation="static")


@pytest.mark.parametrize("implementation", MLA + MHA[-1:])
def test_beams(implementation):
    """Beams copy rows of the cache and let them change places: the latents follow."""
    model = deepseek()
    st.prepare_mla(model)
    same_generation(model, implementation, prompt(), num_beams=4, eos_token_id=127)


@pytest.mark.parametrize("implementation", MHA)
def test_assisted(implementation):
    model, assistant = llama(), llama(hidden_act="gelu")
    ids = prompt(1)
    expected = generate(model, "eager", ids).sequences
    model.set_attn_implementation(implementation)
    assistant.set_attn_implementation(implementation)
    got = model.generate(ids, assistant_model=assistant, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=[])
    assert torch.equal(got, expected)


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_chunked_attention(cache, implementation):
    """A chunk of 12 with 13 tokens: the last token sees itself alone, in the layers that are chunked."""
    model = llama4()
    try:
        generate(model, "eager", prompt(), cache_implementation=cache)
    except TypeError as error:  # 5.19 with a static cache
        pytest.skip(f"transformers {transformers.__version__}: eager itself does not run: {error}")
    same_generation(model, implementation, prompt(), cache_implementation=cache)
    mask = torch.ones(2, 13, dtype=torch.long)
    mask[0, :4] = 0
    same_logits(model, implementation, mask.bool(), input_ids=prompt(), attention_mask=mask)


def test_chunked_attention_in_packed_batches_is_refused():
    model = llama4()
    model.set_attn_implementation(MHA[0])
    starts = torch.tensor([0, 5, 13], dtype=torch.int32)
    with pytest.raises(sextant.SextantUnsupported, match="chunked_attention with packed sequences"):
        model(prompt(1), cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=8, max_length_k=8, use_cache=False)


@pytest.mark.parametrize("implementation", MHA)
def test_cross_attention_with_a_padded_source(implementation):
    config = transformers.BartConfig(
        vocab_size=128, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=96,
        decoder_ffn_dim=96, max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration._from_config(config, dtype=torch.float32).eval()
    source = torch.ones(2, 13, dtype=torch.long)
    source[0, 9:] = 0
    for length in (5, 20):  # fewer and more targets than sources
        same_logits(model, implementation, input_ids=prompt(), attention_mask=source, decoder_input_ids=prompt(2, length))
    same_generation(model, implementation, prompt(), attention_mask=source, num_beams=3, eos_token_id=127)


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("make", [llama, gpt_oss, gemma3, mistral])
def test_masks_with_holes(make, implementation):
    """Keys that are masked in the middle: windows count them all the same."""
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[0, 11:14] = 0
    mask[1, :5] = 0
    mask[1, 20] = 0
    same_logits(make(), implementation, mask.bool(), input_ids=prompt(2, 30), attention_mask=mask)


@pytest.mark.parametrize("implementation", MHA)
def test_padding_on_the_right(implementation):
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[0, 17:] = 0
    for make in (llama, mistral):
        same_logits(make(), implementation, mask.bool(), input_ids=prompt(2, 30), attention_mask=mask)


@pytest.mark.parametrize("implementation", MHA)
def test_windows_of_an_encoder(implementation):
    config = transformers.ModernBertConfig(
        **SMALL, local_attention=9, global_attn_every_n_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )
    torch.manual_seed(0)
    model = transformers.ModernBertForMaskedLM._from_config(config, dtype=torch.float32).eval()
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[0, 17:] = 0
    mask[1, :3] = 0
    same_logits(model, implementation, mask.bool(), input_ids=prompt(2, 30), attention_mask=mask)
    same_logits(model, implementation, input_ids=prompt(2, 30))


@pytest.mark.parametrize("implementation", MHA)
def test_masks_of_four_dimensions(implementation):
    """A caller's own mask: causal, and every third key is seen by everyone after it. Bool and float."""
    model, ids = llama(), prompt(2, 30)
    seen = torch.ones(30, 30, dtype=torch.bool).tril() & (torch.rand(2, 1, 30, 30, generator=torch.Generator().manual_seed(3)) > 0.3)
    seen |= torch.eye(30, dtype=torch.bool)
    additive = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(ids, attention_mask=additive, use_cache=False).logits
        model.set_attn_implementation(implementation)
        for mask in (additive, seen):
            torch.testing.assert_close(model(ids, attention_mask=mask, use_cache=False).logits, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("implementation", MHA)
def test_blocks_that_see_each_other(implementation):
    """Image tokens: bidirectional among themselves, causal towards the rest."""
    from transformers import masking_utils

    groups = torch.full((2, 30), -1)
    groups[0, 5:12], groups[1, 2:9], groups[1, 15:20] = 0, 0, 1
    model, ids = llama(), prompt(2, 30)
    results = []
    for name in ("eager", implementation):
        model.set_attn_implementation(name)
        embeds = model.get_input_embeddings()(ids)
        overlay = masking_utils.blockwise_overlay(groups)
        mask = masking_utils.create_causal_mask(model.config, embeds, None, None, or_mask_function=overlay)
        with torch.no_grad():
            results.append(model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits)
    torch.testing.assert_close(results[1], results[0], atol=2e-4, rtol=2e-4)
    parts = parts_of(mask, 2, 30, 30, True, 0)
    assert len(parts) == 1 and dict(parts[0].rule) == {"causal": True, "max_span_len": 8} and parts[0].query_lens == (30, 30)


def _image_mask(queries, keys, window, spans, padded):
    key, query = np.arange(keys)[None], (keys - queries + np.arange(queries))[:, None]
    seen = (key <= query) & ((key > query - window) if window else True)
    for begin, end in spans:
        seen = seen | ((key >= begin) & (key < end) & (query >= begin) & (query < end))
    return seen & (key >= padded) & (query >= padded)


def test_image_masks_become_what_they_were():
    """The runs of masks with spans, windows, padding and a context say the mask again, key by key."""
    from sextant import _transformers_mask as masks

    random, with_spans = np.random.default_rng(1), 0
    for _ in range(500):
        keys = int(random.integers(2, 60))
        queries, window, padded = int(random.integers(2, keys + 1)), int(random.choice([0, 0, 1, 3, 8, 20])), 0
        if random.integers(3) == 0:
            padded = min(5, keys - queries)
        spans, at = [], padded + int(random.integers(0, 10))
        while at < keys:
            spans.append((at, min(keys, at + int(random.integers(1, 15)))))
            at = spans[-1][1] + int(random.choice([0, 1, 5]))
        mask = _image_mask(queries, keys, window, spans, padded)
        width, again = max(1, masks._window(mask)), np.zeros_like(mask)
        for run in masks._runs(mask, 0, width):
            rule = dict(run.rule)
            rows, columns = len(run.queries), len(run.keys)
            near = rule.get("sliding_window") or (width if run.truncated else 0)
            inside = [] if run.spans is None else {tuple(map(int, span)) for span in run.spans if span[0] < span[1]}
            part = _image_mask(rows, columns, near, inside, 0) if rule["causal"] else np.ones((rows, columns), bool)
            if "window_left" in rule:
                key, query = np.arange(columns)[None], np.arange(rows)[:, None]
                part &= (key >= query - rule["window_left"]) & (key <= query + rule["window_right"])
            again[np.ix_(run.queries, run.keys)] |= part
            with_spans += run.spans is not None
        assert (again == mask).all(), (keys, queries, window, spans, padded)
    assert with_spans > 200


@pytest.mark.parametrize("implementation", MHA + MLA)
def test_packed_positions(implementation):
    """Packed sequences are found in the positions; nothing of size [T, T] is made for them."""
    model = deepseek()
    st.prepare_mla(model)
    positions = torch.cat([torch.arange(5), torch.arange(1), torch.arange(7)])[None]
    same_logits(model, implementation, input_ids=prompt(1), position_ids=positions, use_cache=False)


@pytest.mark.parametrize("make", [llama, mistral])
def test_long_packed_batches(make):
    """The same through an empty mask that carries the runs."""
    from transformers import masking_utils

    model = make()
    positions = torch.cat([torch.arange(n) % 250 for n in (500, 1, 600)])[None]
    numbers = masking_utils.find_packed_sequence_indices(positions)
    function = masking_utils.and_masks(masking_utils.causal_mask_function, masking_utils.packed_sequence_mask_function(numbers))
    mask = st.exact_mask(1, 1101, 1101, mask_function=function)
    assert mask.numel() == 0 and parts_of(mask, 1, 1101, 1101, True, 0)[0].query_lens == (250, 250, 1, 250, 250, 100)
    same_logits(model, MHA[3], input_ids=prompt(1, 1101), position_ids=positions, use_cache=False)


def test_gradients_are_refused():
    model = llama()
    model.set_attn_implementation(MHA[0])
    loss = model(prompt(), labels=prompt()).loss  # without no_grad: a result, as long as nobody wants gradients
    with pytest.raises(sextant.SextantUnsupported, match="a gradient of query, key or value is asked for; allowed: forward passes"):
        loss.backward()


def attend(mask, **arguments):
    q = torch.randn(2, 4, 6, 32)
    return st._forward("TRITON_ATTN", torch.nn.Module(), q, q[:, :2], q[:, :2], mask, **arguments)


@pytest.mark.parametrize("mask, message", [
    (torch.zeros(2, 2, 6, 6).normal_(), "holds biases that are added to the scores"),
    (torch.rand(2, 4, 6, 6) > 0.5, "differs between heads"),
    (torch.ones(2, 1, 5, 6, dtype=torch.bool), r"attention_mask has shape \[2, 1, 5, 6\]; allowed: \[2, Sk\] or \[2, 1, 6, Sk\]"),
    (torch.ones(2, 1, 6, 6, dtype=torch.long), "attention_mask has dtype torch.int64"),
    (torch.ones(3, dtype=torch.bool), "attention_mask has shape"),
])  # fmt: skip
def test_masks_that_are_refused(mask, message):
    with pytest.raises(sextant.SextantUnsupported, match=message):
        attend(mask)


@pytest.mark.parametrize("name", ["position_bias", "head_mask"])
def test_biases_are_refused(name):
    with pytest.raises(sextant.SextantUnsupported, match=f"{name} was given; allowed: None"):
        attend(None, **{name: torch.zeros(1)})


def test_doge_is_refused_by_name():
    model = random_model(transformers.DogeConfig(**SMALL, num_key_value_heads=2))
    model.set_attn_implementation(MHA[0])
    with torch.no_grad(), pytest.raises(sextant.SextantUnsupported, match="holds biases|differs between heads"):
        model(prompt())


def test_masks_without_a_rule_are_refused_when_large():
    mask = torch.rand(1, 1, 400, 400, generator=torch.Generator().manual_seed(1)) > 0.5
    q = torch.randn(1, 2, 400, 32)
    with pytest.raises(sextant.SextantUnsupported, match=r"in 400 runs, since its rows follow no rule \(causal, window, equal\)"):
        st._forward("TRITON_ATTN", torch.nn.Module(), q, q, q, mask)


def test_rows_that_reach_into_a_span_of_which_they_are_no_part():
    """Two spans overlap where their rows differ: such a mask is cut into plain runs, and not refused for its spans."""
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        for begin, length in torch.randint(1, 6, (3, 2), generator=generator).tolist():
            mask[..., begin : begin + length, begin : begin + length] = True
        for part in parts_of(mask, 1, 8, 8, True, 0):
            spans = [] if part.spans is None else part.spans.tolist()
            for at, (begin, end) in enumerate(spans):
                assert begin >= end or all(spans[other] == [begin, end] for other in range(begin, min(end, len(spans)))), (seed, spans)
