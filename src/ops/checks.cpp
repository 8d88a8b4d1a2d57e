#include "ops/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace sextant {

Status check_present(const char* field, const TensorView& view) {
  if (view.present() || view.num_elements() == 0) return Status::ok();
  return invalid_argument(fmt::format("{} is absent; allowed: a tensor", field));
}

Status check_shape(const char* field, const TensorView& view, std::initializer_list<int64_t> shape) {
  SEXTANT_RETURN_IF_ERROR(check_present(field, view));
  bool fits = view.rank == static_cast<int>(shape.size());
  std::string allowed;
  size_t i = 0;
  for (int64_t extent : shape) {
    allowed += fmt::format("{}{}", i ? ", " : "", extent == kAnyExtent ? std::string("*") : std::to_string(extent));
    fits = fits && (extent == kAnyExtent || view.shape[i] == extent);
    ++i;
  }
  if (fits) return Status::ok();
  return invalid_argument(fmt::format("{} is {}; allowed: [{}]", field, to_string(view), allowed));
}

Status check_dtype(const char* field, const TensorView& view, std::initializer_list<DType> allowed) {
  if (std::find(allowed.begin(), allowed.end(), view.dtype) != allowed.end()) return Status::ok();
  std::string names;
  for (DType d : allowed) names += fmt::format("{}{}", names.empty() ? "" : ", ", to_string(d));
  return invalid_argument(fmt::format("{} has dtype {}; allowed: {}", field, to_string(view.dtype), names));
}

Status check_last_stride(const char* field, const TensorView& view) {
  const auto last = static_cast<size_t>(view.rank - 1);
  if (view.rank == 0 || view.stride[last] == 1 || view.shape[last] <= 1) return Status::ok();
  return invalid_argument(fmt::format("{} has last stride {}; allowed: 1", field, view.stride[last]));
}

Status check_rows(const char* field, const TensorView& view, int64_t at_least) {
  if (view.rank > 0 && view.shape[0] >= at_least) return Status::ok();
  return invalid_argument(fmt::format("{} is {}; allowed: at least {} rows", field, to_string(view), at_least));
}

Status check_pointer(const char* field, const void* pointer) {
  if (pointer != nullptr) return Status::ok();
  return invalid_argument(fmt::format("{} is null; allowed: a pointer to device memory", field));
}

}  // namespace sextant
