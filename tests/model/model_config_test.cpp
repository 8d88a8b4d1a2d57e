#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "sextant/model.h"

namespace sextant {
namespace {

Result<ModelShape> parse(const std::string& text) { return parse_model_config(text, "test"); }
std::string message_of(const std::string& text) { return parse(text).status().message(); }

constexpr char kLlama[] =
    R"({"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 2, "torch_dtype": "bfloat16", "max_position_embeddings": 8192})";

TEST(ModelConfig, ReadsGroupedQueries) {
  const ModelShape model = parse(kLlama).value();
  ASSERT_EQ(model.layers.size(), 2u);
  EXPECT_EQ(model.layers[0].attention.num_heads, 32);
  EXPECT_EQ(model.layers[0].attention.num_kv_heads, 8);
  EXPECT_EQ(model.layers[0].attention.head_dim, 128);
  EXPECT_FLOAT_EQ(model.layers[0].attention.softmax_scale, 1 / std::sqrt(128.0f));
  EXPECT_EQ(model.layers[0].attention.dtype, DType::kBF16);
  EXPECT_EQ(model.max_position_embeddings, 8192);
  EXPECT_TRUE(model.notes.empty());
  EXPECT_TRUE(validate(model.layers[0].attention).is_ok());
}

TEST(ModelConfig, AssumesAsManyKvHeadsAsHeadsAndBf16) {
  const ModelShape model = parse(R"({"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1})").value();
  EXPECT_EQ(model.layers[0].attention.num_kv_heads, 4);
  ASSERT_EQ(model.notes.size(), 2u);
  EXPECT_EQ(model.notes[1],
            "the config does not say num_key_value_heads 4, head_dim 16: assumed, as most models have it");
}

TEST(ModelConfig, ScalesGemmaByItsOwnNumber) {
  const ModelShape model =
      parse(R"({"model_type": "gemma2", "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128,
      "num_key_value_heads": 16, "num_hidden_layers": 4, "query_pre_attn_scalar": 144, "attn_logit_softcapping": 50.0,
      "sliding_window": 4096, "dtype": "bfloat16"})")
          .value();
  EXPECT_FLOAT_EQ(model.layers[0].attention.softmax_scale, 1 / 12.0f);
  EXPECT_FLOAT_EQ(model.layers[0].attention.logits_soft_cap, 50);
  EXPECT_EQ(model.layers[0].attention.sliding_window, 4096);
  EXPECT_EQ(model.layers[1].attention.sliding_window, 0);
  const auto kinds = layer_kinds(model);
  ASSERT_EQ(kinds.size(), 2u);
  EXPECT_EQ(kinds[1].layers, (std::vector<int32_t>{1, 3}));
}

TEST(ModelConfig, FollowsLayerTypesAndPatterns) {
  const std::string head =
      R"({"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "sliding_window": 7, )";
  const ModelShape listed =
      parse(head + R"("layer_types": ["full_attention", "sliding_attention", "full_attention"]})").value();
  EXPECT_EQ(listed.layers[0].attention.sliding_window, 0);
  EXPECT_EQ(listed.layers[1].attention.sliding_window, 7);
  const ModelShape patterned = parse(head + R"("sliding_window_pattern": 3})").value();
  EXPECT_EQ(patterned.layers[1].attention.sliding_window, 7);
  EXPECT_EQ(patterned.layers[2].attention.sliding_window, 0);
  const ModelShape qwen = parse(head + R"("use_sliding_window": true, "max_window_layers": 2})").value();
  EXPECT_EQ(qwen.layers[1].attention.sliding_window, 0);
  EXPECT_EQ(qwen.layers[2].attention.sliding_window, 7);
  EXPECT_EQ(parse(head + R"("use_sliding_window": false, "max_window_layers": 2})")->layers[2].attention.sliding_window,
            0);
  EXPECT_EQ(parse(head + R"("model_type": "mistral"})")->layers[2].attention.sliding_window, 7);
}

TEST(ModelConfig, KnowsGptOssHasSinks) {
  const ModelShape model =
      parse(R"({"model_type": "gpt_oss", "hidden_size": 2880, "num_attention_heads": 64, "head_dim": 64,
      "num_key_value_heads": 8, "num_hidden_layers": 2, "sliding_window": 128})")
          .value();
  EXPECT_TRUE(model.layers[0].attention.has_sinks);
  EXPECT_EQ(model.layers[0].attention.sliding_window, 128);
  EXPECT_EQ(model.layers[1].attention.sliding_window, 0);
}

