// What every plan promises when it runs (docs/contract.md), on every device that is there.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "support/allocations.h"
#include "support/cases.h"
#include "support/everywhere.h"
#include "support/paged_run.h"
#include "verify/device_buffer.h"

namespace sextant {
namespace {

using testing::everywhere;
using testing::kBlockSize;
using testing::kColumns;
using testing::kMaxSeqLen;
using testing::kNumBlocks;
using testing::make_step;
using testing::PagedRun;
using testing::Step;
using testing::Where;

AttentionSpec spec_for(const Backend& backend) {
  return backend.info().category == BackendCategory::kMla ? testing::mla_spec(4) : testing::mha_spec(8, 2, 64);
}
Step decodes() { return make_step({{1, 17}, {1, 400}, {1, 1}, {1, 133}, {1, 256}}, 2); }
Step mixed() { return make_step({{1, 40}, {1, 300}, {1, 9}, {30, 250}, {31, 31}}, 3); }

class RunContract : public ::testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (!opened_) GTEST_SKIP() << "not run: " << opened_.status().message();
    device_ = *opened_;
  }
  const Backend& backend() const { return *GetParam().backend; }
  Result<std::shared_ptr<Device>> opened_ = open_device(GetParam().device);
  std::shared_ptr<Device> device_;

  std::unique_ptr<PagedRun> make(const Step& step, const PlanOptions& options = {}, bool host_tables = true) {
    auto run = PagedRun::make(*device_, backend(), spec_for(backend()), step, options, host_tables);
    EXPECT_OK(run);
    return run.is_ok() ? std::move(*run) : nullptr;
  }
};

// Each entry spoils one thing that a run is given.
struct Spoiled {
  const char* what;
  const char* message;
  std::function<void(RunTensors&)> spoil;
  bool on_host = false;  // spoils what an array holds: seen only where the host reads it
};
template <class T>
void put(const T* array, int64_t at, T value) {
  const_cast<T*>(array)[at] = value;
}

template <class T>
void shift(const T*& array) {
  array = reinterpret_cast<const T*>(reinterpret_cast<uintptr_t>(array) + 2);
}

