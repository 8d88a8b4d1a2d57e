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

}  // namespace
}  // namespace sextant