TEST(ModelConfig, ReadsMlaWithYarn) {
  const std::string text = R"({"model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128,
      "num_key_value_heads": 128, "num_hidden_layers": 1, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "v_head_dim": 128, "rope_scaling": {"type": "yarn", "factor": 40, "mscale_all_dim": 1.0}, "torch_dtype": "bfloat16"})";
  const ModelShape model = parse(text).value();
  const AttentionSpec& spec = model.layers[0].attention;
  EXPECT_TRUE(spec.mla.enabled());
  EXPECT_EQ(spec.head_dim, 192);
  EXPECT_EQ(spec.value_head_dim(), 128);
  const double mscale = 0.1 * std::log(40.0) + 1;
  EXPECT_FLOAT_EQ(spec.softmax_scale, static_cast<float>(mscale * mscale / std::sqrt(192.0)));
  EXPECT_TRUE(validate(spec).is_ok());
  const KvCacheSpec cache = kv_cache_for(spec, DType::kBF16, 16, 8);
  EXPECT_EQ(cache.layout, KvLayout::kLatent);
  EXPECT_EQ(cache.head_dim, 576);
  EXPECT_EQ(cache.head_dim_v, 512);
}

TEST(ModelConfig, ReadsAlibiModels) {
  const ModelShape bloom =
      parse(R"({"model_type": "bloom", "hidden_size": 1024, "n_head": 16, "n_layer": 24})").value();
  EXPECT_TRUE(bloom.layers[0].attention.has_alibi);
  EXPECT_EQ(bloom.layers.size(), 24u);
  const ModelShape mpt = parse(R"({"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32,
      "attn_config": {"alibi": true, "softmax_scale": 0.5, "kv_n_heads": 8}})")
                             .value();
  EXPECT_TRUE(mpt.layers[0].attention.has_alibi);
  EXPECT_EQ(mpt.layers[0].attention.num_kv_heads, 8);
  EXPECT_FLOAT_EQ(mpt.layers[0].attention.softmax_scale, 0.5f);
  const ModelShape falcon = parse(R"({"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71,
      "num_hidden_layers": 32, "multi_query": true, "alibi": false})")
                                .value();
  EXPECT_EQ(falcon.layers[0].attention.num_kv_heads, 1);
  EXPECT_EQ(falcon.layers[0].attention.head_dim, 64);
}

TEST(ModelConfig, ReadsTheLanguagePartOfMultimodalModels) {
  const ModelShape model = parse(R"({"dtype": "float16", "vision_config": {"num_attention_heads": 16},
      "text_config": {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}})")
                               .value();
  EXPECT_EQ(model.layers[0].attention.num_heads, 4);
  EXPECT_EQ(model.layers[0].attention.dtype, DType::kF16);
}

TEST(ModelConfig, NamesWhatIsWrong) {
  EXPECT_EQ(message_of("{"), "the config of test is not a JSON object; allowed: a Hugging Face config.json");
  EXPECT_EQ(message_of("[]"), "the config of test is not a JSON object; allowed: a Hugging Face config.json");
  EXPECT_EQ(message_of("{}"), "config.num_attention_heads is missing; allowed: a whole number, 1..2147483647");
  EXPECT_EQ(message_of(R"({"num_attention_heads": "32"})"),
            "config.num_attention_heads is \"32\"; allowed: a whole number, 1..2147483647");
  EXPECT_EQ(message_of(R"({"num_attention_heads": 2.5})"),
            "config.num_attention_heads is 2.5; allowed: a whole number, 1..2147483647");
  EXPECT_EQ(message_of(R"({"num_attention_heads": 1e99})"),
            "config.num_attention_heads is 1e+99; allowed: a whole number, 1..2147483647");
  EXPECT_EQ(message_of(R"({"num_attention_heads": 4, "num_key_value_heads": 3, "hidden_size": 64})"),
            "config.num_key_value_heads is 3; allowed: a divisor of num_attention_heads (4)");
  EXPECT_EQ(message_of(R"({"num_attention_heads": 3, "hidden_size": 64})"),
            "config.hidden_size is 64; allowed: a multiple of num_attention_heads (3), or a head_dim");
  const std::string head = R"({"hidden_size": 64, "num_attention_heads": 4, )";
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 0})"),
            "config.num_hidden_layers is 0; allowed: a whole number, 1..2147483647");
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 1000000000})"),
            "config.num_hidden_layers is 1000000000; allowed: 1..10000");
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 2, "layer_types": ["full_attention"]})"),
            "config.layer_types is [\"full_attention\"]; allowed: a list of num_hidden_layers (2) strings");
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 1, "layer_types": ["odd"]})").substr(0, 81),
            "config.layer_types[0] is \"odd\"; allowed: attention, chunked_attention, compressed");
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 1, "dtype": "int8"})"),
            "config.dtype is \"int8\"; allowed: float32, float16, bfloat16");
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 1, "kv_lora_rank": 512})"),
            "config.qk_nope_head_dim is missing; allowed: a whole number, 1..2147483647");
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 1, "attn_logit_softcapping": -1})"),
            "config.attn_logit_softcapping is -1; allowed: a finite number > 0");
  EXPECT_EQ(message_of(head + R"("num_hidden_layers": 1, "attn_config": 3})"),
            "config.attn_config is 3; allowed: an object");
}

