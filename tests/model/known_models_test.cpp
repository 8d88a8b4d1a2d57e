#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "sextant/model.h"

namespace sextant {
namespace {

const std::string kModels = SEXTANT_SHARED_DATA "/models.json";

void expect_same(const AttentionSpec& a, const AttentionSpec& b, const std::string& where) {
  EXPECT_EQ(a.num_heads, b.num_heads) << where;
  EXPECT_EQ(a.num_kv_heads, b.num_kv_heads) << where;
  EXPECT_EQ(a.head_dim, b.head_dim) << where;
  EXPECT_EQ(a.value_head_dim(), b.value_head_dim()) << where;
  EXPECT_FLOAT_EQ(a.softmax_scale, b.softmax_scale) << where;
  EXPECT_EQ(a.sliding_window, b.sliding_window) << where;
  EXPECT_EQ(a.logits_soft_cap, b.logits_soft_cap) << where;
  EXPECT_EQ(a.has_sinks, b.has_sinks) << where;
  EXPECT_EQ(a.mla.kv_lora_rank, b.mla.kv_lora_rank) << where;
}

TEST(KnownModels, AreValidSpecs) {
  for (const std::string& name : known_model_names()) {
    const ModelShape model = find_known_model(name).value();
    EXPECT_FALSE(model.layers.empty());
    for (const ModelLayer& layer : model.layers)
      EXPECT_TRUE(validate(layer.attention).is_ok()) << name << ": " << validate(layer.attention).message();
  }
}

TEST(KnownModels, AreFoundWhateverTheCase) {
  EXPECT_EQ(find_known_model("llama-3.1-8b")->name, "Llama-3.1-8B");
  EXPECT_EQ(find_known_model("deepseek-ai/DeepSeek-V3")->name, "DeepSeek-V3");
}

TEST(KnownModels, SuggestTheNearest) {
  const Status status = find_known_model("Lama-3.1-8B").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("(did you mean Llama-3.1-8B?)"), std::string::npos) << status.message();
  EXPECT_EQ(find_known_model("something else").status().message().find("did you mean"), std::string::npos);
  EXPECT_FALSE(find_known_model("").is_ok());
}

TEST(KnownModels, AgreeWithRecordedConfigs) {
  std::ifstream file(kModels);
  if (!file) GTEST_SKIP() << kModels << " is not there: the recorded configs are not read";
  const nlohmann::json configs = nlohmann::json::parse(file);
  EXPECT_EQ(configs.size(), 33u);
  for (const auto& [name, config] : configs.items()) {
    const auto model = parse_model_config(config.dump(), name);
    ASSERT_TRUE(model.is_ok()) << name << ": " << model.status().message();
    const auto& derived = config["_derived"];
    const AttentionSpec& first = model->layers[0].attention;
    EXPECT_EQ(first.mla.enabled(), derived["mla"].get<bool>()) << name;
    if (derived.contains("gqa_group")) {
      EXPECT_EQ(first.group_size(), derived["gqa_group"].get<int>()) << name;
    }
    if (derived.contains("head_dim")) {
      EXPECT_EQ(first.head_dim, derived["head_dim"].get<int>()) << name;
    }
    if (derived.contains("qk_head_dim")) {
      EXPECT_EQ(first.head_dim, derived["qk_head_dim"].get<int>()) << name;
    }
    const auto known = find_known_model(name);
    if (!known) continue;
    ASSERT_EQ(known->layers.size(), model->layers.size()) << name;
    EXPECT_EQ(known->hidden_size, model->hidden_size) << name;
    EXPECT_EQ(known->max_position_embeddings, model->max_position_embeddings) << name;
    for (size_t i = 0; i < known->layers.size(); ++i)
      expect_same(known->layers[i].attention, model->layers[i].attention, name + " layer " + std::to_string(i));
  }
}

TEST(KnownModels, AreMostlyRecorded) {
  std::ifstream file(kModels);
  if (!file) GTEST_SKIP() << kModels << " is not there: the recorded configs are not read";
  const nlohmann::json configs = nlohmann::json::parse(file);
  for (const std::string& name : known_model_names()) EXPECT_TRUE(configs.contains(name)) << name;
}

}  // namespace
}  // namespace sextant
