// Which instantiation of stream_attention serves a problem.
#include <algorithm>

#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/portable/stream_launchers.h"
#include "devices/cuda/portable/stream_sizes.h"

namespace sextant::cuda {
namespace {

int dim_class(const AttentionParams& p) {
  const int dim = p.head_dim > p.head_dim_v ? p.head_dim : p.head_dim_v;
  return dim <= 64 ? 64 : dim <= 128 ? 128 : 256;
}

StreamSizes sizes_of(const AttentionParams& p, SharedRoom room) {
  const int dim = dim_class(p);
  return stream_sizes(dim * static_cast<int>(size_of(p.cache_dtype)), dim, stream_room(dim, room));
}

// Elements of 16 bytes.
int32_t vector_elements(const AttentionParams& p) { return static_cast<int32_t>(16 / size_of(p.cache_dtype)); }

// Elements from 16 bytes of a dim's tokens to the next 16 bytes; 0 where tokens do not lie so.
int32_t run_stride(const KvAddressing& a, int32_t block_size, int32_t n) {
  if (block_size % n != 0 || a.dim_tile != 1 || a.block_stride % n != 0 || a.head_stride % n != 0 ||
      a.dim_outer_stride % n != 0)
    return 0;
  if (a.token_tile == 1) return a.token_outer_stride == 1 ? n : 0;
  if (a.token_inner_stride != 1 || a.token_tile % n != 0) return 0;
  if (a.token_outer_stride == a.token_tile) return n;
  return a.token_tile == n && a.token_outer_stride % n == 0 && a.token_outer_stride < (int64_t{1} << 31)
             ? static_cast<int32_t>(a.token_outer_stride)
             : 0;
}

// Offsets in units of 16 bytes must fit in 32 bits.
bool fits_32_bits(const AttentionParams& p, const KvAddressing& a) {
  return p.num_blocks * (a.block_stride / vector_elements(p)) < (int64_t{1} << 32);
}

void set_strides(AttentionParams& p) {
  const int32_t n = vector_elements(p);
  p.k_vector_stride = vector_stride(p.k_addr, p.head_dim, n);
  p.v_vector_stride = vector_stride(p.v_addr, p.head_dim_v, n);
  p.v_run_stride = p.v_vector_stride > 0 || p.key_begin % n != 0 ? 0 : run_stride(p.v_addr, p.block_size, n);
}

}  // namespace

bool stream_serves(const AttentionParams& params) {
  AttentionParams p = params;
  if (p.dtype == DType::kF32 || p.origin != KeyOrigin::kCache || p.head_dim > 256 || p.head_dim_v > 256) return false;
  if (p.cache_dtype != p.dtype && !is_native_fp8(p.cache_dtype)) return false;
  set_strides(p);
  return p.k_vector_stride > 0 && (p.v_vector_stride > 0 || p.v_run_stride > 0) && p.head_dim_v % 8 == 0 &&
         fits_32_bits(p, p.k_addr) && fits_32_bits(p, p.v_addr);
}

int32_t stream_key_align(const AttentionParams& params) {
  AttentionParams p = params;
  set_strides(p);
  return p.v_run_stride > 0 ? vector_elements(p) : 1;
}

int32_t stream_tile_keys(const AttentionParams& p, SharedRoom room) {
  const StreamSizes sizes = sizes_of(p, room);
  return sizes.warps * sizes.warp_keys;
}
int stream_blocks_per_sm(const AttentionParams& p, SharedRoom room) {
  constexpr int kReserved = 1024, kSmallSm = 100 * 1024;  // bytes of a block that the chip keeps; of an SM
  if (room != SharedRoom::kSmall) return dim_class(p) == 256 ? 1 : 2;
  return std::clamp(kSmallSm / (sizes_of(p, room).shared_bytes + kReserved), 1, 2);
}

cudaError_t launch_stream_attention(const AttentionParams& params, const StreamPlan& plan, cudaStream_t stream) {
  AttentionParams p = params;
  set_strides(p);
  const bool bf16 = p.dtype == DType::kBF16, fp8 = is_native_fp8(p.cache_dtype), tokens = p.v_run_stride > 0;
  const auto pick = [&](StreamLauncher* bf16_16, StreamLauncher* bf16_fp8, StreamLauncher* bf16_tokens,
                        StreamLauncher* f16_16, StreamLauncher* f16_fp8, StreamLauncher* f16_tokens) {
    if (tokens) return bf16 ? bf16_tokens : f16_tokens;
    if (fp8) return bf16 ? bf16_fp8 : f16_fp8;
    return bf16 ? bf16_16 : f16_16;
  };
  StreamLauncher* launcher = nullptr;
  switch (dim_class(p)) {
    case 64:
      launcher = pick(stream_bf16_64, stream_bf16_64_fp8, stream_bf16_64_tokens, stream_f16_64, stream_f16_64_fp8,
                      stream_f16_64_tokens);
      break;
    case 128:
      launcher = pick(stream_bf16_128, stream_bf16_128_fp8, stream_bf16_128_tokens, stream_f16_128, stream_f16_128_fp8,
                      stream_f16_128_tokens);
      break;
    default:
      launcher = pick(stream_bf16_256, stream_bf16_256_fp8, stream_bf16_256_tokens, stream_f16_256, stream_f16_256_fp8,
                      stream_f16_256_tokens);
      break;
  }
  return launcher(p, plan, stream);
}

}  // namespace sextant::cuda
