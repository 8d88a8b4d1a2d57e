// Runs that must be refused, through the C structs: the message names the field, and nothing has been written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "c_api/c_api_fixture.h"

namespace {

// What a run of the fixture's step is given, to be spoilt.
struct Step {
  int32_t query_start_loc[2] = {0, 1}, seq_lens[1] = {5}, block_table[2] = {1, 0};
  int64_t slot_mapping[1] = {0};
  std::vector<float> q = std::vector<float>(4 * 8, 1), k = std::vector<float>(2 * 8, 2), v = k, out, lse, k_cache,
                     v_cache;
  sextant_run_tensors run{};
};

sextant_tensor tensor(std::vector<float>& data, std::initializer_list<int64_t> shape) {
  sextant_tensor t{};
  t.data = data.data();
  t.dtype = SEXTANT_FP32;
  t.rank = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape);
  t.stride[t.rank - 1] = 1;
  for (int i = t.rank - 1; i-- > 0;) t.stride[i] = t.stride[i + 1] * t.shape[i + 1];
  return t;
}

struct Spoiled {
  const char* what;
  const char* message;
  std::function<void(Step&)> spoil;
};

const std::vector<Spoiled>& bad_runs() {
  static const std::vector<Spoiled> kRuns = {
      {"a block id past the cache", "block_table[0][1] is 2; allowed: 0..1", [](Step& s) { s.block_table[1] = 2; }},
      {"a negative block id", "block_table[0][0] is -1; allowed: 0..1", [](Step& s) { s.block_table[0] = -1; }},
      {"a slot past the cache", "slot_mapping[0] is 8; allowed: < 8", [](Step& s) { s.slot_mapping[0] = 8; }},
      {"another length", "seq_lens[0] is 4", [](Step& s) { s.seq_lens[0] = 4; }},
      {"a negative length", "seq_lens[0] is -1; allowed: >= 0", [](Step& s) { s.seq_lens[0] = -1; }},
      {"other queries", "query_start_loc ends with 2; allowed: 1", [](Step& s) { s.query_start_loc[1] = 2; }},
      {"no query_start_loc", "query_start_loc is null", [](Step& s) { s.run.query_start_loc = nullptr; }},
      {"no seq_lens", "seq_lens is null", [](Step& s) { s.run.seq_lens = nullptr; }},
      {"no block_table", "block_table is null", [](Step& s) { s.run.block_table = nullptr; }},
      {"a narrow block_table", "block_table_stride is 1; allowed: >= 2", [](Step& s) { s.run.block_table_stride = 1; }},
      {"no cache", "cache.k is null", [](Step& s) { s.run.cache.k = nullptr; }},
      {"another cache", "cache is", [](Step& s) { s.run.cache.spec.block_size = 2; }},
      {"a layout that is none", "cache.layout is 9; allowed: -1..5", [](Step& s) { s.run.cache.spec.layout = 9; }},
      {"few scales", "cache.num_scales is 7", [](Step& s) { s.run.cache.num_scales = 7; }},
      {"fewer scales than none", "cache.num_scales is -1", [](Step& s) { s.run.cache.num_scales = -1; }},
      {"fewer scales of q", "num_q_scales is -1; allowed: >= 0", [](Step& s) { s.run.num_q_scales = -1; }},
      {"rows of out at one place", "give every element a place", [](Step& s) { s.run.out.stride[1] = 0; }},
      {"out in the cache", "out overlaps cache.k", [](Step& s) { s.run.cache.k = s.run.out.data; }},
      {"no q", "q is absent", [](Step& s) { s.run.q = {}; }},
      {"q of another type", "q has dtype fp16; allowed: fp32", [](Step& s) { s.run.q.dtype = SEXTANT_FP16; }},
      {"q of no type", "q.dtype is 77; allowed: 0..", [](Step& s) { s.run.q.dtype = 77; }},
      {"q of no rank", "q.rank is 7; allowed: 0..6", [](Step& s) { s.run.q.rank = 7; }},
      {"q of a negative extent", "q.shape[0] is -1; allowed: >= 0", [](Step& s) { s.run.q.shape[0] = -1; }},
      {"short q", "allowed: at least 1 rows", [](Step& s) { s.run.q.shape[0] = 0; }},
      {"strided q", "q has last stride 2; allowed: 1", [](Step& s) { s.run.q.stride[2] = 2; }},
      {"no out", "out is absent", [](Step& s) { s.run.out = {}; }},
      {"no lse", "lse is absent", [](Step& s) { s.run.lse = {}; }},
      {"slots without keys", "k is absent; allowed: a tensor", [](Step& s) { s.run.k = {}; }},
      {"an unaligned workspace", "allowed: a multiple of 256 bytes",
       [](Step& s) { s.run.workspace = static_cast<char*>(s.run.workspace) + 16; }},
      {"structs of no size", "tensors.size is 8; allowed: >=", [](Step& s) { s.run.size = 8; }},
      {"a cache spec of no size", "tensors.cache.spec.size is 3; allowed", [](Step& s) { s.run.cache.spec.size = 3; }},
  };
  return kRuns;
}

struct CApiBadRuns : sextant::testing::CApi {};

TEST_F(CApiBadRuns, RefusedMeansNothingWritten) {
  cache.layout = SEXTANT_NHD;
  for (const char* backend : {"TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"})
    for (const Spoiled& bad : bad_runs()) {
      SCOPED_TRACE(std::string(backend) + ": " + bad.what);
      Step step;
      step.out.assign(4 * 8, -7);
      step.lse.assign(4, -7);
      step.k_cache.assign(2 * 4 * 2 * 8, -7);
      step.v_cache = step.k_cache;
      sextant_plan_options options{};
      options.size = sizeof options;
      options.lse_out = 1;
      sextant_plan* plan = nullptr;
      ASSERT_EQ(sextant_plan_make(device, backend, &spec, &cache, &batch, &options, &plan), SEXTANT_OK)
          << sextant_last_error();
      sextant_run_tensors& run = step.run;
      run.size = sizeof run;
      run.q = tensor(step.q, {1, 4, 8});
      run.k = tensor(step.k, {1, 2, 8});
      run.v = tensor(step.v, {1, 2, 8});
      run.out = tensor(step.out, {1, 4, 8});
      run.lse = tensor(step.lse, {4, 1});
      run.cache.spec = cache;
      run.cache.k = step.k_cache.data();
      run.cache.v = step.v_cache.data();
      run.query_start_loc = step.query_start_loc;
      run.seq_lens = step.seq_lens;
      run.block_table = step.block_table;
      run.block_table_stride = 2;
      run.slot_mapping = step.slot_mapping;
      run.workspace_bytes = (sextant_plan_workspace_bytes(plan) + 511) / 256 * 256;
      void* workspace = std::aligned_alloc(256, run.workspace_bytes);
      run.workspace = workspace;
      bad.spoil(step);
      EXPECT_NE(sextant_plan_run(plan, &run, nullptr), SEXTANT_OK);
      EXPECT_NE(std::string(sextant_last_error()).find(bad.message), std::string::npos) << sextant_last_error();
      for (const std::vector<float>* written : {&step.out, &step.lse, &step.k_cache, &step.v_cache})
        EXPECT_TRUE(std::all_of(written->begin(), written->end(), [](float x) { return x == -7; }));
      std::free(workspace);
      sextant_plan_free(plan);
    }
}

}  // namespace