// Known fields of a wrong type, and switches without what they switch on.
TEST(ModelConfig, DropsNoKnownFieldWithoutAWord) {
  const std::string head =
      R"({"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "dtype": "bfloat16", )";
  EXPECT_EQ(message_of(head + R"("model_type": 3})"), "config.model_type is 3; allowed: a string");
  EXPECT_EQ(message_of(R"({"model_type": "gemma3", "text_config": )" + head + R"("model_type": []}})"),
            "config.text_config.model_type is []; allowed: a string");
  EXPECT_EQ(message_of(head + R"("layer_types": 0})"),
            "config.layer_types is 0; allowed: a list of strings, one a layer");
  EXPECT_EQ(message_of(head + R"("hybrid_layer_pattern": false})"),
            "config.hybrid_layer_pattern is false; allowed: a list or a string, one entry a layer");
  EXPECT_EQ(message_of(head + R"("use_mla": true})"),
            "config.kv_lora_rank is missing; allowed: a whole number >= 1, as use_mla is true");
  EXPECT_NE(message_of(head + R"("index_topk": "many"})").find("config.index_topk is \"many\""), std::string::npos);
  const auto notes_of = [&](const std::string& more) {
    std::string notes;
    const ModelShape model = parse(head + more + "}").value();
    for (const std::string& note : model.notes) notes += note + "\n";
    return notes;
  };
  EXPECT_NE(notes_of(R"("model_type": "brand_new", "use_sliding_window": true)")
                .find("use_sliding_window is true and no window is given: layers see everything"),
            std::string::npos);
  for (const char* field : {"softmax_scale", "qk_scale_factor", "relative_attention_num_buckets", "qk_nope_head_dim",
                            "window_size", "attn_scale"}) {
    const std::string given = std::string(R"("model_type": "brand_new", ")") + field + "\": 48";
    EXPECT_NE(notes_of(given).find(std::string("not taken into account: ") + field + " 48"), std::string::npos)
        << given;
    const std::string known = std::string(R"("model_type": "llama", ")") + field + "\": 48";
    EXPECT_TRUE(parse(head + known + "}").is_ok()) << known;
  }
}

TEST(ModelConfig, ReadsFilesAndFolders) {
  const auto folder = std::filesystem::temp_directory_path() / "sextant_model_test" / "My-Model";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << kLlama;
  EXPECT_EQ(load_model(folder.string())->name, "My-Model");
  EXPECT_EQ(load_model((folder / "config.json").string())->layers.size(), 2u);
  std::ofstream(folder / "broken.json") << "{\"hidden";
  const Status broken = load_model((folder / "broken.json").string()).status();
  EXPECT_NE(broken.message().find("broken.json: the config of broken is not a JSON object"), std::string::npos)
      << broken.message();
  EXPECT_EQ(load_model((folder / "absent.json").string()).status().code(), StatusCode::kNotFound);
  std::filesystem::remove_all(folder.parent_path());
}

TEST(AlibiSlopes, FollowThePaper) {
  EXPECT_EQ(alibi_slopes(8),
            (std::vector<float>{0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f, 0.0078125f, 0.00390625f}));
  const auto twelve = alibi_slopes(12);
  ASSERT_EQ(twelve.size(), 12u);
  EXPECT_FLOAT_EQ(twelve[8], std::exp2(-0.5f));
  EXPECT_TRUE(alibi_slopes(0).empty());
}

}  // namespace
}  // namespace sextant
