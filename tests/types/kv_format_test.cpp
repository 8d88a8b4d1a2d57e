// Names of what a cache stores, as vLLM's kv_cache_dtype has them.
#include <gtest/gtest.h>

#include "sextant/kv_cache.h"
#include "support/matchers.h"

namespace sextant {
namespace {

TEST(KvFormat, NamesGoThereAndBack) {
  for (const char* name : {"fp32", "fp16", "bf16", "fp8_e4m3fn", "fp8_e4m3fnuz", "fp8_e5m2", "int8_per_token_head",
                           "fp8_e4m3fn_per_token_head", "fp8_e4m3fnuz_per_token_head", "fp8_e5m2_per_token_head"}) {
    const auto format = parse_kv_format(name);
    ASSERT_OK(format);
    EXPECT_EQ(to_string(*format), name);
  }
}

// int8 numbers mean nothing without a token's scale; 16 bits have none.
TEST(KvFormat, OthersAreRefused) {
  for (const char* name : {"int8", "bf16_per_token_head", "fp32_per_token_head", "int32", "fp4", "", "_per_token_head"})
    EXPECT_ERROR(parse_kv_format(name), StatusCode::kInvalidArgument, "allowed: fp32, fp16, bf16, fp8_e4m3fn");
}

TEST(KvFormat, BytesOfARow) {
  EXPECT_EQ(KvFormat(DType::kBF16).row_bytes(128), 256);
  EXPECT_EQ(parse_kv_format("int8_per_token_head")->row_bytes(128), 132);
}

}  // namespace
}  // namespace sextant
