"""PagedCache: the text and the logits of eager's own cache, with every way of generating; what cannot be served is
refused by name.
"""

import gc

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import transformers  # noqa: E402

import sextant  # noqa: E402
import sextant.transformers as st  # noqa: E402

st.register()
MHA = [st.implementation_name(b) for b in st.MHA_BACKENDS]
SMALL = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)


def random_model(config, seed=0):
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # logits that differ enough for a text that says something
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model


@pytest.fixture(scope="module")
def llama():
    return random_model(transformers.LlamaConfig(**SMALL))


@pytest.fixture(scope="module")
def gemma2():  # a window in every other layer, softcap
    return random_model(
        transformers.Gemma2Config(
            **SMALL, head_dim=32, sliding_window=8, attn_logit_softcapping=2.0, query_pre_attn_scalar=32
        )
    )


def prompts(batch=2, length=30, padded=0):
    ids = torch.randint(3, 120, (batch, length), generator=torch.Generator().manual_seed(batch * length))
    mask = torch.ones_like(ids)
    mask[0, :padded] = 0
    return dict(input_ids=ids, attention_mask=mask)


def generate(model, implementation, cache, inputs, **options):
    model.set_attn_implementation(implementation)
    more = {} if cache is None else {"past_key_values": cache}
    options = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, "eos_token_id": 127, **more, **options}
    return model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **options)


def check(model, implementation, cache, inputs, **options):
    expected = generate(model, "eager", None, inputs, **options)
    got = generate(model, implementation, cache, inputs, **options)
    assert torch.equal(got.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(got.logits), torch.stack(expected.logits), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}],
    ids=["greedy", "beams", "returned_beams"],
)
@pytest.mark.parametrize("padded", [0, 7])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_same_text(request, name, padded, options, implementation):
    model = request.getfixturevalue(name)
    check(model, implementation, st.PagedCache(model.config, block_size=5), prompts(padded=padded), **options)


@pytest.mark.parametrize(
    "options", [{"max_tokens": 60}, {"reuse_plans": True}, {"reuse_plans": True, "max_tokens": 64, "block_size": 16}]
)
def test_options(llama, options):
    check(llama, MHA[3], st.PagedCache(llama.config, **options), prompts(padded=3))


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"assistant": 1}, {"assistant": 0}])
def test_assisted_decoding(llama, options):
    """Candidates that are wrong are cropped; seed 0 is the model itself, whose candidates are right."""
    options = dict(options)
    if "assistant" in options:
        options["assistant_model"] = random_model(transformers.LlamaConfig(**SMALL), options.pop("assistant"))
    check(llama, MHA[3], st.PagedCache(llama.config, block_size=4), prompts(1), **options)


def test_a_conversation_goes_on(llama):
    """A second call continues where the first ended, with more than one new token; reset begins anew in the same
    memory.
    """
    llama.set_attn_implementation(MHA[1])
    ids = prompts(1, 24)["input_ids"]
    cache = st.PagedCache(llama.config)
    with torch.no_grad():
        parts = [
            llama(ids[:, a:b], past_key_values=cache, use_cache=True).logits for a, b in ((0, 9), (9, 10), (10, 24))
        ]
        memory = cache.layers[0].k_cache.data_ptr()
        cache.reset()
        again = llama(ids, past_key_values=cache, use_cache=True).logits
        assert cache.layers[0].k_cache.data_ptr() == memory and cache.get_seq_length() == 24
        llama.set_attn_implementation("eager")
        expected = llama(ids).logits
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(again, expected, atol=2e-3, rtol=2e-3)