const std::vector<Spoiled>& bad_runs() {
  static const std::vector<Spoiled> kRuns = {
      {"a block id past the cache", "block_table[1][3] is 130; allowed: 0..129 (num_blocks 130)",
       [](RunTensors& t) { put(t.block_table, kColumns + 3, kNumBlocks); }, true},
      {"a negative block id", "block_table[4][0] is -1; allowed: 0..129",
       [](RunTensors& t) { put(t.block_table, 4 * kColumns, -1); }, true},
      {"a slot past the cache", "slot_mapping[2] is 2080; allowed: < 2080",
       [](RunTensors& t) { put(t.slot_mapping, 2, int64_t{kNumBlocks} * kBlockSize); }, true},
      {"a slot twice", "allowed: a slot of its own", [](RunTensors& t) { put(t.slot_mapping, 1, t.slot_mapping[0]); },
       true},
      {"another length", "seq_lens[0] is 41", [](RunTensors& t) { put(t.seq_lens, 0, 41); }, true},
      {"a negative length", "seq_lens[1] is -1; allowed: >= 0", [](RunTensors& t) { put(t.seq_lens, 1, -1); }, true},
      {"other queries", "seq_lens[0] is 40 with 2 query tokens; allowed: 40 with 1, as planned",
       [](RunTensors& t) { put(t.query_start_loc, 1, 2); }, true},
      {"no query_start_loc", "query_start_loc is null", [](RunTensors& t) { t.query_start_loc = nullptr; }},
      {"no seq_lens", "seq_lens is null", [](RunTensors& t) { t.seq_lens = nullptr; }},
      {"no block_table", "block_table is null", [](RunTensors& t) { t.block_table = nullptr; }},
      {"a narrow block_table", "block_table_stride is 2; allowed: >= 26",
       [](RunTensors& t) { t.block_table_stride = 2; }},
      {"no cache", "cache.k is null", [](RunTensors& t) { t.cache.k = nullptr; }},
      {"another cache", "cache is", [](RunTensors& t) { t.cache.spec.block_size = 32; }},
      {"few scales", "cache.num_scales is 7", [](RunTensors& t) { t.cache.num_scales = 7; }},
      {"no q", "q is absent", [](RunTensors& t) { t.q = {}; }},
      {"q of another type", "q has dtype fp16; allowed: bf16", [](RunTensors& t) { t.q.dtype = DType::kF16; }},
      {"short q", "allowed: at least 64 rows", [](RunTensors& t) { t.q.shape[0] = 63; }},
      {"strided q", "q has last stride 2; allowed: 1", [](RunTensors& t) { t.q.stride[2] = 2; }},
      {"odd q", "allowed: a multiple of 2 bytes", [](RunTensors& t) { t.q.data = t.q.as<char>() + 1; }},
      {"no out", "out is absent", [](RunTensors& t) { t.out = {}; }},
      {"no lse", "lse is absent", [](RunTensors& t) { t.lse = {}; }},
      {"slots without keys", "is absent; allowed: a tensor", [](RunTensors& t) { t.k = t.kv_c = {}; }},
      {"a small workspace", "workspace_bytes is 0; allowed: >=", [](RunTensors& t) { t.workspace_bytes = 0; }},
      {"an unaligned workspace", "allowed: a multiple of 256 bytes",
       [](RunTensors& t) { t.workspace = static_cast<char*>(t.workspace) + 16; }},
      {"q of no rank", "q has rank 9; allowed: 3", [](RunTensors& t) { t.q.rank = 9; }},
      {"odd lse", "lse is at", [](RunTensors& t) { t.lse.data = t.lse.as<char>() + 2; }},
      {"odd query_start_loc", "query_start_loc is at", [](RunTensors& t) { shift(t.query_start_loc); }},
      {"odd seq_lens", "seq_lens is at", [](RunTensors& t) { shift(t.seq_lens); }},
      {"odd block_table", "block_table is at", [](RunTensors& t) { shift(t.block_table); }},
      {"odd slots", "slot_mapping is at", [](RunTensors& t) { shift(t.slot_mapping); }},
      {"an odd cache", "cache.k is at", [](RunTensors& t) { t.cache.k = static_cast<char*>(t.cache.k) + 1; }},
      {"rows of out at one place", "out is bf16[64", [](RunTensors& t) { t.out.stride[0] = 0; }},
      {"heads of out over one another", "give every element a place", [](RunTensors& t) { t.out.stride[1] = 8; }},
      {"heads of lse at one place", "lse is fp32[", [](RunTensors& t) { t.lse.stride[0] = 1; }},
      {"tiles of no token", "cache.k_addr has token_tile 0", [](RunTensors& t) { t.cache.k_addr.token_tile = 0; }},
      {"tokens at one place", "cache.k_addr puts two elements at one place",
       [](RunTensors& t) { t.cache.k_addr.token_outer_stride = t.cache.k_addr.token_inner_stride = 0; }},
      {"more blocks than can be counted", "cache.num_blocks is 2305843009213693952",
       [](RunTensors& t) { t.cache.spec.num_blocks = int64_t{1} << 61; }},
      {"out in the cache", "out overlaps cache.k", [](RunTensors& t) { t.out.data = t.cache.k; }},
      {"lse in out", "out overlaps lse", [](RunTensors& t) { t.lse.data = t.out.data; }},
  };
  return kRuns;
}

