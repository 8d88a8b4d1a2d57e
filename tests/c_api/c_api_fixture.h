// A device and one small step through the C structs: one request of 5 tokens, the last of them new, in blocks 1 and 0
// of 4 tokens.
#pragma once

#include <gtest/gtest.h>

#include "sextant/sextant.h"

namespace sextant::testing {

struct CApi : ::testing::Test {
  sextant_device* device = nullptr;
  sextant_attention_spec spec{};
  sextant_kv_cache_spec cache{};
  int32_t query_start_loc[2] = {0, 1}, seq_lens[1] = {5}, block_table[2] = {1, 0};
  int64_t slot_mapping[1] = {0};  // position 4: block 0 of the table's second entry
  sextant_batch batch{};

  void SetUp() override {
    ASSERT_EQ(sextant_device_open(SEXTANT_CPU, 0, &device), SEXTANT_OK) << sextant_last_error();
    spec.size = sizeof spec;
    spec.num_heads = 4;
    spec.num_kv_heads = 2;
    spec.head_dim = 8;
    spec.softmax_scale = 0.5F;
    spec.causal = 1;
    spec.dtype = SEXTANT_FP32;
    cache.size = sizeof cache;
    cache.layout = SEXTANT_PREFERRED;
    cache.dtype = SEXTANT_FP32;
    cache.num_blocks = 2;
    cache.block_size = 4;
    cache.num_kv_heads = 2;
    cache.head_dim = 8;
    batch.size = sizeof batch;
    batch.num_requests = 1;
    batch.query_start_loc = query_start_loc;
    batch.seq_lens = seq_lens;
    batch.block_table = block_table;
    batch.max_blocks_per_request = 2;
    batch.slot_mapping = slot_mapping;
  }
  void TearDown() override { sextant_device_close(device); }
};

inline sextant_tensor tensor(void* data, int64_t a, int64_t b, int64_t c) {
  sextant_tensor t{};
  t.data = data;
  t.dtype = SEXTANT_FP32;
  t.rank = 3;
  t.shape[0] = a;
  t.shape[1] = b;
  t.shape[2] = c;
  t.stride[0] = b * c;
  t.stride[1] = c;
  t.stride[2] = 1;
  return t;
}

}  // namespace sextant::testing
