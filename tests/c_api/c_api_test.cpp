// The C ABI end to end: select, plan, run; and its errors.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "c_api/c_api_fixture.h"

namespace {

using sextant::testing::CApi;
using sextant::testing::tensor;

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

// Two new tokens of one span: the first sees the second. Equal keys, so that outputs are means of values.
TEST_F(CApi, SpansAreBidirectional) {
  int32_t starts[2] = {0, 2}, spans[4] = {3, 5, 3, 5};
  int64_t slots[2] = {3 + 4, 0};
  spec.max_span_len = 4;
  cache.layout = SEXTANT_NHD;
  batch.query_start_loc = starts;
  batch.slot_mapping = slots;
  batch.token_spans = spans;
  for (const char* name : {"TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"}) {
    std::vector<float> k_memory(2 * 64, 0), v_memory(2 * 64, 1), q(64, 1), k(32, 0), v(32, 6), out(64, NAN);
    sextant_plan* plan = nullptr;
    ASSERT_EQ(sextant_plan_make(device, name, &spec, &cache, &batch, nullptr, &plan), SEXTANT_OK)
        << sextant_last_error();
    const size_t bytes = (sextant_plan_workspace_bytes(plan) + 511) / 256 * 256;
    void* workspace = std::aligned_alloc(256, bytes);
    sextant_run_tensors run{};
    run.size = sizeof run;
    run.q = tensor(q.data(), 2, 4, 8);
    run.k = tensor(k.data(), 2, 2, 8);
    run.v = tensor(v.data(), 2, 2, 8);
    run.out = tensor(out.data(), 2, 4, 8);
    run.cache.spec = cache;
    run.cache.k = k_memory.data();
    run.cache.v = v_memory.data();
    run.query_start_loc = starts;
    run.seq_lens = seq_lens;
    run.block_table = block_table;
    run.block_table_stride = 2;
    run.slot_mapping = slots;
    run.workspace = workspace;
    run.workspace_bytes = bytes;
    EXPECT_EQ(sextant_plan_run(plan, &run, nullptr), SEXTANT_INVALID_ARGUMENT);
    EXPECT_NE(std::string(sextant_last_error()).find("token_spans is null"), std::string::npos);
    run.token_spans = spans;
    EXPECT_EQ(sextant_plan_run(plan, &run, nullptr), SEXTANT_OK) << sextant_last_error();
    for (float x : out) EXPECT_NEAR(x, (3 * 1 + 2 * 6) / 5.0F, 1e-5F) << name;
    sextant_plan_free(plan);
    std::free(workspace);
  }
  spans[1] = 9;
  sextant_plan* plan = nullptr;
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(sextant_last_error()).find("token_spans[0] is [3, 9), 6 long; allowed: <= 4"),
            std::string::npos)
      << sextant_last_error();
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

// The structs as the first header had them.
namespace first {
struct attention_spec {
  size_t size;
  int32_t num_heads, num_kv_heads, head_dim, head_dim_v;
  float softmax_scale;
  int32_t causal, sliding_window;
  float logits_soft_cap;
  int32_t has_sinks, has_alibi, dtype, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, reserved;
};
struct kv_cache_spec {
  size_t size;
  int32_t layout, dtype;
  int64_t num_blocks;
  int32_t block_size, num_kv_heads, head_dim, head_dim_v;
};
struct kv_cache {
  kv_cache_spec spec;
  void *k, *v;
  const float *k_scale, *v_scale;
  int32_t num_scales;
};
struct run_tensors {
  size_t size;
  sextant_tensor q, k, v, out, lse, kv_c, k_pe, kv_b_proj;
  kv_cache cache;
  const int32_t *query_start_loc, *seq_lens, *block_table;
  int64_t block_table_stride;
  const int64_t* slot_mapping;
  const float *sinks, *alibi_slopes;
  void* workspace;
  size_t workspace_bytes;
};
}  // namespace first

// A caller with that header, whose memory behind the structs is full of something else.
TEST_F(CApi, AnOlderHeadersSizes) {
  struct {
    first::attention_spec spec;
    uint8_t after[64];
  } old_spec;
  struct {
    first::kv_cache_spec spec;
    uint8_t after[64];
  } old_cache;
  struct {
    first::run_tensors run;
    uint8_t after[256];
  } old_run;
  std::memset(&old_spec, 0xee, sizeof old_spec);
  std::memset(&old_cache, 0xee, sizeof old_cache);
  std::memset(&old_run, 0xee, sizeof old_run);
  old_spec.spec = {sizeof old_spec.spec, 4, 2, 8, 0, 0.5F, 1, 0, 0, 0, 0, SEXTANT_FP32, 0, 0, 0, 0, 0};
  old_cache.spec = {sizeof old_cache.spec, SEXTANT_NHD, SEXTANT_FP32, 2, 4, 2, 8, 0};
  sextant_plan* plan = nullptr;
  ASSERT_EQ(sextant_plan_make(device, "TRITON_ATTN", reinterpret_cast<sextant_attention_spec*>(&old_spec.spec),
                              reinterpret_cast<sextant_kv_cache_spec*>(&old_cache.spec), &batch, nullptr, &plan),
            SEXTANT_OK)
      << sextant_last_error();
  std::vector<float> q(32, 1), k(16, 0), v(16, 10), out(32, NAN), k_memory(64 * 2, 0), v_memory(64 * 2, 2);
  const size_t bytes = (sextant_plan_workspace_bytes(plan) + 511) / 256 * 256;
  void* workspace = std::aligned_alloc(256, bytes);
  first::run_tensors run{};
  run.size = sizeof run;
  run.q = tensor(q.data(), 1, 4, 8);
  run.k = tensor(k.data(), 1, 2, 8);
  run.v = tensor(v.data(), 1, 2, 8);
  run.out = tensor(out.data(), 1, 4, 8);
  run.cache = {old_cache.spec, k_memory.data(), v_memory.data(), nullptr, nullptr, 1};
  run.query_start_loc = query_start_loc;
  run.seq_lens = seq_lens;
  run.block_table = block_table;
  run.block_table_stride = 2;
  run.slot_mapping = slot_mapping;
  run.workspace = workspace;
  run.workspace_bytes = bytes;
  old_run.run = run;
  EXPECT_EQ(sextant_plan_run(plan, reinterpret_cast<sextant_run_tensors*>(&old_run.run), nullptr), SEXTANT_OK)
      << sextant_last_error();
  for (float x : out) EXPECT_NEAR(x, (4 * 2 + 10) / 5.0F, 1e-5F);
  old_run.run.cache.spec.size = 3;
  EXPECT_EQ(sextant_plan_run(plan, reinterpret_cast<sextant_run_tensors*>(&old_run.run), nullptr),
            SEXTANT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(sextant_last_error()).find("tensors.cache.spec.size is 3"), std::string::npos);
  sextant_plan_free(plan);
  std::free(workspace);
}

// A struct of zeros is what the comments say: decodes take the decode path.
TEST_F(CApi, ZerosMeanTheDefaults) {
  sextant_plan_options options{};
  options.size = sizeof options;
  for (const char* name : {"ROCM_ATTN", "ROCM_AITER_FA"}) {
    sextant_plan *zeros = nullptr, *none = nullptr, *never = nullptr;
    options.decode_max_query_len = 0;
    ASSERT_EQ(sextant_plan_make(device, name, &spec, &cache, &batch, &options, &zeros), SEXTANT_OK);
    ASSERT_EQ(sextant_plan_make(device, name, &spec, &cache, &batch, nullptr, &none), SEXTANT_OK);
    options.decode_max_query_len = -1;
    ASSERT_EQ(sextant_plan_make(device, name, &spec, &cache, &batch, &options, &never), SEXTANT_OK);
    EXPECT_STREQ(sextant_plan_describe(zeros), sextant_plan_describe(none));
    EXPECT_NE(std::string(sextant_plan_describe(zeros)).find("paged_decode"), std::string::npos);
    EXPECT_EQ(std::string(sextant_plan_describe(never)).find("paged_decode"), std::string::npos);
    for (sextant_plan* plan : {zeros, none, never}) sextant_plan_free(plan);
  }
  cache.block_size = 0;  // 16
  EXPECT_EQ(sextant_plan_make(device, "ROCM_ATTN", &spec, &cache, &batch, nullptr, nullptr), SEXTANT_INVALID_ARGUMENT);
  int64_t elements = 0;
  cache.layout = SEXTANT_NHD;
  ASSERT_EQ(sextant_kv_cache_layout(device, nullptr, &cache, nullptr, &elements, nullptr), SEXTANT_OK);
  EXPECT_EQ(elements, 2 * 16 * 2 * 8);
}

TEST_F(CApi, WindowsToBothSides) {
  sextant_plan* plan = nullptr;
  spec.has_window = 1;
  spec.window_left = 3;
  spec.window_right = 2;
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_STREQ(sextant_last_error(), "spec.window_right is 2; causal allows -1 or 0");
  spec.causal = 0;
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_OK);
  sextant_plan_free(plan);
  spec.has_window = 0;
  spec.sliding_window = 4;
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_STREQ(sextant_last_error(),
               "spec.sliding_window is 4 and causal false; allowed: 0, with window_left and window_right");
}

