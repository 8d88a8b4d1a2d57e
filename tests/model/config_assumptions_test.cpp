// What a config does not say itself is said of it: defaults of its class, guesses of the general rule, numbers beside
// the part that counts.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sextant/model.h"

namespace sextant {
namespace {

std::string notes_of(const std::string& config) {
  const auto shape = parse_model_config(config, "test");
  if (!shape) return "error: " + shape.status().message();
  std::string text;
  for (const std::string& note : shape->notes) text += note + "\n";
  return text;
}

void expect_said(const std::string& config, const std::string& words) {
  const std::string notes = notes_of(config);
  EXPECT_NE(notes.find(words), std::string::npos) << config << "\nsays: " << notes;
}

TEST(ConfigAssumptions, DefaultsOfTheClassAreNamed) {
  expect_said(R"({"model_type": "llama", "dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4})",
              "the config does not say num_hidden_layers 32: defaults of LlamaConfig");
  expect_said(R"({"model_type": "qwen3", "dtype": "bfloat16", "num_hidden_layers": 2, "num_attention_heads": 4})",
              "the config does not say head_dim 128, num_key_value_heads 32: defaults of Qwen3Config");
  // Under the part's own names; one that is given under another name of the same number is not named.
  expect_said(R"({"model_type": "whisper", "dtype": "float16", "d_model": 96, "encoder_layers": 2, "decoder_layers": 2,
                  "encoder_attention_heads": 4})",
              "the config does not say num_attention_heads 6: defaults of WhisperConfig");
  EXPECT_EQ(notes_of(R"({"model_type": "gpt2", "dtype": "float32", "n_embd": 64, "n_head": 4, "n_layer": 2})"), "");
  EXPECT_EQ(notes_of(R"({"model_type": "llama", "dtype": "float32", "hidden_size": 64, "num_attention_heads": 4,
                         "num_hidden_layers": 2})"),
            "");  // the class says None: as many KV heads as heads
}

TEST(ConfigAssumptions, GuessesAboutUnknownTypesAreNamed) {
  const std::string head =
      R"({"model_type": "brand_new", "dtype": "bfloat16", "hidden_size": 64, "num_hidden_layers": 2, )";
  expect_said(head + R"("num_attention_heads": 4})",
              "the config does not say num_key_value_heads 4, head_dim 16: assumed, as most models have it");
  expect_said(head + R"("num_attention_heads": 4, "num_key_value_heads": 2})",
              "the config does not say head_dim 16: assumed");
  EXPECT_EQ(
      notes_of(head + R"("num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32})").find("does not say"),
      std::string::npos);
}

TEST(ConfigAssumptions, NumbersBesideThePartThatCountsAreNamed) {
  const std::string text =
      R"("text_config": {"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
          "num_key_value_heads": 2, "num_hidden_layers": 6, "sliding_window": 8}})";
  const std::string head = R"({"model_type": "gemma3", "dtype": "bfloat16", )";
  expect_said(head + R"("sliding_window": 77, "num_attention_heads": 8, )" + text,
              "config.text_config counts; beside it and not taken into account: num_attention_heads 8, sliding_window "
              "77");
  EXPECT_EQ(notes_of(head + R"("num_attention_heads": 4, )" + text).find("beside it"), std::string::npos);
}

TEST(ConfigAssumptions, NamesInOtherSpellingsAreNoted) {
  expect_said(R"({"model_type": "llama", "dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4,
                  "num_hidden_layers": 2, "numKeyValueHeads": 2})",
              "not taken into account: numKeyValueHeads 2");
}

TEST(ConfigAssumptions, AWindowOfAClassThatHasNoneIsNotTaken) {
  const std::string head = R"("dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
      "num_key_value_heads": 2, "sliding_window": 8})";
  const auto window_of = [&head](const std::string& type) {
    return parse_model_config("{\"model_type\": \"" + type + "\", " + head, "test")
        ->layers.at(0)
        .attention.sliding_window;
  };
  EXPECT_EQ(window_of("llama"), 0);
  expect_said(R"({"model_type": "llama", )" + head, "sliding_window is 8: models of this type are not known to use it");
  for (const char* type : {"phi3", "mixtral", "starcoder2", "mistral", "brand_new"})
    EXPECT_EQ(window_of(type), 8) << type;
}

