"""Hugging Face transformers' own models, through every backend as through its own eager attention."""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import transformers  # noqa: E402
from models import smollm2, stories260k  # noqa: E402

import sextant  # noqa: E402
import sextant.transformers as st  # noqa: E402

MHA = [st.implementation_name(b) for b in st.MHA_BACKENDS]
MLA = [st.implementation_name(b) for b in st.MLA_BACKENDS]
st.register()


def from_gguf(path):
    pytest.importorskip("gguf", reason="needs gguf: pip install gguf")
    pytest.importorskip("accelerate", reason="needs accelerate: pip install accelerate")
    config = transformers.AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    if config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:  # stories260K's file says 4294967295
        config.pad_token_id = None
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def stories():
    path = stories260k()
    return from_gguf(path), vocabulary(path), (path.parent / "expected_greedy.txt").read_text()


@pytest.fixture(scope="module")
def smol():
    path = smollm2()
    return from_gguf(path), transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def vocabulary(path) -> list:
    """The tokens of a SentencePiece GGUF; the file of stories260K names a padding token that it does not have, which AutoTokenizer refuses."""
    from gguf import GGUFReader

    tokens = GGUFReader(str(path)).fields["tokenizer.ggml.tokens"]
    return [bytes(tokens.parts[i]).decode() for i in tokens.data]


def text_of(ids, tokens) -> str:
    pieces = [tokens[i] for i in ids if i > 2]  # 0..2: unknown, begin, end
    return "".join(chr(int(p[3:5], 16)) if p.startswith("<0x") else p.replace("\u2581", " ") for p in pieces).lstrip()


def greedy(model, implementation, ids, new_tokens, **arguments):
    model.set_attn_implementation(implementation)
    return model.generate(ids, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=[], **arguments)


@pytest.mark.parametrize("implementation", ["eager", *MHA])
def test_stories260k_tells_the_expected_story(stories, implementation):
    model, tokens, expected = stories
    out = greedy(model, implementation, torch.tensor([[1]]), 200)[0].tolist()
    assert text_of(out, tokens).strip() == expected.strip()


@pytest.mark.parametrize("implementation", MHA)
def test_smollm2_says_the_same(smol, implementation):
    model, tokenizer = smol
    ids = tokenizer("The three laws of thermodynamics say that", return_tensors="pt").input_ids
    expected = greedy(model, "eager", ids, 24)
    assert torch.equal(greedy(model, implementation, ids, 24), expected)


@pytest.mark.parametrize("implementation", MHA)
def test_padded_batch(stories, implementation):
    model, _, _ = stories
    ids = torch.tensor([[0, 0, 0, 1, 403, 407], [1, 403, 407, 261, 378, 310]])
    mask = (ids != 0).long()
    expected = greedy(model, "eager", ids, 20, attention_mask=mask)
    assert torch.equal(greedy(model, implementation, ids, 20, attention_mask=mask), expected)


@pytest.mark.parametrize("implementation", MHA)
def test_continuous_batching(stories, implementation, monkeypatch):
    model, _, _ = stories
    calls, packed = [], st._packed_forward
    monkeypatch.setattr(st, "_packed_forward", lambda backend, *a, **k: calls.append(backend) or packed(backend, *a, **k))
    if not hasattr(model, "generate_batch"):
        pytest.skip(f"needs generate_batch: transformers {transformers.__version__} has none")
    prompts = [[1], [1, 403, 407], [1, 403, 407, 261, 378] * 9]
    expected = [greedy(model, "eager", torch.tensor([p]), 16)[0, len(p):].tolist() for p in prompts]
    model.set_attn_implementation(implementation)
    config = transformers.GenerationConfig(max_new_tokens=16, do_sample=False, pad_token_id=0, eos_token_id=-1)
    results = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    got = {tuple(r.prompt_ids): list(r.generated_tokens) for r in results.values()}
    assert [got[tuple(p)] for p in prompts] == expected
    assert {st.implementation_name(b) for b in calls} == {implementation} and len(calls) >= 16 * 5  # steps x layers


def logits(model, implementation, ids, mask=None):
    """Logits of a prompt and of two tokens after it, which read the cache."""
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        first = model(ids[:, :-2], use_cache=True)
        steps = [first.logits]
        cache = first.past_key_values
        for at in (-2, -1):
            step = model(ids[:, ids.shape[1] + at : ids.shape[1] + at + 1], past_key_values=cache, use_cache=True)
            steps.append(step.logits)
    return torch.cat(steps, dim=1)


def random_model(config):
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


SMALL = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256)


def deepseek():
    return random_model(transformers.DeepseekV3Config(
        **SMALL, num_key_value_heads=4, moe_intermediate_size=32, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, q_lora_rank=32, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
    ))