// 1. Refused means that nothing was written, whatever the reason.
TEST_P(RunContract, RefusedMeansNothingWritten) {
  PlanOptions options;
  options.lse_out = true;
  const auto run = make(mixed(), options);
  ASSERT_NE(run, nullptr);
  std::vector<float> lse(4 * 64 * 8, -7);
  auto lse_memory = DeviceBuffer::make(*device_, lse.data(), lse.size() * sizeof(float));
  ASSERT_OK(lse_memory);
  for (const Spoiled& bad : bad_runs()) {
    SCOPED_TRACE(bad.what);
    if (bad.on_host && !device_->info().host_readable()) continue;
    ASSERT_OK(run->load(mixed()));
    const RunTensors good = run->tensors();
    RunTensors& t = run->tensors();
    t.lse = make_view(lse_memory->data(), DType::kF32, {t.q.shape[1], t.q.shape[0]});
    if (run->plan().workspace_bytes() == 0 && std::strstr(bad.what, "workspace") != nullptr) continue;
    ASSERT_OK(device_->fill(good.workspace, 0x5a, good.workspace_bytes, {}));
    const std::vector<uint8_t> cache = run->cache_bytes().value();
    bad.spoil(t);
    const Status status = run->launch({});
    t = good;
    EXPECT_ERROR(status, status.code(), bad.message);
    EXPECT_TRUE(run->cache_bytes().value() == cache);
    EXPECT_TRUE(run->out_untouched().value());
    std::vector<uint8_t> workspace(good.workspace_bytes);
    ASSERT_OK(device_->copy_to_host(workspace.data(), good.workspace, workspace.size(), {}));
    for (uint8_t x : workspace) ASSERT_EQ(x, 0x5a);
    ASSERT_OK(lse_memory->read(lse.data(), lse.size() * sizeof(float)));
    for (float x : lse) ASSERT_EQ(x, -7);
  }
  ASSERT_OK(run->load(mixed()));
  run->tensors().lse = make_view(lse_memory->data(), DType::kF32, {run->tensors().q.shape[1], 64});
  EXPECT_OK(run->launch({}));
}

// What the spec asks for is there.
TEST_P(RunContract, FeaturesWantTheirTensors) {
  struct Feature {
    const char* message;
    std::function<void(AttentionSpec&)> ask;
  };
  const std::vector<Feature> features = {
      {"sinks is null", [](AttentionSpec& s) { s.has_sinks = true; }},
      {"alibi_slopes is null", [](AttentionSpec& s) { s.has_alibi = true; }},
      {"token_spans is null", [](AttentionSpec& s) { s.max_span_len = 8; }},
  };
  int asked = 0;
  for (const Feature& feature : features) {
    SCOPED_TRACE(feature.message);
    AttentionSpec spec = spec_for(backend());
    feature.ask(spec);
    auto run = PagedRun::make(*device_, backend(), spec, mixed(), {}, true);
    if (!run) continue;  // a backend without it
    ++asked;
    ASSERT_OK((*run)->load(mixed()));
    const std::vector<uint8_t> cache = (*run)->cache_bytes().value();
    EXPECT_ERROR((*run)->launch({}), StatusCode::kInvalidArgument, feature.message);
    EXPECT_TRUE((*run)->cache_bytes().value() == cache);
    EXPECT_TRUE((*run)->out_untouched().value());
  }
  EXPECT_GE(asked, 1);
}

