// Kernels that must end however late one of their warps is: what hangs once in ten thousand launches hangs here. (The
// forward kernel did: docs/dev/gpu-log.md, run 25.)
#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/gpu.h"
#include "reference/numbers.h"
#include "support/cases.h"
#include "support/matchers.h"
#include "verify/device_buffer.h"

namespace sextant {
namespace {

using testing::gpu;
using testing::mha_spec;

struct Batch {
  int32_t requests, query_len, heads, kv_heads, dim, block_size;
  SplitPolicy split = {};
  DType cache = DType::kBF16;
};

// All values are zero: the answer too, whatever was launched before.
void launch_often(const Batch& b, int launches) {
  Device& device = **gpu();
  const Ops& ops = device.ops(KernelFamily::kTuned);
  std::vector<int32_t> starts = {0}, lens(static_cast<size_t>(b.requests), b.query_len);
  for (int32_t i = 0; i < b.requests; ++i) starts.push_back(starts.back() + b.query_len);
  const int32_t blocks_each = (b.query_len + b.block_size - 1) / b.block_size;
  std::vector<int32_t> table(static_cast<size_t>(b.requests * blocks_each));
  std::iota(table.begin(), table.end(), 0);

  AttentionPlanArgs plan_args;
  plan_args.op = AttentionOp::kUnified;
  plan_args.spec = mha_spec(b.heads, b.kv_heads, b.dim);
  plan_args.split = b.split;
  plan_args.cache = {KvLayout::kNHD, b.cache, static_cast<int64_t>(table.size()), b.block_size, b.kv_heads,
                     b.dim,          b.dim};
  plan_args.query_start_loc = starts;
  plan_args.seq_lens = lens;
  const auto plan = ops.plan_attention(plan_args);
  ASSERT_OK(plan);
  EXPECT_NE((*plan)->describe().find("forward"), std::string::npos) << (*plan)->describe();

  const auto zeros = [&device](int64_t elements, DType dtype) {
    const std::vector<uint8_t> bytes(static_cast<size_t>(elements) * size_of(dtype), 0);
    return DeviceBuffer::make(device, bytes.data(), bytes.size()).value();
  };
  const auto upload = [&device](const std::vector<int32_t>& values) {
    return DeviceBuffer::make(device, values.data(), values.size() * sizeof(int32_t)).value();
  };
  const int64_t tokens = starts.back(), row = int64_t{b.heads} * b.dim,
                cached = static_cast<int64_t>(table.size()) * b.block_size * b.kv_heads * b.dim;
  const DeviceBuffer q = zeros(tokens * row, DType::kBF16), k = zeros(cached, b.cache), v = zeros(cached, b.cache),
                     query_start_loc = upload(starts), seq_lens = upload(lens), block_table = upload(table);
  const DeviceBuffer out = DeviceBuffer::make(device, static_cast<size_t>(tokens * row) * 2).value();
  const DeviceBuffer workspace = DeviceBuffer::make(device, (*plan)->workspace_bytes()).value();
  AttentionArgs args;
  args.q = make_view(q.data(), DType::kBF16, {tokens, b.heads, b.dim});
  args.out = make_view(out.data(), DType::kBF16, {tokens, b.heads, b.dim});
  args.query_start_loc = query_start_loc.as<int32_t>();
  args.seq_lens = seq_lens.as<int32_t>();
  args.cache = make_kv_cache_view(plan_args.cache, k.data(), v.data());
  args.block_table = block_table.as<int32_t>();
  args.block_table_stride = blocks_each;
  args.workspace = workspace.data();
  for (int i = 0; i < launches; ++i) ASSERT_OK(ops.run_attention(**plan, args, {}));
  ASSERT_OK(device.synchronize({}));
  std::vector<uint8_t> bytes(out.bytes());
  ASSERT_OK(out.read(bytes.data(), bytes.size()));
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](uint8_t x) { return (x & 0x7f) == 0; }));
}

// Row tiles at the beginning see no key of the later segments: their queries come and go while nothing else is to do.
TEST(CudaManyLaunches, RowTilesWithoutKeys) {
  SKIP_WITHOUT_GPU();
  for (int32_t dim : {64, 96, 128, 256})
    launch_often({1, 2048, 8, 1, dim, 256, {SplitPolicy::Kind::kSegments, 4}}, 4000);
}

// Every work item is one key tile.
TEST(CudaManyLaunches, PromptsOfOneTile) {
  SKIP_WITHOUT_GPU();
  for (int32_t dim : {64, 96, 128}) launch_often({300, 47, 64, 8, dim, 16}, 4000);
  launch_often({128, 40, 32, 8, 128, 16, {}, DType::kF8E4M3FN}, 4000);
}

}  // namespace
}  // namespace sextant