def gpt_oss():
    model = random_model(transformers.GptOssConfig(
        **SMALL, num_key_value_heads=2, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ))
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    return model


def gemma2():
    return random_model(transformers.Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=32, sliding_window=8, attn_logit_softcapping=2.0, query_pre_attn_scalar=32,
    ))


def gemma3():
    return random_model(transformers.Gemma3TextConfig(
        **SMALL, num_key_value_heads=2, head_dim=32, sliding_window=8, query_pre_attn_scalar=32,
        layer_types=["sliding_attention", "full_attention"],
    ))


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("make", [gpt_oss, gemma2, gemma3])
def test_windows_sinks_and_softcap(make, implementation):
    model, ids = make(), torch.randint(3, 128, (2, 30), generator=torch.Generator().manual_seed(1))
    expected = logits(model, "eager", ids)
    torch.testing.assert_close(logits(model, implementation, ids), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("implementation", MHA)
def test_windows_to_both_sides(implementation):
    """An encoder: every other layer sees local_attention / 2 keys to each side."""
    if not hasattr(transformers, "ModernBertConfig"):
        pytest.skip(f"needs ModernBERT: transformers {transformers.__version__} has none")
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(**SMALL, local_attention=8, global_attn_every_n_layers=2, pad_token_id=0, reference_compile=False)
    config._attn_implementation = "eager"
    model = transformers.AutoModel.from_config(config, dtype=torch.float32).eval()
    ids = torch.randint(3, 128, (2, 30), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(model(ids).last_hidden_state, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("implementation", MLA + MHA)
def test_deepseek_v3(implementation):
    model, ids = deepseek(), torch.randint(3, 128, (2, 30), generator=torch.Generator().manual_seed(2))
    expected = logits(model, "eager", ids)
    st.prepare_mla(model)
    torch.testing.assert_close(logits(model, implementation, ids), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("make", [gpt_oss, gemma3])
def test_continuous_batching_with_windows(make, implementation):
    """Prompts shorter and longer than the window, whose cache is a ring."""
    model = make()
    if not hasattr(model, "generate_batch"):
        pytest.skip(f"needs generate_batch: transformers {transformers.__version__} has none")
    prompts = [[5, 9, 7], list(range(10, 31)), [3, 4, 5, 6, 7, 8, 9, 10]]
    expected = [greedy(model, "eager", torch.tensor([p]), 12)[0, len(p):].tolist() for p in prompts]
    model.set_attn_implementation(implementation)
    config = transformers.GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=-1)
    results = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    got = {tuple(r.prompt_ids): list(r.generated_tokens) for r in results.values()}
    assert [got[tuple(p)] for p in prompts] == expected


@pytest.mark.parametrize("implementation", MHA)
@pytest.mark.parametrize("lengths_given", [False, True])
def test_packed_sequences(implementation, lengths_given):
    """A padding-free batch: three sequences in one row give the logits that each gives alone."""
    model, lens = gpt_oss(), (5, 1, 12)
    parts = [torch.randint(3, 128, (1, n), generator=torch.Generator().manual_seed(n)) for n in lens]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = torch.cat([model(part, use_cache=False).logits for part in parts], dim=1)
    model.set_attn_implementation(implementation)
    starts = torch.tensor([0, *lens]).cumsum(0, dtype=torch.int32)
    given = dict(cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=12, max_length_k=12) if lengths_given else {}
    positions = torch.cat([torch.arange(n) for n in lens])[None]
    with torch.no_grad():
        got = model(torch.cat(parts, dim=1), position_ids=positions, use_cache=False, **given).logits
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


def test_packed_sequences_need_an_mha_backend():
    model = deepseek()
    st.prepare_mla(model)
    model.set_attn_implementation(MLA[0])
    with pytest.raises(sextant.SextantUnsupported, match="with packed sequences; allowed: TRITON_ATTN"):
        starts = torch.tensor([0, 2, 4], dtype=torch.int32)
        model(torch.ones(1, 4, dtype=torch.long), cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=2, max_length_k=2, use_cache=False)


def test_mla_needs_preparation():
    model = deepseek()
    with pytest.raises(sextant.SextantUnsupported, match="prepare_mla"):
        logits(model, MLA[0], torch.ones(1, 5, dtype=torch.long))


def test_training_is_refused(stories):
    model, _, _ = stories
    model.set_attn_implementation(MHA[0])
    attention = model.model.layers[0].self_attn
    rate, attention.attention_dropout = attention.attention_dropout, 0.1
    try:
        model.train()
        with pytest.raises(sextant.SextantUnsupported, match="dropout is 0.1"):
            model(torch.tensor([[1, 2, 3]]))
    finally:
        model.eval()
        attention.attention_dropout = rate
