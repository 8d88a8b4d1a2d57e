// Building blocks of the ops' argument checks. Each returns a status that names the field, its value and what is
// allowed.
#pragma once

#include <initializer_list>

#include "sextant/kv_cache.h"

namespace sextant {

// Any extent.
inline constexpr int64_t kAnyExtent = -1;

Status check_present(const char* field, const TensorView& view);
// Rank and extents; kAnyExtent leaves one open.
Status check_shape(const char* field, const TensorView& view, std::initializer_list<int64_t> shape);
Status check_dtype(const char* field, const TensorView& view, std::initializer_list<DType> allowed);
// Elements along the last dimension are adjacent.
Status check_last_stride(const char* field, const TensorView& view);
// The data lies on a multiple of its element's size.
Status check_alignment(const char* field, const TensorView& view);
// fp32 [heads, >= tokens].
Status check_lse(const char* field, const TensorView& view, int64_t heads, int64_t tokens);
Status check_rows(const char* field, const TensorView& view, int64_t at_least);
Status check_pointer(const char* field, const void* pointer);
// The cache is one that attention of these heads and this dtype writes and reads.
Status check_cache_serves(const KvCacheSpec& cache, bool latent, int32_t heads, int32_t dim, int32_t dim_v,
                          DType dtype);
// Its memory is there, and its scales are as many as it takes.
Status check_cache_memory(const KvCacheView& cache);
// A run's cache is the planned one, with at least as many blocks.
Status check_cache_as_planned(const KvCacheSpec& planned, const KvCacheView& cache);
inline constexpr std::initializer_list<DType> kComputeTypes = {DType::kF32, DType::kF16, DType::kBF16};

}  // namespace sextant
