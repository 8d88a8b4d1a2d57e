// Which instantiation of the forward kernel serves a problem, and in which order it works.
#include <algorithm>
#include <cstdint>
#include <iterator>

#include "devices/cuda/hopper/forward_launchers.h"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/vector_strides.h"

namespace sextant::cuda {
namespace {

constexpr int64_t kResidentBytes = 24 << 20;  // of keys and values in the L2 cache (50 MiB) while their rows go by

int32_t heads_per_section(const AttentionParams& p, int64_t max_keys, int32_t key_bytes) {
  const int64_t head_bytes = std::max<int64_t>(1, max_keys * (p.head_dim + p.head_dim_v) * key_bytes);
  return static_cast<int32_t>(std::clamp<int64_t>(kResidentBytes / head_bytes, 1, p.num_kv_heads));
}

struct ForwardClass {
  ForwardTile tile;
  ForwardLauncher* launchers[2][5];  // [bf16, f16][KeySource]
};
// Row tiles of three consumers. The sizes of a class above.
constexpr ForwardClass kTallClasses[] = {
    {{64, 64, 96, kForwardTallRows},
     {{forward_bf16_64_64_exact_tall, nullptr, forward_bf16_64_64_padded_tall, nullptr, nullptr},
      {forward_f16_64_64_exact_tall, nullptr, forward_f16_64_64_padded_tall, nullptr, nullptr}}},
    {{96, 96, 96, kForwardTallRows},
     {{nullptr, nullptr, forward_bf16_96_96_padded_tall, nullptr, nullptr},
      {nullptr, nullptr, forward_f16_96_96_padded_tall, nullptr, nullptr}}},
};
constexpr ForwardClass kClasses[] = {
    {{64, 64, 128},
     {{forward_bf16_64_64_exact, forward_bf16_64_64_rows, forward_bf16_64_64_padded, forward_bf16_64_64_convert,
       forward_bf16_64_64_fp16},
      {forward_f16_64_64_exact, forward_f16_64_64_rows, forward_f16_64_64_padded, forward_f16_64_64_convert, nullptr}}},
    {{96, 96, 128},
     {{nullptr, forward_bf16_96_96_rows, forward_bf16_96_96_padded, forward_bf16_96_96_convert,
       forward_bf16_96_96_fp16},
      {nullptr, forward_f16_96_96_rows, forward_f16_96_96_padded, forward_f16_96_96_convert, nullptr}}},
    {{128, 128, 128},
     {{forward_bf16_128_128_exact, forward_bf16_128_128_rows, forward_bf16_128_128_padded, forward_bf16_128_128_convert,
       forward_bf16_128_128_fp16},
      {forward_f16_128_128_exact, forward_f16_128_128_rows, forward_f16_128_128_padded, forward_f16_128_128_convert,
       nullptr}}},
    {{192, 128, 128},
     {{forward_bf16_192_128_exact, nullptr, forward_bf16_192_128_padded, forward_bf16_192_128_convert,
       forward_bf16_192_128_fp16},
      {forward_f16_192_128_exact, nullptr, forward_f16_192_128_padded, forward_f16_192_128_convert, nullptr}}},
    {{192, 192, 96},
     {{nullptr, nullptr, forward_bf16_192_192_padded, forward_bf16_192_192_convert, forward_bf16_192_192_fp16},
      {nullptr, nullptr, forward_f16_192_192_padded, forward_f16_192_192_convert, nullptr}}},
    {{256, 256, 64},
     {{forward_bf16_256_256_exact, nullptr, forward_bf16_256_256_padded, forward_bf16_256_256_convert,
       forward_bf16_256_256_fp16},
      {forward_f16_256_256_exact, nullptr, forward_f16_256_256_padded, forward_f16_256_256_convert, nullptr}}},
};

// With the vector strides set.
KeySource find_source(const AttentionParams& p, const ForwardClass& chosen) {
  const bool cached = p.origin != KeyOrigin::kPacked;
  if (cached && (p.cache_dtype != p.dtype || p.k_chunk_stride == 0 || p.v_chunk_stride == 0)) {
    const bool vectors = p.origin == KeyOrigin::kCache && p.k_vector_stride > 0 && p.v_vector_stride > 0;
    return vectors && p.dtype == DType::kBF16 ? KeySource::kFp16 : KeySource::kConvert;
  }
  if (cached && p.block_size % 8 != 0 && chosen.launchers[0][static_cast<int>(KeySource::kRows)] != nullptr)
    return KeySource::kRows;
  const bool exact = p.head_dim == chosen.tile.head_dim && p.head_dim_v == chosen.tile.head_dim_v;
  return exact && chosen.launchers[0][0] != nullptr ? KeySource::kExact : KeySource::kPadded;
}

bool fits(const AttentionParams& p, const ForwardClass& c) {
  return p.head_dim <= c.tile.head_dim && p.head_dim_v <= c.tile.head_dim_v;
}
// The first that the head sizes fit in.
const ForwardClass& find_class(const AttentionParams& p) {
  for (const ForwardClass& c : kClasses)
    if (fits(p, c)) return c;
  return *(std::end(kClasses) - 1);
}
// With the vector strides set; null: none.
const ForwardClass* find_tall_class(const AttentionParams& p) {
  for (const ForwardClass& c : kTallClasses)
    if (fits(p, c)) return forward_brings_boxes(p, forward_source(p)) ? &c : nullptr;
  return nullptr;
}

}  // namespace

KeySource forward_source(const AttentionParams& p) { return find_source(p, find_class(p)); }

bool forward_brings_boxes(const AttentionParams& p, KeySource source) {
  return (source == KeySource::kExact || source == KeySource::kPadded) &&
         (p.origin == KeyOrigin::kPacked || cache_has_boxes(p));
}

ForwardOrder make_forward_order(const AttentionParams& p, const ForwardPlan& plan, int32_t key_bytes) {
  ForwardOrder order;
  order.tiles = plan.tiles;
  if (plan.requests != nullptr) {
    order.requests = *plan.requests;
    order.tiles = plan.requests->first[plan.requests->count];
  }
  order.partitions = plan.partitions;
  order.heads_per_section = plan.front_sms > 0 ? p.num_kv_heads : heads_per_section(p, plan.max_keys, key_bytes);
  order.items = order.tiles * plan.partitions * p.num_kv_heads;
  order.blocks = std::min(plan.sms, order.items);
  order.front_blocks = std::min(plan.front_sms, order.blocks);
  order.claimed = order.items > order.blocks ? plan.claimed : nullptr;
  return order;
}

cudaError_t zero_forward_claims(const ForwardOrder& order, cudaStream_t stream) {
  if (order.claimed == nullptr) return cudaSuccess;
  return cudaMemsetAsync(order.claimed, 0, kForwardCounters * sizeof(int32_t), stream);
}

bool forward_serves(const AttentionParams& p) {
  const bool sizes = p.head_dim % 8 == 0 && p.head_dim_v % 8 == 0 && p.head_dim <= 256 && p.head_dim_v <= 256;
  const bool out_aligned =
      reinterpret_cast<uintptr_t>(p.out) % 16 == 0 && p.out_token_stride % 8 == 0 && p.out_head_stride % 8 == 0;
  return p.dtype != DType::kF32 && sizes && p.q_aligned && p.packed_aligned && out_aligned;
}

bool forward_may_be_tall(const AttentionParams& params) {
  AttentionParams p = params;
  set_vector_strides(p);
  return find_tall_class(p) != nullptr;
}

cudaError_t launch_forward(const AttentionParams& params, const ForwardPlan& plan, cudaStream_t stream) {
  AttentionParams p = params;
  set_vector_strides(p);
  const ForwardClass* tall = plan.rows == kForwardTallRows ? find_tall_class(p) : nullptr;
  if (plan.rows != kForwardRows && tall == nullptr) return cudaErrorInvalidValue;
  const KeySource source = forward_source(p);
  const ForwardClass& chosen = tall != nullptr ? *tall : find_class(p);
  const ForwardOrder order = make_forward_order(p, plan, 2);
  const cudaError_t error = zero_forward_claims(order, stream);
  if (error != cudaSuccess) return error;
  ForwardLauncher* launcher = chosen.launchers[p.dtype == DType::kBF16 ? 0 : 1][static_cast<int>(source)];
  return launcher(p, make_forward_maps(p, chosen.tile, source), order, order.blocks, stream);
}

}  // namespace sextant::cuda