// int8 with a scale a token and head: five equal keys, so that the output is the mean of the values as stored.
TEST_F(CApi, Int8CacheWithAScaleATokenAndHead) {
  cache.layout = SEXTANT_NHD;
  cache.dtype = SEXTANT_INT8;
  EXPECT_EQ(sextant_kv_cache_layout(device, nullptr, &cache, nullptr, nullptr, nullptr), SEXTANT_INVALID_ARGUMENT);
  cache.scales = SEXTANT_SCALES_TOKEN_HEAD;
  std::vector<int8_t> k_memory(2 * 4 * 16, 0), v_memory(2 * 4 * 16, 127);
  std::vector<float> k_scale(2 * 4 * 2, 1), v_scale(2 * 4 * 2, 2.0F / 127);
  std::vector<float> q(32, 1), k(16, 0), v(16, 12), out(32, NAN);
  sextant_plan* plan = nullptr;
  ASSERT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_OK)
      << sextant_last_error();
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
  run.query_start_loc = query_start_loc;
  run.seq_lens = seq_lens;
  run.block_table = block_table;
  run.block_table_stride = 2;
  run.slot_mapping = slot_mapping;
  run.workspace = workspace;
  run.workspace_bytes = bytes;
  EXPECT_EQ(sextant_plan_run(plan, &run, nullptr), SEXTANT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(sextant_last_error()).find("cache.k_scale is null"), std::string::npos);
  run.cache.k_scale = k_scale.data();
  run.cache.v_scale = v_scale.data();
  EXPECT_EQ(sextant_plan_run(plan, &run, nullptr), SEXTANT_OK) << sextant_last_error();
  for (float x : out) EXPECT_NEAR(x, (4 * 2 + 12) / 5.0F, 1e-4F);
  EXPECT_FLOAT_EQ(v_scale[0], 12.0F / 127);
  sextant_plan_free(plan);
  std::free(workspace);
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

