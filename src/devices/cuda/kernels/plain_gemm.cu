// A thread an element of c, operands by way of shared memory, sums in fp32. Any strides.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "devices/cuda/kernels/plain_gemm.h"

namespace sextant::cuda {
namespace {

constexpr int kSide = 16;

template <class T, class C>
__global__ void plain_gemm(PlainGemm g) {
  __shared__ float a_tile[kSide][kSide + 1], b_tile[kSide][kSide + 1];
  const int x = threadIdx.x, y = threadIdx.y;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kSide + y,
                column = static_cast<int64_t>(blockIdx.x) * kSide + x;
  for (int64_t i = blockIdx.z; i < g.batch; i += gridDim.z) {
    const T* a = static_cast<const T*>(g.a) + i * g.a_stride[0];
    const T* b = static_cast<const T*>(g.b) + i * g.b_stride[0];
    float sum = 0;
    for (int64_t k = 0; k < g.k; k += kSide) {
      a_tile[y][x] =
          row < g.m && k + x < g.k ? static_cast<float>(a[row * g.a_stride[1] + (k + x) * g.a_stride[2]]) : 0;
      b_tile[y][x] =
          column < g.n && k + y < g.k ? static_cast<float>(b[(k + y) * g.b_stride[1] + column * g.b_stride[2]]) : 0;
      __syncthreads();
      for (int d = 0; d < kSide; ++d) sum += a_tile[y][d] * b_tile[d][x];
      __syncthreads();
    }
    if (row < g.m && column < g.n)
      static_cast<C*>(g.c)[i * g.c_stride[0] + row * g.c_stride[1] + column * g.c_stride[2]] = static_cast<C>(sum);
  }
}

template <class T>
void launch(const PlainGemm& g, dim3 grid, dim3 block, cudaStream_t stream) {
  if (g.c_type == g.type)
    plain_gemm<T, T><<<grid, block, 0, stream>>>(g);
  else
    plain_gemm<T, float><<<grid, block, 0, stream>>>(g);
}

}  // namespace

cudaError_t launch_plain_gemm(const PlainGemm& g, cudaStream_t stream) {
  constexpr int64_t kMostInY = 65535;
  const int64_t rows = (g.m + kSide - 1) / kSide;
  // The rows of a launch are bounded by the grid; more come in further launches.
  for (int64_t first = 0; first < rows; first += kMostInY) {
    PlainGemm part = g;
    const int64_t offset = first * kSide;
    const auto bytes = [](DType type) { return static_cast<int64_t>(type == DType::kF32 ? 4 : 2); };
    part.a = static_cast<const char*>(g.a) + offset * g.a_stride[1] * bytes(g.type);
    part.c = static_cast<char*>(g.c) + offset * g.c_stride[1] * bytes(g.c_type);
    part.m = g.m - offset;
    const int64_t here = rows - first < kMostInY ? rows - first : kMostInY;
    const dim3 grid(static_cast<unsigned>((g.n + kSide - 1) / kSide), static_cast<unsigned>(here),
                    static_cast<unsigned>(g.batch < kMostInY ? g.batch : kMostInY));
    const dim3 block(kSide, kSide);
    if (g.type == DType::kF32)
      launch<float>(part, grid, block, stream);
    else if (g.type == DType::kF16)
      launch<__half>(part, grid, block, stream);
    else
      launch<__nv_bfloat16>(part, grid, block, stream);
  }
  return cudaGetLastError();
}

}  // namespace sextant::cuda
