// Finds the strides at which dims and rows can be moved as vectors.
#include "devices/gpu/strides.h"

#include <algorithm>
#include <limits>

namespace sextant::gpu {

int32_t vector_stride(const KvAddressing& a, int32_t dims, int32_t n) {
  if (dims % n != 0 || a.block_stride % n != 0 || a.head_stride % n != 0 || a.token_outer_stride % n != 0 ||
      (a.token_tile > 1 && a.token_inner_stride % n != 0))
    return 0;
  if (a.dim_tile == 1) return a.dim_outer_stride == 1 ? n : 0;
  if (a.dim_inner_stride != 1 || a.dim_tile % n != 0) return 0;
  if (a.dim_outer_stride == a.dim_tile) return n;  // tiles behind one another are as good as none
  return a.dim_tile == n && a.dim_outer_stride % n == 0 && a.dim_outer_stride < (int64_t{1} << 31)
             ? static_cast<int32_t>(a.dim_outer_stride)
             : 0;
}

int32_t chunk_stride(const KvAddressing& a, int32_t head_dim, const void* base, size_t element_bytes) {
  const size_t alignment = std::min<size_t>(8 * element_bytes, 16);
  return reinterpret_cast<uintptr_t>(base) % alignment == 0 ? vector_stride(a, head_dim, 8) : 0;
}

DimTiles dim_tiles(const KvAddressing& a, int32_t head_dim, const void* base, size_t element_bytes) {
  if (a.dim_tile == 16 && a.dim_inner_stride == 1 && a.dim_outer_stride % 8 == 0 &&
      a.dim_outer_stride < std::numeric_limits<int32_t>::max()) {
    // Aligned as it would be with tiles of 8.
    KvAddressing halves = a;
    halves.dim_tile = 8;
    if (chunk_stride(halves, head_dim, base, element_bytes) > 0) return {static_cast<int32_t>(a.dim_outer_stride), 1};
  }
  return {chunk_stride(a, head_dim, base, element_bytes), 0};
}

bool is_vector_aligned(const TensorView& view) {
  const size_t element = size_of(view.dtype);
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0 || view.stride[view.rank - 1] != 1 ||
      view.shape[view.rank - 1] % 8 != 0)
    return false;
  for (int i = 0; i + 1 < view.rank; ++i)
    if (view.stride[i] * static_cast<int64_t>(element) % 16 != 0) return false;
  return true;
}

}  // namespace sextant::gpu