TEST(ConfigAssumptions, WhichLayersDifferIsSaidOrAskedFor) {
  const std::string head =
      R"("dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
      "head_dim": 16, "num_hidden_layers": 6, "sliding_window": 8)";
  expect_said(R"({"model_type": "gemma2", )" + head + "}",
              "the config does not say which layers differ: as Gemma2Config has them");
  expect_said(R"({"model_type": "gemma3_text", "layerTypes": ["full_attention"], )" + head + "}", "layerTypes");
  EXPECT_EQ(
      notes_of(R"({"model_type": "gemma3_text", "sliding_window_pattern": 3, )" + head + "}").find("which layers"),
      std::string::npos);
  for (const auto& [type, field] : std::vector<std::pair<std::string, std::string>>{
           {"nemotron_h", "hybrid_override_pattern"}, {"nemotron-nas", "block_configs"}})
    EXPECT_EQ(
        notes_of("{\"model_type\": \"" + type + "\", " + head + "}"),
        "error: config." + field + " is missing; allowed: an entry for every layer, as layers of this type differ");
  // The class's own list, as far as there are layers.
  const auto mllama = parse_model_config(R"({"model_type": "mllama_text_model", )" + head + "}", "test");
  EXPECT_TRUE(mllama->layers.at(3).crosses);
  EXPECT_FALSE(mllama->layers.at(4).crosses);
  expect_said(R"({"model_type": "mllama_text_model", )" + head + "}",
              "the config does not say cross_attention_layers [3,8,13,18,23,28,33,38]");
  expect_said(R"({"model_type": "minimax_m3", "sparse_attention_config": {"sparse_block_size": 64}, )" + head + "}",
              "sparse_attention_config has no sparse_attention_freq: not taken into account");
}

TEST(ConfigAssumptions, TwoListsOfLayersMustAgree) {
  const auto answer = [](const std::string& lists) {
    return notes_of(R"({"model_type": "kimi_linear", "dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 4, "num_hidden_layers": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "v_head_dim": 16, "linear_attn_config": {)" +
                    lists + "}}");
  };
  EXPECT_EQ(answer(R"("full_attn_layers": [4], "kda_layers": [1, 2, 3])").find("error"), std::string::npos);
  for (const char* wrong : {"[1,2]", "[1,2,3,4]", "[1,2,5]"})
    EXPECT_EQ(answer(std::string(R"("full_attn_layers": [4], "kda_layers": )") + wrong),
              std::string("error: config.linear_attn_config.kda_layers is ") + wrong +
                  "; allowed: the layers that full_attn_layers does not list");
}

TEST(ConfigAssumptions, UnknownTypesAroundAKnownPartAreSaid) {
  expect_said(R"({"model_type": "gemma3_next", "text_config": {"model_type": "llama", "dtype": "bfloat16",
                  "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}})",
              "model_type \"gemma3_next\" is not in the table of known types: its text_config is read for itself");
}

TEST(ConfigAssumptions, YarnNeedsItsFactor) {
  const std::string head =
      R"({"model_type": "deepseek_v3", "dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4,
          "num_key_value_heads": 4, "num_hidden_layers": 1, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
          "qk_rope_head_dim": 8, "v_head_dim": 16, "rope_scaling": {"type": "yarn", "mscale_all_dim": 1.0)";
  EXPECT_EQ(notes_of(head + "}}"),
            "error: config.rope_scaling.factor is missing; allowed: a finite number > 0, as mscale_all_dim is 1");
  EXPECT_EQ(notes_of(head + R"(, "factor": 40}})").find("error"), std::string::npos);
}

// What the classes' own code says where their configs are silent: who sees whom, how scores are scaled, how far a
// window reaches.
TEST(ConfigAssumptions, TypesSeeWhatTheirCodeSees) {
  const std::string shape = R"(, "dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
      "num_hidden_layers": 2})";
  const auto first = [&shape](const std::string& type) {
    const auto model = parse_model_config("{\"model_type\": \"" + type + "\"" + shape, "test");
    EXPECT_TRUE(model.is_ok()) << type << ": " << model.status().message();
    return model ? model->layers.at(0).attention : AttentionSpec{};
  };
  for (const char* both :
       {"vivit", "videomt", "radio", "pixio", "vitpose_backbone", "flava_multimodal_model", "tipsv2_text_model",
        "fine_acoustics", "qwen2_5_omni_dit", "muse_glimmer_assistant", "Dream", "llada", "bidir_mistral"})
    EXPECT_FALSE(first(both).causal) << both;
  for (const char* causal : {"higgs_audio_v2", "voxtral_realtime_encoder", "mimi_encoder", "gradium_phonon_tts",
                             "pocket_tts_audio_tokenizer", "blt_local_encoder"})
    EXPECT_TRUE(first(causal).causal) << causal;
  EXPECT_EQ(first("voxtral_realtime_encoder").sliding_window, 750);
  EXPECT_FLOAT_EQ(first("gemma4_vision").softmax_scale, 1.0f);
  // T5Gemma 2 splits its window of 4096 in two, the query itself counting to the left.
  EXPECT_EQ(first("t5gemma2_text").window_left, 2047);
  EXPECT_EQ(first("t5gemma2_text").window_right, 2048);
}