// 2. Lengths are those of the run, within the plan's bounds; in deterministic mode the bits are a fresh plan's.
TEST_P(RunContract, LengthsAreThoseOfTheRun) {
  for (bool deterministic : {false, true}) {
    PlanOptions options;
    options.deterministic = deterministic;
    PlanOptions bounded = options;
    bounded.bounds = {.max_query_len = 40, .max_seq_len = kMaxSeqLen};
    const std::vector<std::vector<Step>> replays = {
        {make_step({{1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}, 1), decodes()},
        {make_step({{1, 3}, {1, 4}, {1, 2}, {30, 30}, {31, 31}}, 1), mixed(),
         make_step({{1, 16}, {1, 1}, {1, 20}, {21, 300}, {40, 416}}, 4)},
        {make_step({{1, 3}, {1, 4}, {0, 0}, {30, 30}, {32, 32}}, 1),
         make_step({{1, 40}, {1, 300}, {22, 22}, {0, 5}, {40, 41}}, 5)},
    };
    for (const std::vector<Step>& steps : replays) {
      const auto run = make(steps.front(), bounded);
      ASSERT_NE(run, nullptr);
      for (const Step& step : steps) {
        ASSERT_OK(run->load(step));
        ASSERT_OK(run->launch({}));
        const auto fresh = make(step, options);
        ASSERT_NE(fresh, nullptr);
        ASSERT_OK(fresh->launch({}));
        const std::vector<float> got = run->out().value(), expected = fresh->out().value();
        const bool same_bits = deterministic && GetParam().device == DeviceKind::kCpu &&
                               backend().info().category == BackendCategory::kMha &&
                               backend().info().name != "ROCM_AITER_FA";  // whose chunks follow the bounds
        for (size_t i = 0; i < expected.size(); ++i)
          ASSERT_NEAR(got[i], expected[i], same_bits ? 0 : 1e-2 + 1e-2 * std::fabs(expected[i]))
              << "row " << i / static_cast<size_t>(run->row_elements());
        EXPECT_TRUE(run->guards_intact().value());
      }
    }
  }
}

// One bound makes lengths of both kinds free: those of the other stay below the longest planned. Long queries' rows may
// be divided among more requests than planned, whose contexts are longer then.
TEST_P(RunContract, OneBoundFreesBothLengths) {
  struct Replay {
    PlanBounds bounds;
    Step planned, run;
  };
  const Replay replays[] = {
      {{.max_query_len = 40},
       make_step({{1, 3}, {1, 4}, {1, 2}, {30, 30}, {31, 31}}, 1),
       make_step({{1, 16}, {1, 1}, {1, 20}, {21, 25}, {40, 31}}, 4)},
      {{.max_query_len = 40},
       make_step({{0, 0}, {1, 4}, {0, 0}, {30, 330}, {31, 331}}, 1),
       make_step({{0, 0}, {1, 1}, {20, 200}, {20, 290}, {21, 331}}, 4)},
      {{.max_seq_len = 300},
       make_step({{0, 0}, {1, 4}, {0, 0}, {31, 31}, {40, 40}}, 1),
       make_step({{0, 0}, {1, 1}, {31, 300}, {2, 290}, {38, 300}}, 4)},
  };
  for (int window : {0, 33})
    for (const Replay& replay : replays) {
      AttentionSpec spec = spec_for(backend());
      spec.sliding_window = window;
      const auto run = PagedRun::make(*device_, backend(), spec, replay.planned, {.bounds = replay.bounds});
      const auto fresh = PagedRun::make(*device_, backend(), spec, replay.run, {});
      ASSERT_OK(run);
      ASSERT_OK(fresh);
      ASSERT_OK((*run)->load(replay.run));
      ASSERT_OK((*run)->launch({}));
      ASSERT_OK((*fresh)->launch({}));
      const std::vector<float> got = (*run)->out().value(), expected = (*fresh)->out().value();
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(got[i], expected[i], 1e-2 + 1e-2 * std::fabs(expected[i]))
            << "window " << window << ", row " << i / static_cast<size_t>((*run)->row_elements());
      EXPECT_TRUE((*run)->guards_intact().value());
    }
}

TEST_P(RunContract, LengthsOutsideTheBoundsAreRefused) {
  if (!device_->info().host_readable()) GTEST_SKIP() << "a GPU's lengths are the caller's (docs/contract.md)";
  PlanOptions options;
  options.bounds = {.max_query_len = 40, .max_seq_len = 300};
  const auto run = make(mixed(), options);
  ASSERT_NE(run, nullptr);
  const auto expect = [&](const std::vector<testing::StepRequest>& requests, const char* message) {
    ASSERT_OK(run->load(make_step(requests, 3)));
    EXPECT_ERROR(run->launch({}), StatusCode::kInvalidArgument, message);
    EXPECT_TRUE(run->out_untouched().value());
  };
  expect({{1, 40}, {1, 301}, {1, 9}, {30, 250}, {31, 31}}, "seq_lens[1] is 301; allowed: <= 300");
  expect({{1, 40}, {1, 300}, {1, 9}, {2, 2}, {59, 59}}, "makes a query of 59 tokens; allowed: <= 40");
  expect({{1, 40}, {1, 300}, {2, 9}, {29, 250}, {31, 31}}, "takes another path");
}

// 3. A layer that writes nothing reads every key from the cache, k and v or not.
TEST_P(RunContract, WithoutSlotsKeysComeFromTheCache) {
  const auto run = make(mixed());
  ASSERT_NE(run, nullptr);
  ASSERT_OK(run->launch({}));  // writes the new tokens
  const std::vector<float> expected = run->out().value();
  RunTensors& t = run->tensors();
  t.slot_mapping = nullptr;
  const auto check = [&](const char* how) {
    ASSERT_OK(run->launch({}));
    const std::vector<float> got = run->out().value();
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(got[i], expected[i], 1e-2 + 1e-2 * std::fabs(expected[i])) << how;
  };
  for (TensorView* view : {&t.k, &t.v, &t.kv_c, &t.k_pe})
    if (view->present()) ASSERT_OK(device_->fill(view->data, 0xff, static_cast<size_t>(view->num_elements()) * 2, {}));
  check("NaN in the new keys");
  t.k = t.v = t.kv_c = t.k_pe = {};
  check("no new keys");
}

// A negative slot: nothing is written. Decodes read the key from the cache, longer requests want slots for their keys.
TEST_P(RunContract, NegativeSlots) {
  const bool latent = backend().info().category == BackendCategory::kMla;
  const Step step = mixed();
  const auto run = make(step);
  ASSERT_NE(run, nullptr);
  ASSERT_OK(run->launch({}));  // the cache holds every key now
  const std::vector<float> expected = run->out().value();
  const std::vector<uint8_t> cache = run->cache_bytes().value();
  RunTensors& t = run->tensors();
  std::vector<int64_t> slots = step.slot_mapping;
  slots[0] = slots[1] = -1;
  auto memory = DeviceBuffer::make(*device_, slots.data(), slots.size() * sizeof(int64_t));
  ASSERT_OK(memory);
  t.slot_mapping = static_cast<const int64_t*>(memory->data());
  for (TensorView* view : {&t.k, &t.v, &t.kv_c, &t.k_pe})  // of the first two tokens, the decodes
    if (view->present()) ASSERT_OK(device_->fill(view->data, 0xff, static_cast<size_t>(2 * view->stride[0]) * 2, {}));
  ASSERT_OK(run->launch({}));
  EXPECT_TRUE(run->cache_bytes().value() == cache);
  const std::vector<float> got = run->out().value();
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 1e-2 + 1e-2 * std::fabs(expected[i])) << i;
  Step without = step;
  without.slot_mapping[40] = -7;
  const char* message = "slot_mapping[40] is -7; allowed: a slot, as request 4 has 31 query tokens";
  const auto planned = PagedRun::make(*device_, backend(), spec_for(backend()), without, {}, true);
  if (latent) {
    EXPECT_OK(planned);
  } else {
    EXPECT_ERROR(planned, StatusCode::kInvalidArgument, message);
  }
  if (latent || !device_->info().host_readable()) return;
  ASSERT_OK(run->load(without));
  t.slot_mapping = without.slot_mapping.data();
  EXPECT_ERROR(run->launch({}), StatusCode::kInvalidArgument, message);
  EXPECT_TRUE(run->out_untouched().value());
}