def test_nothing_is_copied_and_a_step_has_one_plan(llama, monkeypatch):
    llama.set_attn_implementation(MHA[3])
    cache, plans = st.PagedCache(llama.config, max_tokens=64), []
    make = sextant.api.plan
    monkeypatch.setattr(sextant.api, "plan", lambda *a, **k: plans.append(1) or make(*a, **k))
    monkeypatch.setattr(sextant.api, "reshape_and_cache", None)
    with torch.no_grad():
        llama(prompts(2, 20)["input_ids"], past_key_values=cache, use_cache=True)
        addresses = [layer.k_cache.data_ptr() for layer in cache.layers]
        for _ in range(5):
            llama(torch.ones(2, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    assert len(plans) == 6 and addresses == [layer.k_cache.data_ptr() for layer in cache.layers]


def test_decode_steps_as_a_graph_wants_them(llama, monkeypatch):
    """With reuse_plans a decode step makes no plan and its numbers stay where they are; the host's part is
    `begin`, before the first layer.
    """
    llama.set_attn_implementation(MHA[1])
    cache, plans = st.PagedCache(llama.config, max_tokens=64, reuse_plans=True), []
    token = torch.ones(2, 1, dtype=torch.long)
    with torch.no_grad():
        llama(prompts(2, 20)["input_ids"], past_key_values=cache, use_cache=True)
        llama(token, past_key_values=cache, use_cache=True)
        addresses = [x.data_ptr() for x in cache._step.tensors.values()]
        make = sextant.api.plan
        monkeypatch.setattr(sextant.api, "plan", lambda *a, **k: plans.append(1) or make(*a, **k))
        for _ in range(5):
            llama(token, past_key_values=cache, use_cache=True)
            assert [x.data_ptr() for x in cache._step.tensors.values()] == addresses
    assert not plans


def test_beams_share_blocks(llama):
    llama.set_attn_implementation(MHA[3])
    cache = st.PagedCache(llama.config, block_size=4)
    with torch.no_grad():
        llama(prompts(1, 10)["input_ids"], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(3)
        assert (cache._refs > 0).sum() == 3 and cache._refs.max() == 3
        llama(torch.tensor([[5], [6], [7]]), past_key_values=cache, use_cache=True)
    assert (cache._refs > 0).sum() == 5 and sorted(cache._refs[cache._refs > 0]) == [
        1,
        1,
        1,
        3,
        3,
    ]  # the half-filled block was copied for two
    cache.batch_select_indices(torch.tensor([1]))
    assert (cache._refs > 0).sum() == 3 and cache.batch_size == 1
    assert len(cache._free) == cache.num_blocks - 3


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_other_implementations_are_refused(llama, implementation):
    with pytest.raises(
        sextant.SextantUnsupported, match=f"did not reach Sextant's attention .attn_implementation is {implementation}"
    ):
        generate(llama, implementation, st.PagedCache(llama.config), prompts())


def test_what_is_not_served_is_named(llama):
    with pytest.raises(
        sextant.SextantUnsupported,
        match="config.layer_types holds linear_attention; allowed: full_attention, sliding_attention",
    ):
        st.PagedCache(transformers.Qwen3NextConfig())
    llama.set_attn_implementation(MHA[0])
    ids = prompts()["input_ids"]
    with torch.no_grad():
        cache = st.PagedCache(llama.config, max_tokens=30)
        llama(ids, past_key_values=cache, use_cache=True)
        with pytest.raises(sextant.SextantResourceExhausted, match="max_tokens is 30; allowed: at least 31"):
            llama(ids[:, :1], past_key_values=cache, use_cache=True)
        with pytest.raises(sextant.SextantInvalidArgument, match="the batch has 1 requests; allowed: 2"):
            llama(ids[:1], past_key_values=cache, use_cache=True)
        cache = st.PagedCache(llama.config)
        llama(ids, past_key_values=cache, use_cache=True)
        mask = torch.ones(2, 31, dtype=torch.long)
        mask[1, 3] = 0
        with pytest.raises(sextant.SextantUnsupported, match="differs from earlier steps about tokens"):
            llama(ids[:, :1], attention_mask=mask, past_key_values=cache, use_cache=True)
        llama.set_attn_implementation(MHA[3])
        with pytest.raises(
            sextant.SextantUnsupported, match="the attention implementation became ROCM_AITER_FA; allowed: TRITON_ATTN"
        ):
            llama(ids[:, :1], past_key_values=cache, use_cache=True)
    with pytest.raises(
        sextant.SextantUnsupported, match=r"attention_mask has shape \[2, 1, 30, 30\] with a PagedCache"
    ):
        llama(
            ids,
            attention_mask=torch.ones(2, 1, 30, 30, dtype=torch.bool).tril(),
            past_key_values=st.PagedCache(llama.config),
            use_cache=True,
        )
    with pytest.raises(sextant.SextantUnsupported, match="a gradient of query, key or value"):
        llama(ids, past_key_values=st.PagedCache(llama.config), use_cache=True).logits.sum().backward()


def test_it_goes_away_with_its_memory(llama):
    import weakref

    cache = st.PagedCache(llama.config)
    generate(llama, MHA[3], cache, prompts(), max_new_tokens=3)
    kept = weakref.ref(cache)
    del cache
    gc.collect()
    assert kept() is None


def test_a_copy_of_a_prompts_cache(llama):
    """As transformers' guide does it: the common part is computed once, and each request goes on from a copy."""
    import copy

    ids = prompts(2, 30)["input_ids"]
    llama.set_attn_implementation(MHA[3])
    common = st.PagedCache(llama.config)
    with torch.no_grad():
        llama(ids[:1, :20], past_key_values=common, use_cache=True)
    for tail in (ids[:1, 20:25], ids[1:, 3:12]):
        whole = dict(input_ids=torch.cat([ids[:1, :20], tail], 1))
        check(llama, MHA[3], copy.deepcopy(common), whole)
    assert common.get_seq_length() == 20


def test_padding_at_the_end_is_refused(llama):
    inputs = prompts()
    inputs["attention_mask"][1, -2:] = 0
    with pytest.raises(
        sextant.SextantUnsupported,
        match="attention_mask of request 1 ends with padding, with a PagedCache; allowed: padding to the left",
    ):
        generate(llama, MHA[0], st.PagedCache(llama.config), inputs)
    inputs = prompts()
    inputs["attention_mask"][1, 5:9] = 0  # a hole is padding like any other
    check(llama, MHA[0], st.PagedCache(llama.config), inputs)


@pytest.mark.parametrize(
    "options, message",
    [({"block_size": 2.5}, "block_size is 2.5; allowed: an integer >= 1"), ({"max_tokens": -1}, "max_tokens is -1")],
)
def test_wrong_options(llama, options, message):
    with pytest.raises(sextant.SextantInvalidArgument, match=message):
        st.PagedCache(llama.config, **options)
    with pytest.raises(
        sextant.SextantInvalidArgument, match="config is a LlamaForCausalLM; allowed: a configuration of transformers"
    ):
        st.PagedCache(llama)


def test_a_decoder_behind_an_encoder():
    config = transformers.BartConfig(
        vocab_size=128,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = transformers.BartForConditionalGeneration(config).eval()
    ids, options = prompts()["input_ids"], dict(max_new_tokens=15, min_new_tokens=15, do_sample=False)
    expected = model.generate(ids, **options)
    model.set_attn_implementation(MHA[3])
    cache = transformers.EncoderDecoderCache(
        st.PagedCache(model.config), transformers.DynamicCache(config=model.config)
    )
    assert torch.equal(model.generate(ids, past_key_values=cache, **options), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(llama, dtype):
    """As close to fp32 as sdpa is in the same type."""
    import copy

    ids = prompts(2, 40)["input_ids"]
    half = copy.deepcopy(llama).to(dtype)
    with torch.no_grad():
        llama.set_attn_implementation("eager")
        expected = llama(ids).logits[:, 30:]
        errors = []
        for implementation, cache in (
            ("sdpa", transformers.DynamicCache(config=llama.config)),
            (MHA[3], st.PagedCache(half.config)),
        ):
            half.set_attn_implementation(implementation)
            half(ids[:, :30], past_key_values=cache, use_cache=True)
            got = torch.cat(
                [half(ids[:, at : at + 1], past_key_values=cache, use_cache=True).logits for at in range(30, 40)], 1
            )
            errors.append((got.float() - expected).pow(2).mean().sqrt().item())
    assert errors[1] < 1.2 * errors[0]
