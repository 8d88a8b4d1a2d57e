// TRITON_MLA: chunked-context prefill with V zero-padded to the key size; split-KV decode. Portable kernels.
//
//   prefill: v [rows, N, 128] --zeros--> [rows, N, 192] --> varlen_attention(192 / 192) --> out[..., :128]
//   decode:  every sequence in the same number of splits --> partial states with fp32 LSE --> reduce
#include <algorithm>
#include <bit>

#include "backends/mla_backend.h"
#include "backends/registry.h"

namespace sextant {
namespace {

constexpr int64_t kKeysPerSplit = 512;

class TritonMla final : public MlaBackend {
 public:
  const BackendInfo& info() const override {
    static const BackendInfo kInfo = {
        "TRITON_MLA", BackendCategory::kMla, KernelFamily::kPortable,
        "MLA: chunked-context prefill with V padded to the key size; decode by weight absorption, every "
        "sequence in equal splits. Portable kernels."};
    return kInfo;
  }

 protected:
  int32_t prefill_value_dim(const MlaSpec& mla) const override {
    return std::max(mla.v_head_dim, mla.qk_nope_head_dim + mla.qk_rope_head_dim);
  }
  SplitPolicy decode_split(const Device& device, const PlanRequest& request) const override {
    if (request.options.deterministic) return {};
    int64_t longest = request.options.bounds.max_seq_len;
    for (int32_t seq_len : request.batch.seq_lens) longest = std::max<int64_t>(longest, seq_len);
    const auto by_length =
        static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(1, longest / kKeysPerSplit))));
    const int64_t splits = std::min<int64_t>(by_length, 2 * std::max(1, device.info().compute_units));
    return {.kind = SplitPolicy::Kind::kSegments, .value = static_cast<int32_t>(splits)};
  }
};

}  // namespace

const Backend* triton_mla() {
  static const TritonMla kBackend;
  return &kBackend;
}

}  // namespace sextant