// 4. A plan knows its backend; a wrong pairing is an error.
TEST_P(RunContract, ForeignPlansAreRefused) {
  const auto run = make(mixed());
  ASSERT_NE(run, nullptr);
  EXPECT_EQ(&run->plan().backend(), &backend());
  for (const Backend* other : all_backends()) {
    if (other == &backend()) continue;
    EXPECT_ERROR(other->run(run->plan(), run->tensors(), {}), StatusCode::kInvalidArgument,
                 "plan is of " + backend().info().name);
  }
  EXPECT_TRUE(run->out_untouched().value());
  EXPECT_OK(backend().run(run->plan(), run->tensors(), {}));
}

// 5. A plan keeps its device: it runs when nobody else has it any more.
TEST_P(RunContract, PlansKeepTheirDevice) {
  const auto run = make(mixed());
  ASSERT_NE(run, nullptr);
  const std::weak_ptr<Device> device = device_;
  if (GetParam().device != DeviceKind::kCpu) {  // that one is the tests' own for good
    opened_ = Status();
    device_.reset();
    EXPECT_FALSE(device.expired());
  }
  EXPECT_OK(run->launch({}));
}

// 6. Ids that no query can see may be anything: blocks before the window, after the end, of requests without queries.
TEST_P(RunContract, OnlyIdsThatAreReadAreChecked) {
  const Step step = make_step({{1, 40}, {1, 300}, {0, 90}, {30, 250}, {31, 31}}, 3);
  AttentionSpec spec = spec_for(backend());
  spec.sliding_window = 50;
  auto made = PagedRun::make(*device_, backend(), spec, step, {}, false);
  ASSERT_OK(made);
  PagedRun& run = **made;
  ASSERT_OK(run.launch({}));
  const std::vector<float> expected = run.out().value();
  Step freed = step;
  const auto free_blocks = [&](int64_t b, int64_t first, int64_t last, int32_t id) {
    for (int64_t i = first; i < last; ++i) freed.block_table[static_cast<size_t>(b * kColumns + i)] = id;
  };
  free_blocks(0, 3, kColumns, -1);
  free_blocks(1, 0, 250 / kBlockSize, -1);   // the query at 299 sees 250..299
  free_blocks(2, 0, kColumns, 1 << 30);      // no query
  free_blocks(3, 0, 171 / kBlockSize, -77);  // the first query at 220 sees 171..220
  ASSERT_OK(run.load(freed));
  EXPECT_OK(run.launch({}));
  EXPECT_EQ(run.out().value(), expected);
  if (!device_->info().host_readable()) return;
  free_blocks(1, 250 / kBlockSize, 250 / kBlockSize + 1, -1);
  ASSERT_OK(run.load(freed));
  EXPECT_ERROR(run.launch({}), StatusCode::kInvalidArgument, "block_table[1][15] is -1");
}

// 7. Running allocates nothing, whatever the path.
TEST_P(RunContract, RunsAllocateNothing) {
  if (GetParam().device == DeviceKind::kHipEmulated) GTEST_SKIP() << "an emulator's own memory is not the point";
  PlanOptions bounded;
  bounded.bounds = {.max_query_len = 40, .max_seq_len = kMaxSeqLen};
  bounded.chunk_workspace_rows = 64;
  for (const Step& planned : {mixed(), make_step({{1, 3}, {1, 4}, {1, 2}, {30, 30}, {31, 31}}, 1)}) {
    const auto run = make(planned, bounded);
    ASSERT_NE(run, nullptr);
    ASSERT_OK(run->launch({}));
    ASSERT_OK(run->load(mixed()));
    testing::CountAllocations allocations;
    const Status status = run->launch({});
    const int64_t count = allocations.count();
    EXPECT_OK(status);
    EXPECT_EQ(count, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Everywhere, RunContract, ::testing::ValuesIn(everywhere()), testing::name_of);

}  // namespace
}  // namespace sextant
