// Layers that differ from the model's own numbers: by their place, by their type, by a config of their own.
#include <gtest/gtest.h>

#include <cmath>

#include "layer_text.h"

namespace sextant {
namespace {

Result<ModelShape> parse(const std::string& fields) {
  std::string text = R"({"dtype": "bfloat16", )";
  text += fields;
  text += "}";
  return parse_model_config(text, "test");
}
std::string message_of(const std::string& fields) { return parse(fields).status().message(); }
std::string notes_of(const ModelShape& shape) {
  std::string text;
  for (const std::string& note : shape.notes) text += note + "\n";
  return text;
}

const std::string kGemma = R"("model_type": "gemma4_text", "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 12, "sliding_window": 8, )";

// transformers pads the numbers of layers with zeros, so that they sort: "05" is layer 5.
TEST(LayerOverrides, NumbersOfLayersMayBePadded) {
  const auto shape = parse(kGemma + R"("per_layer_config": {"05": {"head_dim": 32}, "11": {"head_dim": 32}})");
  ASSERT_TRUE(shape.is_ok()) << shape.status().message();
  EXPECT_EQ(layer_text(*shape, 4), "4/2 16 w8");
  EXPECT_EQ(layer_text(*shape, 5), "4/2 32");
  EXPECT_EQ(layer_text(*shape, 11), "4/2 32");
}

TEST(LayerOverrides, LayersThatAreNotThereAreRefused) {
  EXPECT_EQ(message_of(kGemma + R"("per_layer_config": {"12": {"head_dim": 32}})"),
            "config.per_layer_config.12 is {\"head_dim\":32}; allowed: keys 0..11 (a layer)");
  for (const char* key : {"-1", "x", "", "5 ", "1e1", "99999999999999999999"})
    EXPECT_FALSE(parse(kGemma + R"("per_layer_config": {")" + key + R"(": {"head_dim": 32}})").is_ok()) << key;
  EXPECT_NE(message_of(kGemma + R"("per_layer_config": {"5": {"head_dim": 32}, "05": {"head_dim": 16}})").find("once"),
            std::string::npos);
}

TEST(LayerOverrides, ALayerMayHaveNoWindowAndNoAttention) {
  const auto shape = parse(kGemma + R"("per_layer_config": {"0": {"sliding_window": null},
      "1": {"sliding_window": 4}, "2": {"skip": ["self_attn"]}, "3": {"skip": ["mlp"], "intermediate_size": 8}})");
  ASSERT_TRUE(shape.is_ok()) << shape.status().message();
  EXPECT_EQ(layer_text(*shape, 0), "4/2 16");
  EXPECT_EQ(layer_text(*shape, 1), "4/2 16 w4");
  EXPECT_EQ(layer_text(*shape, 2), "- without attention");
  EXPECT_EQ(layer_text(*shape, 3), "4/2 16 w8");
}

TEST(LayerOverrides, WhatCannotDifferByLayerIsRefused) {
  for (const char* field : {R"("is_causal": false)", R"("attn_logit_softcapping": 3)", R"("my_window": 3)",
                            R"("layer_types": [])", R"("index_topk": 3)", R"("skip": "self_attn")"})
    EXPECT_FALSE(parse(kGemma + R"("per_layer_config": {"0": {)" + field + "}}").is_ok()) << field;
}

TEST(LayerOverrides, LatentsMayDifferByLayer) {
  const std::string deepseek = R"("model_type": "deepseek_v3", "hidden_size": 64, "num_attention_heads": 4,
      "num_hidden_layers": 2, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8)";
  const auto shape = parse(deepseek + R"(, "per_layer_config": {"1": {"kv_lora_rank": 32, "num_attention_heads": 2,
      "qk_nope_head_dim": 12}})");
  ASSERT_TRUE(shape.is_ok()) << shape.status().message();
  EXPECT_EQ(layer_text(*shape, 0), "4/4 12/8 mla16");
  EXPECT_EQ(layer_text(*shape, 1), "2/2 16/8 mla32");
}

// Classes that give their layers shapes of their own where the config says nothing.
TEST(LayerOverrides, ClassesHaveShapesByType) {
  const ModelShape dots = parse(R"("model_type": "dots3_note_text")").value();
  EXPECT_EQ(layer_text(dots, 1), "128/128 192/128 mla512");
  EXPECT_EQ(layer_text(dots, 2), "64/64 256/128 w512 mla1024");
  const ModelShape embedding = parse(R"("model_type": "embedding_gemma2_text")").value();
  EXPECT_EQ(layer_text(embedding, 0), "4/2 256 512|512 not causal");
  EXPECT_EQ(layer_text(embedding, 23), "4/1 512 not causal");
  const ModelShape neomme = parse(R"("model_type": "neomme")").value();
  EXPECT_EQ(layer_text(neomme, 0), "16/4 64 256|256 not causal");
  EXPECT_EQ(layer_text(neomme, 1), "16/4 64 1024|1024 not causal");
  EXPECT_EQ(layer_text(neomme, 6), "16/4 64 1024|1024 not causal");
  EXPECT_EQ(layer_text(neomme, 7), "16/4 64 256|256 not causal");
  const ModelShape saved =
      parse(R"("model_type": "neomme", "per_layer_config": {"00": {"sliding_window": 8}})").value();
  EXPECT_EQ(layer_text(saved, 0), "16/4 64 8|8 not causal");
  EXPECT_EQ(layer_text(saved, 1), "16/4 64 256|256 not causal");
}

