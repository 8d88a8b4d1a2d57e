// Models by their published configs (numbers only): what each layer wants, and what is named as not served.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "sextant/model.h"

namespace sextant {
namespace {

using nlohmann::json;

void expect_kind(const json& expected, const LayerKind& kind, const std::string& where) {
  const AttentionSpec& spec = kind.spec;
  EXPECT_EQ(kind.layers.size(), expected["count"].get<size_t>()) << where;
  EXPECT_EQ(spec.num_heads, expected["heads"].get<int>()) << where;
  EXPECT_EQ(spec.num_kv_heads, expected["kv_heads"].get<int>()) << where;
  EXPECT_EQ(spec.head_dim, expected["head_dim"].get<int>()) << where;
  const int mla_values = expected.contains("mla") ? expected["mla"][3].get<int>() : spec.head_dim;
  EXPECT_EQ(spec.value_head_dim(), expected.value("head_dim_v", mla_values)) << where;
  EXPECT_NEAR(spec.softmax_scale, expected["scale"].get<float>(), 1e-6) << where;
  EXPECT_EQ(spec.sliding_window, expected.value("window", 0)) << where;
  EXPECT_EQ(spec.attention_chunk_size, expected.value("chunk", 0)) << where;
  EXPECT_EQ(spec.window_left, expected.value("reach", -1)) << where;
  EXPECT_EQ(spec.window_right, expected.value("reach", -1)) << where;
  EXPECT_EQ(spec.logits_soft_cap, expected.value("soft_cap", 0.0f)) << where;
  EXPECT_EQ(spec.has_sinks, expected.value("sinks", false)) << where;
  EXPECT_EQ(spec.has_alibi, expected.value("alibi", false)) << where;
  EXPECT_EQ(spec.causal, expected.value("causal", true)) << where;
  EXPECT_EQ(kind.part, expected.value("part", "")) << where;
  const std::vector<int> mla = expected.value("mla", std::vector<int>{0, 0, 0, 0});
  EXPECT_EQ((std::vector<int>{spec.mla.kv_lora_rank, spec.mla.qk_nope_head_dim, spec.mla.qk_rope_head_dim,
                              spec.mla.v_head_dim}),
            mla)
      << where;
}

// The order of kinds is that of their first layers; a test row need not know it.
void expect_kinds(const json& model, const ModelShape& shape) {
  const std::string name = model["name"];
  const auto kinds = layer_kinds(shape);
  const json expected = model.value("kinds", json::array());
  ASSERT_EQ(kinds.size(), expected.size()) << name;
  std::vector<bool> used(kinds.size(), false);
  for (const json& row : expected) {
    size_t best = kinds.size();
    for (size_t i = 0; i < kinds.size(); ++i)
      if (!used[i] && kinds[i].layers.size() == row["count"].get<size_t>() &&
          kinds[i].spec.sliding_window == row.value("window", 0) &&
          kinds[i].spec.attention_chunk_size == row.value("chunk", 0) &&
          kinds[i].spec.window_left == row.value("reach", -1) && kinds[i].part == row.value("part", ""))
        best = i;
    ASSERT_LT(best, kinds.size()) << name << ": no kind like " << row.dump();
    used[best] = true;
    expect_kind(row, kinds[best], name);
  }
}

TEST(PublishedModels, AreReadAsPublished) {
  const json models = json::parse(std::ifstream(SEXTANT_SOURCE_DIR "/tests/model/published_models.json"));
  EXPECT_GE(models.size(), 80u);
  for (const json& model : models) {
    const std::string name = model["name"];
    const auto shape = parse_model_config(model["config"].dump(), name);
    ASSERT_TRUE(shape.is_ok()) << name << ": " << shape.status().message();
    EXPECT_EQ(shape->layers.size(), model["layers"].get<size_t>()) << name;
    expect_kinds(model, *shape);
    size_t unserved = 0, expected_unserved = 0, sharing = 0;
    std::string named;
    for (const UnservedKind& kind : unserved_kinds(*shape)) {
      unserved += kind.layers.size();
      named += describe(kind, shape->layers.size()) + "\n";
    }
    for (const json& row : model.value("not_served", json::array())) {
      expected_unserved += row["count"].get<size_t>();
      EXPECT_NE(named.find(row["what"].get<std::string>()), std::string::npos) << name << ": " << named;
    }
    EXPECT_EQ(unserved, expected_unserved) << name << ": " << named;
    for (const ModelLayer& layer : shape->layers) sharing += layer.shares_kv_with >= 0 ? 1 : 0;
    EXPECT_EQ(sharing, model.value("sharing", size_t{0})) << name;
    std::string notes;
    for (const std::string& note : shape->notes) {
      notes += note + "\n";
      EXPECT_EQ(note.find("not in the table"), std::string::npos) << name << ": " << note;
      EXPECT_EQ(note.find("not known here"), std::string::npos) << name << ": " << note;
    }
    EXPECT_NE(notes.find(model.value("note", "")), std::string::npos) << name << ": " << notes;
  }
}

}  // namespace
}  // namespace sextant
