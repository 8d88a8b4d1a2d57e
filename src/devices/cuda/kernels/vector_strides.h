// Which caches are read 16 bytes at a time.
#pragma once

#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/params.h"

namespace sextant::cuda {

// Where 16 fp8 dims of a token lie together, aligned, and their places in units of 16 bytes fit in 32 bits.
inline void set_vector_strides(AttentionParams& p) {
  const auto stride = [&](const KvAddressing& address, int32_t dims, const void* base) {
    const bool aligned = is_fp8(p.cache_dtype) && reinterpret_cast<uintptr_t>(base) % 16 == 0;
    const bool fits = p.num_blocks * (address.block_stride / 16) < int64_t{1} << 32;
    return aligned && fits && address.token_tile == 1 ? vector_stride(address, dims, 16) : 0;
  };
  p.k_vector_stride = stride(p.k_addr, p.head_dim, p.cache_k);
  p.v_vector_stride = stride(p.v_addr, p.head_dim_v, p.cache_v);
}

}  // namespace sextant::cuda