TEST(LayerOverrides, SettingsOfOtherLayersThanSlidingOnesAreRefused) {
  EXPECT_NE(message_of(R"("model_type": "step3p5", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
      "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"],
      "attention_other_setting": {"attention_type": "full_attention", "num_attention_heads": 2})")
                .find("config.attention_other_setting.attention_type is \"full_attention\""),
            std::string::npos);
}

// What the class has and a config's null takes away.
TEST(LayerOverrides, NullsOfTheClassesNumbersAreSaid) {
  const auto shape = parse(R"("model_type": "qwen3", "head_dim": null)");
  EXPECT_NE(notes_of(shape.value()).find("head_dim is null where Qwen3Config has 128: taken as none"),
            std::string::npos);
  EXPECT_EQ(message_of(R"("model_type": "deepseek_v3", "kv_lora_rank": null)"),
            "config.kv_lora_rank is null; allowed: a whole number >= 1, or use_mla false for heads without a latent");
  EXPECT_FALSE(parse(R"("model_type": "deepseek_v3", "kv_lora_rank": 0)").is_ok());
  EXPECT_TRUE(parse(R"("model_type": "deepseek_v3", "kv_lora_rank": null, "v_head_dim": 0, "use_mla": false)").is_ok());
}

TEST(LayerOverrides, ValuesThatAreNotServedAreRefused) {
  EXPECT_EQ(message_of(R"("model_type": "longcat_flash", "attention_method": "GQA")"),
            "config.attention_method is \"GQA\"; allowed: \"MLA\"");
  EXPECT_FALSE(parse(R"("model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 1,
      "attn_config": {"attn_type": "other"})")
                   .is_ok());
  EXPECT_FALSE(parse(R"("model_type": "mimo_v2_flash", "v_head_dim": 0)").is_ok());
}

TEST(LayerOverrides, CausalityOfAFieldIsTaken) {
  const std::string llama = R"("model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
      "num_hidden_layers": 1, )";
  EXPECT_EQ(layer_text(parse(llama + R"("causal": false)").value(), 0), "4/4 16 not causal");
  EXPECT_EQ(layer_text(parse(llama + R"("causal": true)").value(), 0), "4/4 16");
  const std::string phi = R"("model_type": "phi3small", "hidden_size": 512, "num_attention_heads": 8,
      "num_hidden_layers": 2, "dense_attention_every_n_layers": 1)";
  EXPECT_FLOAT_EQ(parse(phi).value().layers[0].attention.softmax_scale, 1 / 64.0f);
  EXPECT_FLOAT_EQ(parse(phi + R"(, "mup_use_scaling": false)").value().layers[0].attention.softmax_scale, 1 / 8.0f);
}

// The softmax scale of DeepSeek's models: what decides it is there and known, or the config is refused.
TEST(LayerOverrides, YarnWantsItsType) {
  const auto rope = [](const std::string& fields) {
    std::string text = R"("model_type": "deepseek_v3", "rope_scaling": {"mscale_all_dim": 1.0, "factor": 40)";
    text += fields;
    return parse(text + "}");
  };
  EXPECT_NE(rope("").status().message().find("config.rope_scaling.rope_type is missing"), std::string::npos);
  EXPECT_FALSE(rope(R"(, "type": "other")").is_ok());
  const ModelShape plain = rope(R"(, "type": "default")").value();
  EXPECT_NE(notes_of(plain).find("changes nothing"), std::string::npos);
  EXPECT_FLOAT_EQ(plain.layers[0].attention.softmax_scale, 1 / std::sqrt(192.0f));
  EXPECT_GT(rope(R"(, "type": "yarn")").value().layers[0].attention.softmax_scale, 0.13f);
  const std::string two = R"("model_type": "deepseek_v3", "rope_parameters": {"rope_type": "yarn", "factor": 40,
      "mscale_all_dim": 1.0}, "rope_scaling": )";
  EXPECT_GT(parse(two + "{}").value().layers[0].attention.softmax_scale, 0.13f);
  EXPECT_FALSE(parse(two + R"({"rope_type": "yarn", "factor": 4, "mscale_all_dim": 1.0})").is_ok());
}

// What the class around a language model gives it.
TEST(LayerOverrides, OuterClassesHaveNumbersForTheirLanguagePart) {
  EXPECT_EQ(layer_text(parse(R"("model_type": "mistral3")").value(), 39), "32/8 128");
  const ModelShape part =
      parse(R"("model_type": "voxtral", "text_config": {"model_type": "llama", "num_hidden_layers": 4})").value();
  EXPECT_EQ(part.layers.size(), 4u);
  EXPECT_EQ(layer_text(part, 0), "32/8 128");
  EXPECT_NE(notes_of(part).find("of its language part: defaults of VoxtralConfig"), std::string::npos);
}