TEST_F(CApi, Logs) {
  std::string lines;
  sextant_set_log([](const char* json, void* user) { *static_cast<std::string*>(user) += json; }, &lines);
  sextant_plan* plan = nullptr;
  EXPECT_EQ(sextant_plan_make(device, "ROCM_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_OK);
  sextant_set_log(nullptr, nullptr);
  sextant_plan_free(plan);
  EXPECT_NE(lines.find(R"("event":"plan","backend":"ROCM_ATTN")"), std::string::npos) << lines;
  const std::string before = lines;
  EXPECT_EQ(sextant_plan_make(device, "ROCM_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_OK);
  sextant_plan_free(plan);
  EXPECT_EQ(lines, before);
}

// A caller that knows nothing of chunks, and one that asks for them.
TEST_F(CApi, Chunks) {
  sextant_plan* plan = nullptr;
  spec.attention_chunk_size = -4;
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_STREQ(sextant_last_error(), "spec.attention_chunk_size is -4; allowed: >= 0 (0 = no chunks)");
  spec.size = offsetof(sextant_attention_spec, attention_chunk_size);
  EXPECT_EQ(sextant_plan_make(device, "TRITON_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_OK)
      << sextant_last_error();
  sextant_plan_free(plan);
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
  block_table[0] = 1;
  batch.max_blocks_per_request = int64_t{1} << 60;
  EXPECT_EQ(sextant_plan_make(device, "ROCM_ATTN", &spec, &cache, &batch, nullptr, &plan), SEXTANT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(sextant_last_error()).find("max_blocks_per_request is 1152921504606846976; allowed: 0..2147"),
            std::string::npos);
  EXPECT_EQ(plan, nullptr);
  const int32_t starts_of_q[] = {0, 1}, key_start_loc[] = {INT32_MAX, INT32_MIN}, before[] = {-1, 4};
  sextant_attention_plan* varlen = nullptr;
  for (const auto* starts : {key_start_loc, before})
    EXPECT_EQ(sextant_varlen_plan_make(device, SEXTANT_PORTABLE, &spec, 1, starts_of_q, starts, 0, &varlen),
              SEXTANT_INVALID_ARGUMENT);
  EXPECT_STREQ(sextant_last_error(), "key_start_loc[0] is -1; allowed: >= 0");
  sextant_device* other = nullptr;
  EXPECT_EQ(sextant_device_open(17, 0, &other), SEXTANT_INVALID_ARGUMENT);
  EXPECT_EQ(sextant_device_open(SEXTANT_HIP, 0, &other), SEXTANT_UNAVAILABLE);
}

}  // namespace
