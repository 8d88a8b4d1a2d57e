// The C ABI end to end: select, plan, run; and its errors.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <vector>

#include "sextant/sextant.h"

namespace {

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
    cache.layout = -1;
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

sextant_tensor tensor(void* data, int64_t a, int64_t b, int64_t c) {
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

// Equal keys: the output is the mean of the five values 0, 1, 2, 3 (in the cache) and 10 (new).
TEST_F(CApi, RunsABackend) {
  for (const char* name : {"TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"}) {
    int64_t k_elements = 0, v_elements = 0;
    int32_t layout = 0;
    cache.layout = SEXTANT_NHD;
    ASSERT_EQ(sextant_kv_cache_layout(device, name, &cache, &layout, &k_elements, &v_elements), SEXTANT_OK)
        << sextant_last_error();
    std::vector<float> k_memory(static_cast<size_t>(k_elements), NAN), v_memory(static_cast<size_t>(v_elements), NAN);
    for (size_t i = 0; i < 4 * 16; ++i) {  // block 1 holds positions 0..3
      k_memory[4 * 16 + i] = 0;
      v_memory[4 * 16 + i] = static_cast<float>(i / 16);
    }
    std::vector<float> q(32, 1), k(16, 0), v(16, 10), out(32, NAN);
    sextant_plan_options options{};
    options.size = sizeof options;
    options.decode_max_query_len = 1;
    sextant_plan* plan = nullptr;
    ASSERT_EQ(sextant_plan_make(device, name, &spec, &cache, &batch, &options, &plan), SEXTANT_OK)
        << sextant_last_error();
    EXPECT_NE(std::string(sextant_plan_describe(plan)).find("reshape_and_cache"), std::string::npos);
    const size_t bytes = (sextant_plan_workspace_bytes(plan) + 511) / 256 * 256;
    void* workspace = std::aligned_alloc(256, bytes);
    sextant_run_tensors run{};
    run.size = sizeof run;
    run.q = tensor(q.data(), 1, 4, 8);
    run.k = tensor(k.data(), 1, 2, 8);
    run.v = tensor(v.data(), 1, 2, 8);
    run.out = tensor(out.data(), 1, 4, 8);
    run.cache.spec = cache;
    run.cache.k = k_memory.data();
    run.cache.v = v_memory.data();
    run.cache.num_scales = 1;
    run.query_start_loc = query_start_loc;
    run.seq_lens = seq_lens;
    run.block_table = block_table;
    run.block_table_stride = 2;
    run.slot_mapping = slot_mapping;
    run.workspace = workspace;
    run.workspace_bytes = bytes;
    EXPECT_EQ(sextant_plan_run(plan, &run, nullptr), SEXTANT_OK) << sextant_last_error();
    for (float x : out) EXPECT_NEAR(x, 16.0F / 5, 1e-5F) << name;

    run.workspace_bytes = 0;
    if (sextant_plan_workspace_bytes(plan) > 0) {
      EXPECT_EQ(sextant_plan_run(plan, &run, nullptr), SEXTANT_RESOURCE_EXHAUSTED);
    }
    run.workspace_bytes = bytes;
    run.q = tensor(q.data(), 1, 2, 16);
    EXPECT_EQ(sextant_plan_run(plan, &run, nullptr), SEXTANT_INVALID_ARGUMENT);
    EXPECT_NE(std::string(sextant_last_error()).find("q is fp32[1, 2, 16]; allowed: [*, 4, 8]"), std::string::npos);
    sextant_plan_free(plan);
    std::free(workspace);
  }
}

// Callers built before fp8 queries pass shorter structs; what lies behind those is not read.
TEST_F(CApi, ShorterStructs) {
  spec.query_dtype = SEXTANT_INT32;
  sextant_plan* plan = nullptr;
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(sextant_last_error()).find("spec.query_dtype is int32"), std::string::npos)
      << sextant_last_error();
  spec.size = offsetof(sextant_attention_spec, query_dtype);
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_OK)
      << sextant_last_error();
  sextant_plan_free(plan);
}

TEST_F(CApi, Selects) {
  const char* chosen = nullptr;
  char* explanation = nullptr;
  ASSERT_EQ(sextant_select(device, &spec, &cache, "ROCM_ATTN", &chosen, &explanation), SEXTANT_OK)
      << sextant_last_error();
  EXPECT_STREQ(chosen, "ROCM_ATTN");
  EXPECT_NE(std::string(explanation).find("\"candidates\""), std::string::npos);
  sextant_free_string(explanation);
  EXPECT_EQ(sextant_select(device, &spec, &cache, "ROCM_ATN", &chosen, nullptr), SEXTANT_NOT_FOUND);
  EXPECT_NE(std::string(sextant_last_error()).find("did you mean ROCM_ATTN?"), std::string::npos);
}

TEST_F(CApi, NamesTheBackends) {
  EXPECT_EQ(sextant_backend_count(), 6);
  EXPECT_STREQ(sextant_backend_name(0), "TRITON_ATTN");
  EXPECT_EQ(sextant_backend_name(6), nullptr);
}

TEST_F(CApi, BadInput) {
  sextant_plan* plan = nullptr;
  EXPECT_EQ(sextant_plan_make(nullptr, "ROCM_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_STREQ(sextant_last_error(), "device is NULL; allowed: a valid pointer");
  spec.size = 3;
  EXPECT_EQ(sextant_plan_make(device, "ROCM_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  spec.size = sizeof spec;
  spec.dtype = 99;
  EXPECT_EQ(sextant_plan_make(device, "ROCM_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  spec.dtype = SEXTANT_FP32;
  block_table[0] = 2;
  EXPECT_EQ(sextant_plan_make(device, "ROCM_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(sextant_last_error()).find("block_table[0][0] is 2; allowed: 0..1"), std::string::npos);
  EXPECT_EQ(plan, nullptr);
  sextant_device* other = nullptr;
  EXPECT_EQ(sextant_device_open(17, 0, &other), SEXTANT_INVALID_ARGUMENT);
  EXPECT_EQ(sextant_device_open(SEXTANT_HIP, 0, &other), SEXTANT_UNAVAILABLE);
}

}  // namespace
