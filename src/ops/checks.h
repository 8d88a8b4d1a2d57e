// Building blocks of the ops' argument checks. Each returns a status that names the field, its value and what is
// allowed.
#pragma once

#include <initializer_list>

#include "sextant/types.h"

namespace sextant {

// Any extent.
inline constexpr int64_t kAnyExtent = -1;

Status check_present(const char* field, const TensorView& view);
// Rank and extents; kAnyExtent leaves one open.
Status check_shape(const char* field, const TensorView& view, std::initializer_list<int64_t> shape);
Status check_dtype(const char* field, const TensorView& view, std::initializer_list<DType> allowed);
// Elements along the last dimension are adjacent.
Status check_last_stride(const char* field, const TensorView& view);
Status check_rows(const char* field, const TensorView& view, int64_t at_least);
Status check_pointer(const char* field, const void* pointer);
inline constexpr std::initializer_list<DType> kComputeTypes = {DType::kF32, DType::kF16, DType::kBF16};

}  // namespace sextant
