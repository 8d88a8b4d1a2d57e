"""Every architecture that the installed transformers builds from a small random configuration, against its own eager attention.

The list grows by itself: it is transformers' mappings of causal, masked and sequence-to-sequence models. SEXTANT_ALL_MODELS=1 runs all of
it with every kind of batch and cache (minutes); without it a dozen families run.
"""

import functools
import os

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

import transformers  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

import sextant  # noqa: E402
import sextant.transformers as st  # noqa: E402

st.register()
EVERYTHING = os.environ.get("SEXTANT_ALL_MODELS") == "1"
FEW = ("llama", "bigbird_pegasus", "deepseek_v32", "deepseek_v4", "mistral", "gemma2", "gemma3_text", "gpt_oss", "llama4_text", "qwen3", "phi3", "cohere2", "deepseek_v3", "gpt2", "doge", "opt", "granitemoe")
FEW_OTHERS = ("masked/bert", "masked/modernbert", "seq2seq/bart", "seq2seq/t5", "seq2seq/whisper")
FEW_COMPILED = ("llama", "gemma3_text", "gpt_oss", "masked/bert", "seq2seq/bart")  # compiling takes seconds
CAUSAL = sorted(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
OTHERS = [f"masked/{name}" for name in sorted(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)]
OTHERS += [f"seq2seq/{name}" for name in sorted(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)]
WAYS = {"causal": ("none", "dynamic", "static", "padded", "packed", "beams", "assisted", "compiled", "paged", "paged_beams"),
        "masked": ("none", "padded", "compiled"), "seq2seq": ("none", "padded", "static", "beams", "compiled")}  # fmt: skip


def cases():
    kinds = [*CAUSAL, *OTHERS] if EVERYTHING else [name for name in (*FEW, *FEW_OTHERS) if name in (*CAUSAL, *OTHERS)]
    every = [(kind, how) for kind in kinds for how in WAYS[kind.partition("/")[0] if "/" in kind else "causal"]]
    return [(kind, how) for kind, how in every if EVERYTHING or how != "compiled" or kind in FEW_COMPILED]


# Sizes under the names that configurations use; each takes those that it has.
SIZES = {
    "vocab_size": 128, "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embed_dim": 64, "intermediate_size": 96, "ffn_dim": 96, "d_ff": 96,
    "n_inner": 96, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2,
    "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2, "decoder_ffn_dim": 96, "encoder_ffn_dim": 96, "num_attention_heads": 4, "n_head": 4,
    "n_heads": 4, "num_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 256, "n_positions": 256, "max_seq_len": 256, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 32, "kv_lora_rank": 64,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "sliding_window": 8, "attention_chunk_size": 8, "query_pre_attn_scalar": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128,
    "intermediate_size_mlp": 96, "moe_num_experts": 4, "moe_k": 2, "index_n_heads": 2, "index_head_dim": 32, "index_topk": 8, "word_embed_proj_dim": 64,
    "is_decoder": True, "rotary_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 2,
}  # fmt: skip


@functools.lru_cache(maxsize=1)
def model_of(kind: str):
    """A small random model, or the reason why there is none."""
    task, _, name = kind.rpartition("/")
    auto = {"": transformers.AutoModelForCausalLM, "masked": transformers.AutoModelForMaskedLM, "seq2seq": transformers.AutoModelForSeq2SeqLM}[task]
    try:
        config_class = transformers.CONFIG_MAPPING[name]
        known = set(vars(config_class())) | set(getattr(config_class, "attribute_map", {}))
        config = config_class(**{field: size for field, size in SIZES.items() if field in known and (field != "is_decoder" or not task)})
        if getattr(config, "kv_lora_rank", None):
            config.num_key_value_heads = config.num_attention_heads
        layers = getattr(config, "num_hidden_layers", 2)
        kinds = getattr(config, "layer_types", None)
        if kinds and len(set(kinds)) < len(set(getattr(config_class(), "layer_types", None) or kinds)):
            config.layer_types = list(dict.fromkeys(config_class().layer_types))[:layers]
        torch.manual_seed(0)
        config._attn_implementation = "eager"
        with torch.device("meta"):
            size = sum(p.numel() for p in auto.from_config(config, dtype=torch.float32).parameters())
        if size > 20_000_000:
            return f"its sizes have other names: {size} parameters"
        return auto.from_config(config, dtype=torch.float32).eval()
    except Exception as error:  # whatever a configuration wants that the sizes above do not give
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def ids(batch, length, seed=1):
    return torch.randint(3, 120, (batch, length), generator=torch.Generator().manual_seed(seed))


def generated(model, batch, **arguments):
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 127, "disable_compile": True, **arguments}
    got = model.generate(batch, output_logits=True, return_dict_in_generate=True, **options)
    return torch.stack(got.logits, 1) if options.get("num_beams", 1) == 1 else got.sequences.float()


