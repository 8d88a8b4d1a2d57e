// Published configs with fields changed, dropped, doubled and nested at random: an error, another answer or a note.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "sextant/model.h"
#include "types/fields.h"

namespace sextant {
namespace {

using nlohmann::json;

std::vector<json> published_configs() {
  std::vector<json> configs;
  for (const json& model : json::parse(std::ifstream(SEXTANT_SOURCE_DIR "/tests/model/published_models.json")))
    configs.push_back(model["config"]);
  return configs;
}

json& language_part(json& config) { return config.contains("text_config") ? config["text_config"] : config; }

std::string layers_of(const ModelShape& shape) {
  std::string text;
  for (const ModelLayer& layer : shape.layers) {
    text += fields_to_json<json>(layer.attention).dump() + " " + std::to_string(layer.shares_kv_with) + " ";
    text += layer.not_served + layer.part + "\n";
  }
  return text;
}

std::string notes_of(const ModelShape& shape) {
  std::string text;
  for (const std::string& note : shape.notes) text += note + "\n";
  return text;
}

// All that a user is told.
std::string answer(const Result<ModelShape>& shape) {
  return shape ? layers_of(*shape) + notes_of(*shape) : "error: " + shape.status().message();
}

// Numbers that no model may lose: where one changes, so does the answer.
const std::set<std::string> kTelling = {"num_attention_heads",
                                        "num_hidden_layers",
                                        "attention_multiplier",
                                        "query_pre_attn_scalar",
                                        "attn_logit_softcapping",
                                        "kv_lora_rank",
                                        "qk_nope_head_dim",
                                        "qk_rope_head_dim",
                                        "v_head_dim",
                                        "n_head",
                                        "n_layer",
                                        "n_heads",
                                        "n_layers",
                                        "encoder_layers",
                                        "decoder_layers",
                                        "num_heads",
                                        "head_dim",
                                        "attn_layer_period",
                                        "attn_layer_offset",
                                        "full_attention_interval",
                                        "sliding_window_pattern",
                                        "global_attn_every_n_layers",
                                        "attention_chunk_size",
                                        "local_attention",
                                        "window_size",
                                        "attention_window_size",
                                        "multi_query_group_num",
                                        "kv_channels",
                                        "d_kv",
                                        "num_kv_shared_layers",
                                        "global_head_dim",
                                        "swa_num_key_value_heads",
                                        "swa_num_attention_heads",
                                        "swa_head_dim",
                                        "swa_v_head_dim"};

TEST(ConfigFuzz, NoNumberIsLost) {
  for (const json& config : published_configs()) {
    const std::string before = answer(parse_model_config(config.dump(), "before"));
    json copy = config;
    for (const auto& [name, value] : language_part(copy).items()) {
      if (kTelling.count(name) == 0 || !value.is_number_integer() || value == 0) continue;
      json changed = config;
      language_part(changed)[name] = value.get<int64_t>() * 2;
      // Where a list of layer types stands beside it, a period says nothing.
      const bool listed = changed.dump().find("layer_types") != std::string::npos;
      if (listed && name == "sliding_window_pattern") continue;
      EXPECT_NE(answer(parse_model_config(changed.dump(), "before")), before) << name << " of " << config.dump();
    }
  }
}

// A number that is gone: the same layers all the same, or an error, or other words.
TEST(ConfigFuzz, NoFieldIsDroppedWithoutAWord) {
  for (const json& config : published_configs()) {
    const auto before = parse_model_config(config.dump(), "before");
    json copy = config;
    for (const auto& [name, value] : language_part(copy).items()) {
      if (kTelling.count(name) == 0 || !value.is_number() || value == 0) continue;
      if (name == "head_dim") continue;  // of known types: the class's rule, hidden_size / num_attention_heads
      json changed = config;
      language_part(changed).erase(name);
      const auto after = parse_model_config(changed.dump(), "before");
      if (!after || layers_of(*after) == layers_of(*before)) continue;
      EXPECT_NE(notes_of(*after), notes_of(*before)) << name << " of " << config.dump();
    }
  }
}

// Numbers of heads and layers under every name that some class has for them.
TEST(ConfigFuzz, NoNameOfAClassIsLost) {
  const std::set<std::string> names = {"num_attention_heads",
                                       "encoder_attention_heads",
                                       "decoder_attention_heads",
                                       "attention_heads",
                                       "n_head",
                                       "n_heads",
                                       "num_heads",
                                       "num_hidden_layers",
                                       "encoder_layers",
                                       "decoder_layers",
                                       "n_layer",
                                       "n_layers",
                                       "num_layers",
                                       "depth",
                                       "layers",
                                       "swa_num_attention_heads",
                                       "num_sliding_attention_heads"};
  const json table = json::parse(std::ifstream(SEXTANT_SOURCE_DIR "/src/model/attention_facts.json"));
  int tried = 0;
  for (const auto& [type, facts] : table["models"].items()) {
    if (!facts.contains("defaults") || facts.contains("refused") || facts.contains("text")) continue;
    const json plain = {{"model_type", type}, {"dtype", "float16"}};
    const auto usual = parse_model_config(plain.dump(), "usual");
    if (!usual || std::none_of(usual->layers.begin(), usual->layers.end(), [](const auto& one) { return one.attends; }))
      continue;
    for (const auto& [name, value] : facts["defaults"].items()) {
      if (names.count(name) == 0 || !value.is_number_integer()) continue;
      json once = plain, twice = plain;
      once[name] = value;
      twice[name] = value.get<int64_t>() * 2;
      EXPECT_NE(answer(parse_model_config(once.dump(), "one")), answer(parse_model_config(twice.dump(), "one")))
          << name << " of " << type;
      ++tried;
    }
  }
  EXPECT_GT(tried, 800);
}

TEST(ConfigFuzz, FieldsOfOtherTypesAreSaid) {
  const std::string llama = R"({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "dtype": "float16",
      "num_hidden_layers": 4, )";
  for (const char* field :
       {R"("attn_layer_period": 2)", R"("full_attention_interval": 4)", R"("attention_chunk_size": 64)",
        R"("global_head_dim": 32)", R"("swa_num_key_value_heads": 2)", R"("local_attention": 64)",
        R"("global_attn_every_n_layers": 3)", R"("index_topk": 5)", R"("attention_sink_size": 4)",
        R"("some_sparse_attention": {"block": 3})", R"("my_window": 7)"}) {
    const auto shape = parse_model_config(llama + field + "}", "test");
    ASSERT_TRUE(shape.is_ok()) << shape.status().message();
    const std::string name = std::string(field).substr(1, std::string(field).find('"', 1) - 1);
    const std::string plain = answer(parse_model_config(llama + R"("bos_token_id": 1})", "test"));
    const bool said = answer(shape).find(name) != std::string::npos;
    EXPECT_TRUE(said || answer(shape).substr(0, plain.size()) != plain) << field << ": " << answer(shape);
  }
}

TEST(ConfigFuzz, NothingCrashesAndNothingIsImpossible) {
  std::mt19937 bits(20);
  const std::vector<json> values = {nullptr,
                                    -1,
                                    0,
                                    1,
                                    3,
                                    2.5,
                                    1e99,
                                    "x",
                                    "",
                                    {},
                                    false,
                                    true,
                                    7,
                                    json::array(),
                                    json::object(),
                                    "Infinity",
                                    64,
                                    "torch.float16",
                                    json::array({1, nullptr, "full_attention"}),
                                    2147483647,
                                    -2147483648LL,
                                    1e9};
  const std::vector<json> configs = published_configs();
  std::vector<std::string> names;
  for (const json& config : configs)
    for (const auto& [name, value] : config.items()) names.push_back(name);
  for (int round = 0; round < 20000; ++round) {
    json config = configs[bits() % configs.size()];
    for (unsigned change = bits() % 3 + 1; change > 0; --change) {
      json& part = bits() % 5 == 0 ? config : language_part(config);
      const std::string name = names[bits() % names.size()];
      if (!part.is_object()) break;
      if (bits() % 4 == 0)
        part.erase(name);
      else if (bits() % 8 == 0)
        part[name] = configs[bits() % configs.size()];
      else
        part[name] = values[bits() % values.size()];
    }
    const auto shape = parse_model_config(config.dump(), "fuzz");
    if (!shape) {
      EXPECT_FALSE(shape.status().message().empty());
      continue;
    }
    EXPECT_FALSE(shape->layers.empty());
    EXPECT_LE(shape->layers.size(), 20000u);
    for (const ModelLayer& layer : shape->layers) {
      if (!layer.attends) continue;
      EXPECT_GE(layer.attention.num_kv_heads, 1) << config.dump();
      EXPECT_EQ(layer.attention.num_heads % layer.attention.num_kv_heads, 0) << config.dump();
      EXPECT_GE(layer.attention.head_dim, 1) << config.dump();
      EXPECT_GT(layer.attention.softmax_scale, 0) << config.dump();
    }
  }
}

TEST(ConfigFuzz, BrokenTextIsRefused) {
  std::mt19937 bits(7);
  const std::vector<json> configs = published_configs();
  for (int round = 0; round < 5000; ++round) {
    std::string text = configs[bits() % configs.size()].dump();
    for (unsigned change = bits() % 4 + 1; change > 0; --change) {
      const size_t at = bits() % text.size();
      if (bits() % 3 == 0)
        text.erase(at, bits() % 8);
      else
        text[at] = static_cast<char>(bits() % 256);
      if (text.empty()) text = "{";
    }
    (void)parse_model_config(text, "fuzz").is_ok();
  }
  for (const std::string& deep :
       {std::string(1 << 20, '['), std::string(1 << 20, '{'), "{\"a\": " + std::string(99999, '[')})
    EXPECT_FALSE(parse_model_config(deep, "deep").is_ok());
  std::string nested = "{\"num_attention_heads\": 4}";
  for (int level = 0; level < 60; ++level) nested = "{\"text_config\": " + nested + "}";
  (void)parse_model_config(nested, "nested").is_ok();
}

}  // namespace
}  // namespace sextant
