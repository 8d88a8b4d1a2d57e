// TRITON_ATTN: unified attention from portable kernels.
//
//   k, v --> reshape_and_cache --> paged cache --> unified_attention ----------------------> out     ("2D")
//                                                  | few programs: segments of each sequence |
//                                                  +--> partial states --> reduce ----------> out     ("3D")
//
// A program is one tile of queries of one KV head. When they are too few to fill the device, every sequence is cut into
// equal segments. vLLM switches from 16 segments to none at one threshold, which users see as a cliff in decode speed;
// here the number of segments falls steadily as the number of programs grows.
#include <algorithm>

#include "backends/registry.h"
#include "backends/unified_path.h"
#include "types/ceil_div.h"

namespace sextant {
namespace {

// Programs a compute unit that hide latency and even out the tail.
constexpr int64_t kProgramsPerUnit = 4;
constexpr int64_t kMaxSegments = 128;
// A shorter segment costs more in the reduce than it gains.
constexpr int64_t kMinSegmentKeys = 256;
constexpr int64_t kTileRows = 16;

SplitPolicy choose_split(const Device& device, const PlanRequest& request) {
  const AttentionSpec& s = request.spec;
  const BatchMetadata& batch = request.batch;
  const int64_t tokens_per_tile = std::max<int64_t>(1, kTileRows / s.group_size());
  const int64_t tiles = batch.num_tokens() / tokens_per_tile + batch.num_requests();
  const int64_t programs = std::max<int64_t>(1, tiles * s.num_kv_heads);
  const int64_t wanted = kProgramsPerUnit * std::max(1, device.info().compute_units);
  int64_t longest = request.options.bounds.max_seq_len;
  for (int32_t seq_len : batch.seq_lens) longest = std::max<int64_t>(longest, seq_len);
  const int64_t segments = std::min({ceil_div(wanted, programs), longest / kMinSegmentKeys, kMaxSegments});
  if (segments <= 1) return {.kind = SplitPolicy::Kind::kNone};
  return {.kind = SplitPolicy::Kind::kSegments, .value = static_cast<int32_t>(segments)};
}

class TritonAttn final : public MhaBackend {
 public:
  const BackendInfo& info() const override {
    static const BackendInfo kInfo = {
        "TRITON_ATTN", BackendCategory::kMha, KernelFamily::kPortable,
        "Unified: cache write, then one attention call over the paged cache; long sequences in "
        "segments when the batch is small. Portable kernels."};
    return kInfo;
  }
  KvLayout preferred_layout(const DeviceInfo&, DType) const override { return KvLayout::kNHD; }

 protected:
  std::vector<AttentionOp> ops_used() const override { return {AttentionOp::kUnified}; }
  Result<std::unique_ptr<MainPath>> make_main_path(const Ops& ops, const Device& device, const PlanRequest& request,
                                                   const MainPathRequest& main,
                                                   WorkspaceLayout& layout) const override {
    const SplitPolicy split = request.options.deterministic ? SplitPolicy{} : choose_split(device, request);
    return UnifiedPath::make(ops, request, main, split, layout);
  }
};

}  // namespace

const Backend* triton_attn() {
  static const TritonAttn kBackend;
  return &kBackend;
}

}  // namespace sextant