def compiled(model, task, batch):
    """Of torch.compile's graphs around the attention, which is no part of them; eager itself is not compiled."""
    more = {"decoder_input_ids": ids(2, 5)} if task == "seq2seq" else {} if task else {"use_cache": False}
    if not str(model.config._attn_implementation).startswith("sextant"):
        return model(batch, **more).logits
    torch._dynamo.reset()
    return torch.compile(model, backend="eager")(batch, **more).logits


def outcome(model, task, how):
    """Logits (or the tokens of beams) of one kind of batch and cache; the rows that are padding are left out."""
    batch = ids(2, 13)
    if how == "compiled":
        return compiled(model, task, batch)
    if task:
        mask = torch.ones_like(batch)
        mask[0, 9:] = int(how == "none")
        if task == "masked":
            return model(batch, attention_mask=mask).logits[mask.bool()]
        if how in ("none", "padded"):
            return torch.cat([model(batch, attention_mask=mask, decoder_input_ids=ids(2, n)).logits for n in (5, 20)], 1)
        how = {"num_beams": 3} if how == "beams" else {"cache_implementation": how}
        return generated(model, batch, attention_mask=mask, **how)
    if how == "none":
        return model(batch, use_cache=False).logits
    if how == "padded":
        mask = torch.ones_like(batch)
        mask[0, :4] = 0
        return model(batch, attention_mask=mask, use_cache=False).logits[mask.bool()]
    if how == "packed":
        positions = torch.cat([torch.arange(5), torch.arange(8)])[None]
        return model(batch[:1], position_ids=positions, use_cache=False).logits
    if how == "beams":
        return generated(model, batch, num_beams=3)
    if how == "assisted":  # several proposed tokens at once, of which some are taken back
        return generated(model, batch[:1].repeat(1, 2), prompt_lookup_num_tokens=3, max_new_tokens=10)
    if how.startswith("paged"):  # the left request is padded; eager takes its own cache
        mask = torch.ones_like(batch)
        mask[0, :4] = 0
        ours = str(model.config._attn_implementation).startswith("sextant")
        cache = {"past_key_values": st.PagedCache(model.config, block_size=4)} if ours else {}
        return generated(model, batch, attention_mask=mask, num_beams=3 if how == "paged_beams" else 1, **cache)
    return generated(model, batch, cache_implementation=how)


def run(model, implementation, kind, how):
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        return outcome(model, kind.rpartition("/")[0], how)


@torch.no_grad()
@pytest.mark.parametrize("kind, how", cases())
def test_like_eager_or_refused_by_name(kind, how):
    model = model_of(kind)
    if isinstance(model, str):
        pytest.skip(f"{kind} is not built from the small configuration: {model}")
    try:
        expected = run(model, "eager", kind, how)
    except Exception as error:
        pytest.skip(f"{kind}, {how}: eager itself does not run: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    if not expected.isfinite().all() or not torch.equal(run(model, "eager", kind, how), expected):
        pytest.skip(f"{kind}, {how}: eager's own results are not finite or differ from run to run")
    if how == "packed" and torch.equal(expected, model(ids(2, 13)[:1], use_cache=False).logits):
        pytest.skip(f"{kind}: the model takes no positions, so there are no packed batches")
    calls, attend, attend_paged = [], st._attend, st._paged_forward
    backend = st.MHA_BACKENDS[sum(map(ord, kind + how)) % len(st.MHA_BACKENDS)]
    st._attend = lambda *a, **k: calls.append(1) or attend(*a, **k)
    st._paged_forward = lambda *a, **k: calls.append(1) or attend_paged(*a, **k)
    try:
        got = run(model, st.implementation_name(backend), kind, how)
    except sextant.SextantError as error:
        assert "allowed" in str(error), error
        pytest.skip(f"{kind}, {how}: refused by name: {error}")
    except ValueError as error:
        assert "does not support an attention implementation through torch.nn.functional" in str(error) or "does not support" in str(error), error
        pytest.skip(f"{kind}: transformers refuses other implementations: {str(error).splitlines()[0]}")
    finally:
        st._attend, st._paged_forward = attend, attend_paged
    if not calls:
        pytest.skip(f"{kind}: the model has no attention that goes through transformers' interface")
    if how == "packed" and not torch.allclose(got, expected, atol=5e-4, rtol=5e-4):
        # Where eager lets the sequences see each other (the model does not tell its mask), each alone is what counts.
        batch, parts = ids(2, 13)[:1], ((0, 5), (5, 13))
        expected = torch.cat([model(batch[:, a:b], position_ids=torch.arange(b - a)[None], use_cache=False).logits for a, b in parts], 1)
    torch.testing.assert_close(got, expected, atol=5e-4, rtol=5e-4)