TEST(ConfigAssumptions, WhatTheSpecCannotSayIsNamed) {
  const std::string shape = R"("dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
      "num_hidden_layers": 2, )";
  const auto with = [&shape](const std::string& more) { return "{" + shape + more + "}"; };
  expect_said(with(R"("model_type": "t5gemma2_decoder")"), "in one softmax: not served here");
  expect_said(with(R"("model_type": "sdar")"), "attention both ways within a block of tokens: not served here");
  expect_said(with(R"("model_type": "moonshine_streaming")"), "cross attention");
  expect_said(with(R"("model_type": "idefics")"), "cross_layer_interval");
  expect_said(with(R"("model_type": "dory")"), "n_recurrent_loops");
  expect_said(with(R"("model_type": "bert", "position_embedding_type": "relative_key_query")"),
              "position_embedding_type is \"relative_key_query\": scores by relative position are not expressed");
  EXPECT_EQ(notes_of(with(R"("model_type": "bert", "position_embedding_type": "absolute")")), "");
  expect_said(with(R"("model_type": "falcon", "alibi": true)"), "divided by sqrt(head_dim)");
  EXPECT_EQ(notes_of(with(R"("model_type": "falcon", "alibi": false, "multi_query": true)")).find("ALiBi"),
            std::string::npos);
  expect_said(with(R"("model_type": "brand_new")"), "as causal unless a field says otherwise");
}

// MPT's section of its own holds more than what is read of it.
TEST(ConfigAssumptions, AttnConfigIsLookedThrough) {
  const std::string head = R"({"model_type": "mpt", "torch_dtype": "bfloat16", "d_model": 64, "n_heads": 4,
      "n_layers": 2, "attn_config": {"alibi": true, "attn_type": "multihead_attention", )";
  EXPECT_EQ(notes_of(head + R"("alibi_bias_max": 8, "clip_qkv": 6, "sliding_window_size": -1}})"), "");
  expect_said(head + R"("alibi_bias_max": 16}})", "attn_config.alibi_bias_max is 16: ALiBi slopes");
  expect_said(head + R"("prefix_lm": true}})", "attn_config.prefix_lm is true: the prompt sees both ways");
  expect_said(head + R"("sliding_window_size": 4096}})",
              "not taken into account: attn_config.sliding_window_size 4096");
}

TEST(ConfigAssumptions, FieldsOfOtherClassesAreNamed) {
  const std::string head =
      R"("dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2)";
  for (const char* field : {"window_size", "qk_scale_factor", "relative_attention_num_buckets", "attn_scale"})
    expect_said("{\"model_type\": \"llama\", " + head + ", \"" + field + "\": 48}",
                std::string("not taken into account: ") + field + " 48");
  EXPECT_EQ(notes_of(R"({"model_type": "llama4_text", "attn_scale": 0.2, )" + head + "}").find("attn_scale"),
            std::string::npos);
}

TEST(ConfigAssumptions, TwoStacksAreRead) {
  const std::string stack = R"({"model_type": "t5_gemma_module", "hidden_size": 64, "num_attention_heads": 4,
      "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "dtype": "bfloat16"})";
  const auto notes = notes_of(R"({"model_type": "t5gemma", "encoder": )" + stack + R"(, "decoder": )" + stack + "}");
  EXPECT_EQ(notes.find("not read"), std::string::npos) << notes;
}

TEST(ConfigAssumptions, AWindowOfMinusOneIsNone) {
  const auto model = parse_model_config(
      R"({"model_type": "git", "torch_dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 8, "head_dim": 16,
          "num_key_value_heads": 2, "num_hidden_layers": 2, "sliding_window_size": -1, "attn_logit_softcapping": 30})",
      "Grok-2");
  ASSERT_TRUE(model.is_ok()) << model.status().message();
  EXPECT_EQ(model->layers.at(0).attention.sliding_window, 0);
  EXPECT_EQ(model->layers.at(0).attention.num_kv_heads, 2);
  EXPECT_FLOAT_EQ(model->layers.at(0).attention.logits_soft_cap, 30);
}

TEST(ConfigAssumptions, HeadsMayShareOne) {  // PLaMo
  const std::string head = R"({"model_type": "plamo", "torch_dtype": "float16", "hidden_size": 640,
      "num_attention_heads": 40, "num_hidden_layers": 2, "n_shared_head": )";
  EXPECT_EQ(parse_model_config(head + "8}", "test")->layers.at(0).attention.num_kv_heads, 5);
  EXPECT_EQ(notes_of(head + "7}"), "error: config.n_shared_head is 7; allowed: a divisor of num_attention_heads (40)");
}

