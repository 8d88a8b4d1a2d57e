// Building blocks of the ops' argument checks. Each returns a status that names the field, its value and what is
// allowed.
#pragma once

#include <initializer_list>

#include "sextant/kv_cache.h"
#include "types/ceil_div.h"

namespace sextant {

// Any extent.
inline constexpr int64_t kAnyExtent = -1;

Status check_present(const char* field, const TensorView& view);
// Rank and extents; kAnyExtent leaves one open. First of a view's checks: the others rely on its rank.
Status check_shape(const char* field, const TensorView& view, std::initializer_list<int64_t> shape);
// One of these types, at a multiple of its size.
Status check_dtype(const char* field, const TensorView& view, std::initializer_list<DType> allowed);
// Elements along the last dimension are adjacent.
Status check_last_stride(const char* field, const TensorView& view);
// Every element has a place of its own: for what is written.
Status check_apart(const char* field, const TensorView& view);
// Memory that a view or a cache fills without gaps; none where it has gaps, in which others may lie.
struct Memory {
  const char* field = nullptr;
  uintptr_t begin = 0, end = 0;
  bool meets(const Memory& other) const { return begin < other.end && other.begin < end; }
};
Memory memory_of(const char* field, const TensorView& view);
Memory memory_of(const char* field, const void* data, int64_t block_stride, int64_t dense_stride,
                 const KvCacheSpec& cache);
// fp32 [heads, >= tokens].
Status check_lse(const char* field, const TensorView& view, int64_t heads, int64_t tokens);
Status check_rows(const char* field, const TensorView& view, int64_t at_least);
Status check_pointer(const char* field, const void* pointer);
// A multiple of `bytes`; null is one.
Status check_alignment(const char* field, const void* pointer, size_t bytes);
// An array of the device's memory that must be there.
template <class T>
Status check_array(const char* field, const T* array) {
  SEXTANT_RETURN_IF_ERROR(check_pointer(field, array));
  return check_alignment(field, array, sizeof(T));
}
// The cache is one that attention of these heads and this dtype writes and reads.
Status check_cache_serves(const KvCacheSpec& cache, bool latent, int32_t heads, int32_t dim, int32_t dim_v,
                          DType dtype);
// Its memory is there, and its scales are as many as it takes.
Status check_cache_memory(const KvCacheView& cache);
// Every element of it, and every token's scale, has a place of its own: for a cache that is written.
Status check_cache_apart(const KvCacheView& cache);
// A run's cache is the planned one, with at least as many blocks.
Status check_cache_as_planned(const KvCacheSpec& planned, const KvCacheView& cache);
inline constexpr size_t kWorkspaceAlignment = 256;  // cache lines, TMA and cudaMalloc alike
constexpr size_t align_workspace(size_t bytes) { return ceil_div(bytes, kWorkspaceAlignment) * kWorkspaceAlignment; }
inline constexpr std::initializer_list<DType> kComputeTypes = {DType::kF32, DType::kF16, DType::kBF16};

}  // namespace sextant
