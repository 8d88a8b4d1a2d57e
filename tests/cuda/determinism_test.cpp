// The same bits again on the GPU: two runs, and in deterministic mode other block sizes and another company.
#include "cuda/gpu.h"
#include "support/cases.h"

namespace sextant {
namespace {

using testing::gpu;
using testing::make_case;
using testing::mha_spec;
using testing::mla_spec;
using verify::Case;

const std::vector<verify::RequestShape> kBatch = {{1, 9500}, {6, 90}, {1, 33}, {40, 300}, {17, 17}, {1, 3000}};

class CudaDeterminism : public ::testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override { SKIP_WITHOUT_GPU(); }
  Case batch_case(bool deterministic) const {
    const bool mla = GetParam()->info().category == BackendCategory::kMla;
    Case c = make_case(mla ? mla_spec(4) : mha_spec(8, 2, 64), kBatch);
    c.options.deterministic = deterministic;
    return c;
  }
  static std::vector<uint8_t> bytes_of(const verify::CaseData& data) {
    auto bytes = verify::run_for_bytes(**gpu(), *GetParam(), data, 5);
    EXPECT_OK(bytes);
    return bytes.is_ok() ? *bytes : std::vector<uint8_t>{};
  }
};

TEST_P(CudaDeterminism, RunningTwiceGivesTheSameBits) {
  for (bool deterministic : {false, true}) {
    const verify::CaseData data = verify::prepare(batch_case(deterministic), 5, 0);
    const std::vector<uint8_t> first = bytes_of(data);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(bytes_of(data), first) << "deterministic " << deterministic;
  }
}

TEST_P(CudaDeterminism, BlockSizeNeverChangesABit) {
  Case c = batch_case(true);
  const std::vector<uint8_t> expected = bytes_of(verify::prepare(c, 5, 0));
  for (int32_t block_size : {1, 3, 64, 544}) {
    c.block_size = block_size;
    EXPECT_EQ(bytes_of(verify::prepare(c, 5, 0)), expected) << "block_size " << block_size;
  }
}

// The first request alone gives the bits that it has inside the batch.
TEST_P(CudaDeterminism, CompanyNeverChangesABit) {
  verify::CaseData data = verify::prepare(batch_case(true), 5, 0);
  const std::vector<uint8_t> together = bytes_of(data);
  const int64_t row = data.q.elements() / data.q.shape[0] * static_cast<int64_t>(size_of(data.test.spec.dtype));
  data.test.requests = {kBatch[0]};
  data.query_start_loc = {0, kBatch[0].query_len};
  data.seq_lens = {kBatch[0].seq_len};
  data.keys.resize(1);
  data.values.resize(1);
  data.q.shape[0] = kBatch[0].query_len;
  data.q.bytes.resize(static_cast<size_t>(row * kBatch[0].query_len));
  const std::vector<uint8_t> alone = bytes_of(data);
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin()));
}

INSTANTIATE_TEST_SUITE_P(Backends, CudaDeterminism, ::testing::ValuesIn(all_backends().begin(), all_backends().end()),
                         [](const auto& backend) { return backend.param->info().name; });

}  // namespace
}  // namespace sextant
