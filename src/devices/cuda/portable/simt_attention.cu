#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/portable/simt_attention.cuh"

namespace sextant::cuda {
namespace {

constexpr size_t kMaxShared = 160 * 1024;  // sm_80 allows 163 KiB a block

template <class T, int kDims>
cudaError_t launch(const AttentionParams& p, TileGrid grid, cudaStream_t stream) {
  const size_t bytes = simt_shared_bytes(p);
  const cudaError_t error = cudaFuncSetAttribute(simt_attention<T, kDims>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  const dim3 blocks(grid.tiles, p.num_kv_heads, grid.partitions);
  simt_attention<T, kDims><<<blocks, kSimtThreads, bytes, stream>>>(p);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_dims(const AttentionParams& p, TileGrid grid, cudaStream_t stream) {
  if (p.head_dim_v <= 128) return launch<T, 4>(p, grid, stream);
  if (p.head_dim_v <= 256) return launch<T, 8>(p, grid, stream);
  if (p.head_dim_v <= 512) return launch<T, 16>(p, grid, stream);
  return launch<T, 32>(p, grid, stream);
}

}  // namespace

bool simt_serves(const AttentionParams& p) { return p.head_dim_v <= 1024 && simt_shared_bytes(p) <= kMaxShared; }

cudaError_t launch_simt_attention(const AttentionParams& p, TileGrid grid, cudaStream_t stream) {
  switch (p.dtype) {
    case DType::kF32:
      return launch_dims<float>(p, grid, stream);
    case DType::kF16:
      return launch_dims<__half>(p, grid, stream);
    default:
      return launch_dims<__nv_bfloat16>(p, grid, stream);
  }
}

}  // namespace sextant::cuda