TEST(ConfigAssumptions, AModelThatStandsElsewhereIsAskedFor) {
  EXPECT_EQ(notes_of(R"({"model_type": "ultravox", "torch_dtype": "bfloat16", "hidden_size": 4096,
                         "text_model_id": "meta-llama/Meta-Llama-3.1-8B-Instruct"})")
                .find("error: config.text_model_id is \"meta-llama/Meta-Llama-3.1-8B-Instruct\"; allowed: no name of "
                      "another model without text_config"),
            0u);
  EXPECT_EQ(notes_of(R"({"model_type": "ultravox", "text_model_id": "x", "text_config": {"model_type": "llama",
      "torch_dtype": "bfloat16", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}})")
                .find("error"),
            std::string::npos);
}

// EXAONE 3.5's 32B has 64 layers, by a name that its class maps; the class's own number is for another size.
TEST(ConfigAssumptions, WeakerNamesBeatTheDefaultsOfTheClass) {
  const auto exaone = parse_model_config(R"({"model_type": "exaone", "torch_dtype": "bfloat16", "hidden_size": 5120,
      "num_attention_heads": 40, "num_key_value_heads": 8, "num_layers": 64})",
                                         "EXAONE-3.5-32B");
  ASSERT_TRUE(exaone.is_ok()) << exaone.status().message();
  EXPECT_EQ(exaone->layers.size(), 64u);
  EXPECT_EQ(exaone->layers.at(0).attention.head_dim, 128);
  expect_said(R"({"model_type": "longcat_flash", "torch_dtype": "bfloat16", "num_hidden_layers": 2, "num_layers": 4})",
              "num_layers is 4 beside num_hidden_layers 2: the latter counts");
  const auto sizes = parse_model_config(R"({"model_type": "qwen3", "torch_dtype": "bfloat16", "d_model": 96,
      "num_heads": 6, "num_key_value_heads": 2, "kv_channels": 24, "num_hidden_layers": 2})",
                                        "test");
  ASSERT_TRUE(sizes.is_ok()) << sizes.status().message();
  EXPECT_EQ(sizes->layers.at(0).attention.num_heads, 6);
  EXPECT_EQ(sizes->layers.at(0).attention.head_dim, 24);
  EXPECT_EQ(notes_of(R"({"model_type": "hunyuan_v1_dense", "torch_dtype": "bfloat16", "hidden_size": 64, "head_dim": 16,
                         "num_attention_heads": 4, "num_hidden_layers": 2, "attention_head_dim": 32})"),
            "error: config.attention_head_dim is 32; allowed: 16 (what config.head_dim says)");
}

TEST(ConfigAssumptions, SectionsAreLookedThrough) {
  const std::string head = R"({"model_type": "step3p5", "torch_dtype": "bfloat16", "hidden_size": 64, "head_dim": 16,
      "num_attention_heads": 4, "num_attention_groups": 2, "num_hidden_layers": 1, "sliding_window": 8,
      "layer_types": ["sliding_attention"], "attention_other_setting": {)";
  expect_said(head + R"("number_of_heads": 6}})", "attention_other_setting.number_of_heads 6");
  EXPECT_EQ(notes_of(head + R"("num_attention_heads": 6}})"), "");
  expect_said(R"({"model_type": "jais", "torch_dtype": "bfloat16", "n_embd": 64, "n_head": 4, "n_layer": 2,
                  "positions": "alibi"})",
              "positions \"alibi\"");
}

// Jais: without a scale no power of the head size counts.
TEST(ConfigAssumptions, NoScaleIsNoScale) {
  const auto jais = parse_model_config(R"({"model_type": "jais", "torch_dtype": "bfloat16", "n_embd": 64, "n_head": 4,
      "n_layer": 1, "scale_attn_weights": false, "scale_qk_dot_by_d": true})",
                                       "test");
  EXPECT_FLOAT_EQ(jais->layers.at(0).attention.softmax_scale, 1.0f);
}

TEST(ConfigAssumptions, AlibiLooksBackAlone) {
  const std::string head = R"("torch_dtype": "float32", "hidden_size": 64, "num_attention_heads": 4,
      "num_hidden_layers": 2)";
  expect_said(R"({"model_type": "bert", "position_embedding_type": "alibi", )" + head + "}",
              "2 of 2 layers have ALiBi by distance on either side: not served here");
  const auto refact = parse_model_config(R"({"model_type": "gpt_refact", )" + head + "}", "Refact-1.6B");
  EXPECT_TRUE(refact->layers.at(0).attention.has_alibi);
  EXPECT_EQ(refact->layers.at(0).attention.num_kv_heads, 1);
  const auto cogvlm =
      parse_model_config(R"({"model_type": "cogvlm", "num_multi_query_heads": 2, )" + head + "}", "CogVLM2");
  EXPECT_EQ(cogvlm->layers.at(0).attention.num_kv_heads, 2);
  EXPECT_TRUE(cogvlm->notes.empty()) << cogvlm->notes.at(0);
}

}  // namespace
}  // namespace sextant
