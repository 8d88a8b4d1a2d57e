// Counts of blocks beside vLLM's arithmetic (vllm/v1/core/kv_cache_utils.py and kv_cache_interface.py, read in 2026),
// worked out by hand in the comments:
//   page        = block_size x KV heads x (K + V) x bytes; MLA: block_size x (latent + rope) x bytes
//   group size  = the fewest layers of a kind; the most, where that is less than 1.5 times as many
//   num_blocks  = available // page // group size
//   a request   = ceil(tokens / block_size) blocks of a group that sees everything,
//                 ceil(min(window - 1 + max_num_batched_tokens, tokens) / block_size) + 1 of one that slides,
//                 ceil(min(chunk + max_num_batched_tokens, tokens) / block_size) of one in chunks
#include <gtest/gtest.h>

#include "sextant/capacity.h"

namespace sextant {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

Capacity capacity_of(const std::string& model, const CapacityRequest& request) {
  auto capacity = kv_capacity(find_known_model(model).value(), request);
  EXPECT_TRUE(capacity.is_ok()) << capacity.status().message();
  return *capacity;
}

TEST(KvCapacity, CountsBlocksOfOneKindAsVllmDoes) {
  const CapacityRequest request{.memory_bytes = 60 * kGiB};
  const Capacity llama = capacity_of("Llama-3.1-8B", request);
  EXPECT_EQ(llama.bytes_a_token, 131072);           // 32 layers x 8 heads x 256 x 2 bytes
  EXPECT_EQ(llama.num_blocks, 30720);               // 60 GiB // 65536 // 32
  EXPECT_EQ(llama.blocks_for(8192, request), 512);  // every group holds all of it
  EXPECT_EQ(llama.blocks_for(8193, request), 513);
}

TEST(KvCapacity, CountsGroupsOfWindowsAsVllmDoes) {
  const CapacityRequest request{.memory_bytes = 60 * kGiB};
  // 52 layers slide, 10 see everything: groups of 10, six of them slide (the last one padded).
  const Capacity gemma = capacity_of("Gemma-3-27b", request);
  EXPECT_EQ(gemma.group_layers, 10);
  EXPECT_EQ(gemma.page_bytes, 131072);                          // 16 x 16 heads x 256 x 2 bytes
  EXPECT_EQ(gemma.num_blocks, 49152);                           // 60 GiB // 131072 // 10
  EXPECT_EQ(gemma.blocks_for(8192, request), 512 + 6 * 513);    // min(1023 + 8192, 8192) = 8192
  EXPECT_EQ(gemma.blocks_for(32768, request), 2048 + 6 * 577);  // ceil(9215 / 16) + 1
  // 18 and 18: one group each.
  const Capacity gpt_oss = capacity_of("gpt-oss-120b", request);
  EXPECT_EQ(gpt_oss.group_layers, 18);
  EXPECT_EQ(gpt_oss.num_blocks, 109226);                      // 60 GiB // 32768 // 18
  EXPECT_EQ(gpt_oss.blocks_for(32768, request), 2048 + 521);  // ceil((127 + 8192) / 16) + 1
}

TEST(KvCapacity, CountsGroupsOfChunksAsVllmDoes) {
  const CapacityRequest request{.memory_bytes = 60 * kGiB};
  // 36 layers in chunks of 8192, 12 see everything: groups of 12, three of them in chunks.
  const auto scout = parse_model_config(R"({"model_type": "llama4_text", "dtype": "bfloat16"})", "scout");
  const auto capacity = kv_capacity(*scout, request);
  ASSERT_TRUE(capacity.is_ok()) << capacity.status().message();
  EXPECT_EQ(capacity->group_layers, 12);
  EXPECT_EQ(capacity->blocks_for(4096, request), 4 * 256);
  EXPECT_EQ(capacity->blocks_for(32768, request), 2048 + 3 * 1024);  // ceil((8192 + 8192) / 16)
}

TEST(KvCapacity, CountsLatentsAsVllmDoes) {
  CapacityRequest request{.memory_bytes = 60 * kGiB, .tensor_parallel = 8};
  const Capacity deepseek = capacity_of("DeepSeek-V3", request);
  EXPECT_EQ(deepseek.bytes_a_token, 61 * 576 * 2);  // on every device: the latent belongs to all heads
  EXPECT_EQ(deepseek.num_blocks, 57299);            // 60 GiB // 18432 // 61
  request.kv_format = DType::kF8E4M3FN;
  EXPECT_EQ(capacity_of("DeepSeek-V3", request).bytes_a_token, 61 * 576);
}

TEST(KvCapacity, SplitsAndRepeatsKvHeads) {
  CapacityRequest request{.memory_bytes = kGiB, .tensor_parallel = 4};
  EXPECT_EQ(capacity_of("Llama-3.1-8B", request).bytes_a_token, 131072 / 4);
  request.tensor_parallel = 16;  // more devices than KV heads: each has one
  EXPECT_EQ(capacity_of("Llama-3.1-8B", request).bytes_a_token, 131072 / 8);
  request.tensor_parallel = 3;
  EXPECT_NE(kv_capacity(find_known_model("Llama-3.1-8B").value(), request)
                .status()
                .message()
                .find("tensor parallel is 3; allowed: a divisor of num_attention_heads (32)"),
            std::string::npos);
}

TEST(KvCapacity, LeavesOutWhatKeepsNothing) {
  const auto shape = [](const char* text) { return parse_model_config(text, "test").value(); };
  const CapacityRequest request{.memory_bytes = kGiB};
  const auto hybrid = kv_capacity(shape(R"({"model_type": "qwen3_next", "dtype": "bfloat16"})"), request);
  EXPECT_EQ(hybrid->bytes_a_token, 12 * 2 * 512 * 2);  // 12 of 48 layers
  EXPECT_EQ(hybrid->notes.at(0), "the states that 36 layers keep for each request are not counted");
  const auto sharing = kv_capacity(shape(R"({"model_type": "gemma3n_text", "dtype": "bfloat16"})"), request);
  EXPECT_EQ(sharing->bytes_a_token, 20 * 2 * 512 * 2);  // 15 of 35 layers read those of others
  EXPECT_FALSE(kv_capacity(shape(R"({"model_type": "bert"})"), request).is_ok());
  EXPECT_FALSE(kv_capacity(shape(R"({"model_type": "mamba"})"), request).is_ok());
  EXPECT_FALSE(kv_capacity(shape(R"({"model_type": "llama"})"), {}).is_ok());
}

}  // namespace
}  // namespace sextant
