// Which problems the MLA decode kernels on wgmma serve.
#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

bool mla_wgmma_serves(const AttentionParams& p) {
  if (!mla_serves(p)) return false;
  if (p.cache_dtype == p.dtype) return p.k_chunk_stride == 8;
  return is_fp8(p.cache_dtype) && vector_stride(p.k_addr, p.head_dim, 16) > 0 &&
         reinterpret_cast<uintptr_t>(p.cache_k) % 16 == 0;
}

}  // namespace sextant::cuda
