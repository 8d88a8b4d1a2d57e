// Which instantiation of stream_attention serves a problem.
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/portable/stream_launchers.h"

namespace sextant::cuda {
namespace {

int dim_class(const AttentionParams& p) {
  const int dim = p.head_dim > p.head_dim_v ? p.head_dim : p.head_dim_v;
  return dim <= 64 ? 64 : dim <= 128 ? 128 : 256;
}
bool is_native_fp8(DType dtype) { return dtype == DType::kF8E4M3FN || dtype == DType::kF8E5M2; }

bool multiple_of_16(const KvAddressing& a) {
  return a.block_stride % 16 == 0 && a.head_stride % 16 == 0 && a.token_outer_stride % 16 == 0 &&
         a.token_inner_stride % 16 == 0;
}

}  // namespace

bool stream_serves(const AttentionParams& p) {
  if (p.dtype == DType::kF32 || p.origin != KeyOrigin::kCache || p.head_dim > 256 || p.head_dim_v > 256) return false;
  if (p.cache_dtype == p.dtype)
    return p.head_dim % 8 == 0 && p.head_dim_v % 8 == 0 && p.k_chunk_stride > 0 && p.v_chunk_stride > 0;
  return is_native_fp8(p.cache_dtype) && p.head_dim % 16 == 0 && p.head_dim_v % 16 == 0 && p.k_chunk_stride == 8 &&
         p.v_chunk_stride == 8 && multiple_of_16(p.k_addr) && multiple_of_16(p.v_addr);
}

// Mirrors StreamShape: keys of a warp's tile x 4 warps, and blocks that fit an SM's shared memory.
int32_t stream_tile_keys(const AttentionParams& p) {
  const int row_bytes = dim_class(p) * static_cast<int>(size_of(p.cache_dtype));
  return row_bytes <= 128 ? 128 : 64;
}
int stream_blocks_per_sm(const AttentionParams& p, int32_t) { return dim_class(p) == 256 ? 1 : 2; }

cudaError_t launch_stream_attention(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  const bool bf16 = p.dtype == DType::kBF16, fp8 = is_native_fp8(p.cache_dtype);
  StreamLauncher* launcher = nullptr;
  switch (dim_class(p)) {
    case 64:
      launcher = fp8 ? (bf16 ? stream_bf16_64_fp8 : stream_f16_64_fp8) : (bf16 ? stream_bf16_64 : stream_f16_64);
      break;
    case 128:
      launcher = fp8 ? (bf16 ? stream_bf16_128_fp8 : stream_f16_128_fp8) : (bf16 ? stream_bf16_128 : stream_f16_128);
      break;
    default:
      launcher = fp8 ? (bf16 ? stream_bf16_256_fp8 : stream_f16_256_fp8) : (bf16 ? stream_bf16_256 : stream_f16_256);
      break;
  }
  return launcher(p, plan.rows, plan.grid, stream);
}

}  // namespace sextant::cuda