// Lists that go round the layers, and lists that do not say the same.
TEST(LayerOverrides, ListsOfLayers) {
  const std::string exaone = R"("model_type": "exaone4", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
      "num_key_value_heads": 2, "num_hidden_layers": 5, "sliding_window": 8, "sliding_window_pattern": )";
  const ModelShape round = parse(exaone + R"("LLG")").value();
  EXPECT_EQ(layer_text(round, 1), "4/2 16 w8");
  EXPECT_EQ(layer_text(round, 2), "4/2 16");
  EXPECT_EQ(layer_text(round, 3), "4/2 16 w8");
  EXPECT_EQ(layer_text(round, 4), "4/2 16");  // the last one is full
  const auto both = parse(exaone + R"("LLG", "layer_types": ["full_attention", "sliding_attention", "full_attention",
      "sliding_attention", "full_attention"])");
  EXPECT_EQ(layer_text(both.value(), 0), "4/2 16");
  EXPECT_NE(notes_of(*both).find("layer_types and sliding_window_pattern do not say the same of the layers"),
            std::string::npos);
  EXPECT_FALSE(parse(R"("model_type": "apriel_ssm_hybrid", "hidden_size": 64, "num_attention_heads": 4,
      "num_hidden_layers": 2, "hybrid_block_layout": ["t", "other"])")
                   .is_ok());
}

// Nemotron's searched models: windows with sink tokens, Mamba, fields that nobody has named.
TEST(LayerOverrides, BlocksOfSearchedModels) {
  const auto block = [](const std::string& attention) {
    return parse(R"("model_type": "nemotron-nas", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
        "block_configs": [{"attention": {)" +
                 attention + "}}]");
  };
  EXPECT_EQ(layer_text(block(R"("n_heads_in_group": 2, "sparsify": null)").value(), 0), "4/2 16");
  EXPECT_EQ(layer_text(block(R"("num_key_value_heads": 1, "window_length": 8)").value(), 0), "4/1 16 w8");
  EXPECT_EQ(layer_text(block(R"("n_heads_in_group": 2, "window_length": 8, "num_sink_tokens": 4)").value(), 0),
            "- attention to a window and to the first tokens");
  EXPECT_EQ(layer_text(block(R"("no_op": true, "window_length": 8)").value(), 0), "- without attention");
  EXPECT_EQ(layer_text(block(R"("mamba": {"state_dim": 8})").value(), 0), "- Mamba");
  EXPECT_EQ(block(R"("llama4": {"chunk": 8})").status().message(),
            "config.block_configs[0].attention.llama4 is {\"chunk\":8}; allowed: null, or one of the fields of "
            "attention that are known");
}

// A part under a name that nobody knows has heads of its own.
TEST(LayerOverrides, PartsThatAreNotReadAreNamed) {
  for (const char* type : {"llama", "not_known"}) {
    std::string text = R"("hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
        "some_tower": {"num_attention_heads": 8}, "model_type": ")";
    text += type;
    EXPECT_NE(notes_of(parse(text + "\"").value()).find("read: the top level; not read: some_tower"),
              std::string::npos);
  }
}

TEST(LayerOverrides, LayersBesideTheStack) {
  EXPECT_EQ(message_of(kGemma + R"("num_kv_shared_layers": 12)"),
            "config.num_kv_shared_layers is 12; allowed: 0..11, as there are 12 layers");
  const ModelShape mtp = parse(R"("model_type": "minimax_m2", "num_mtp_modules": 3)").value();
  EXPECT_NE(notes_of(mtp).find("num_mtp_modules is 3: layers that predict further tokens"), std::string::npos);
}

// Fields of types of which nobody knows the layers.
TEST(LayerOverrides, FieldsOfUnknownTypesAreNamed) {
  const auto shape = parse(R"("model_type": "not_known", "hidden_size": 64, "num_attention_heads": 4,
      "num_hidden_layers": 2, "mamba_d_state": 16, "mamba_chunk_size": 8, "num_query_groups": 2, "rel_pos_bias": true,
      "block_layout": ["a", "b"], "num_loops": 3)");
  const std::string notes = notes_of(shape.value());
  for (const char* field :
       {"mamba_d_state", "mamba_chunk_size", "num_query_groups", "rel_pos_bias", "block_layout", "num_loops"})
    EXPECT_NE(notes.find(field), std::string::npos) << field << ": " << notes;
}

// Heads under the names of encoders are the model's own numbers too.
TEST(LayerOverrides, NamesOfEncodersAreTaken) {
  EXPECT_EQ(layer_text(parse(R"("model_type": "qwen2_audio_encoder", "encoder_attention_heads": 40)").value(), 0),
            "40/40 32 not causal");
  const ModelShape text = parse(R"("model_type": "pp_formulanet_text", "decoder_attention_heads": 8)").value();
  EXPECT_EQ(text.layers.size(), 8u);
  EXPECT_EQ(layer_text(text, 0), "8/8 64");
  EXPECT_NE(notes_of(text).find("cross attention"), std::string::npos);
}

}  // namespace
}  // namespace sextant
