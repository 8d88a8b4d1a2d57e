// ../shared/data/configs: reduced configs that are easy to read wrongly, with the right values of its README.
#include <gtest/gtest.h>

#include <filesystem>

#include "layer_text.h"

namespace sextant {
namespace {

const std::string kFolder = SEXTANT_SHARED_DATA "/configs/";

class SharedConfigs : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kFolder)) GTEST_SKIP() << kFolder << " is not there: its configs are not read";
  }
  ModelShape read(const std::string& name) {
    auto shape = read_model_config(kFolder + name + ".json");
    EXPECT_TRUE(shape.is_ok()) << shape.status().message();
    return shape ? *shape : ModelShape{};
  }
  std::string layer(const ModelShape& shape, size_t index) { return layer_text(shape, index); }
  std::string notes(const ModelShape& shape) {
    std::string text;
    for (const std::string& note : shape.notes) text += note + "\n";
    return text;
  }
};

TEST_F(SharedConfigs, NameLayersThatDoNotAttend) {
  EXPECT_EQ(layer(read("granite_hybrid"), 0), "- Mamba");
  EXPECT_EQ(layer(read("granite_hybrid"), 1), "4/4 16");
  for (const char* kimi : {"kimi_linear_conf", "kimi_linear_list"}) {
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(layer(read(kimi), i), "- linear attention") << kimi;
    EXPECT_EQ(layer(read(kimi), 3), "4/4 24/16 mla64") << kimi;
  }
  const ModelShape qwen = read("qwen3_next");
  EXPECT_EQ(layer(qwen, 3), "4/2 256");
  EXPECT_NE(notes(qwen).find("3 of 4 layers are linear attention: not served here"), std::string::npos);
  EXPECT_EQ(layer(read("nemotron_h"), 1), "- feed-forward alone");
  EXPECT_EQ(layer(read("nemotron_h"), 3).substr(0, 2), "4/");
  EXPECT_EQ(read("nemotron_h_no_count").layers.size(), 3u);
  EXPECT_EQ(layer(read("nemotron_h_no_count"), 2).substr(0, 2), "4/");
  EXPECT_EQ(layer(read("nemotron_nas"), 0), "4/2 16");
  EXPECT_EQ(layer(read("nemotron_nas"), 1), "- without attention");
}

TEST_F(SharedConfigs, NameAttentionThatIsNotExpressed) {
  EXPECT_EQ(layer(read("minimax_m3"), 0), "4/4 16");
  EXPECT_NE(layer(read("minimax_m3"), 1).find("block-sparse"), std::string::npos);
  EXPECT_EQ(layer(read("mllama"), 2), "4/4 16");
  EXPECT_EQ(layer(read("mllama"), 3), "- cross attention");
  EXPECT_NE(notes(read("dsa")).find("index_topk"), std::string::npos);
  EXPECT_EQ(layer(read("dsa"), 0), "4/4 24/16 mla64");
  const ModelShape embedding = read("embeddinggemma");
  EXPECT_EQ(layer(embedding, 0), "4/4 16 256|256 not causal");
  EXPECT_EQ(layer(embedding, 1), "4/4 16 not causal");
}

TEST_F(SharedConfigs, KnowEachLayersShape) {
  EXPECT_EQ(layer(read("gemma4_per_layer_config"), 0), "4/2 16 w8");
  EXPECT_EQ(layer(read("gemma4_per_layer_config"), 1), "4/2 32");
  EXPECT_EQ(layer(read("gemma4"), 0), "4/2 256 w8");
  EXPECT_EQ(layer(read("gemma4"), 1), "4/2 512");
  EXPECT_EQ(layer(read("mimo_v2"), 0), "4/1 24/16");
  EXPECT_EQ(layer(read("mimo_v2"), 1), "4/2 24/16 w8 sinks");
}

TEST_F(SharedConfigs, KnowTheClassesDefaults) {
  EXPECT_EQ(layer(read("gemma-3-12b-it"), 0), "16/8 256 w1024");
  EXPECT_EQ(layer(read("gemma-3-12b-it"), 5), "16/8 256");
  EXPECT_EQ(layer(read("gemma-3-4b-it"), 0), "8/4 256 w1024");
  const ModelShape llava = read("llava");
  EXPECT_EQ(llava.layers.size(), 32u);
  EXPECT_EQ(layer(llava, 31), "32/32 128");
  EXPECT_EQ(llava.layers.at(0).attention.dtype, DType::kF16);
  EXPECT_EQ(layer(read("baichuan2_13b"), 39), "40/40 128 alibi");
  EXPECT_EQ(read("gemma3n").layers.at(0).attention.softmax_scale, 1.0f);
  EXPECT_EQ(layer(read("bert"), 0), "4/4 16 not causal");
}

TEST_F(SharedConfigs, AcceptOtherSpellings) {
  const ModelShape mistral = read("mistral_params");
  EXPECT_EQ(mistral.layers.size(), 26u);
  EXPECT_EQ(layer(mistral, 0), "32/8 128");
  EXPECT_EQ(mistral.hidden_size, 3072);
  EXPECT_EQ(layer(read("infinity"), 0), "4/4 16");
  EXPECT_EQ(read("dtype").layers.at(0).attention.dtype, DType::kBF16);
  EXPECT_EQ(layer(read("window0"), 0), "4/4 16");
}

}  // namespace
}  // namespace sextant
