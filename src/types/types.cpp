// Names and sizes of element types, and views of tensors.
#include "sextant/types.h"

#include <fmt/format.h>

#include <iterator>

namespace sextant {
namespace {

struct DTypeName {
  std::string_view name;
  DType dtype;
};

// Our own names first; then the names that torch, safetensors and vLLM use for the same types.
constexpr DTypeName kDTypeNames[] = {
    {"fp32", DType::kF32},
    {"fp16", DType::kF16},
    {"bf16", DType::kBF16},
    {"fp8_e4m3fn", DType::kF8E4M3FN},
    {"fp8_e4m3fnuz", DType::kF8E4M3FNUZ},
    {"fp8_e5m2", DType::kF8E5M2},
    {"int32", DType::kI32},
    {"int64", DType::kI64},
    {"int8", DType::kI8},
    {"float32", DType::kF32},
    {"float", DType::kF32},
    {"f32", DType::kF32},
    {"float16", DType::kF16},
    {"half", DType::kF16},
    {"f16", DType::kF16},
    {"bfloat16", DType::kBF16},
    {"fp8", DType::kF8E4M3FN},
    {"fp8_e4m3", DType::kF8E4M3FN},
    {"float8_e4m3fn", DType::kF8E4M3FN},
    {"float8_e4m3fnuz", DType::kF8E4M3FNUZ},
    {"float8_e5m2", DType::kF8E5M2},
    {"f8_e4m3", DType::kF8E4M3FN},
    {"f8_e5m2", DType::kF8E5M2},
    {"i32", DType::kI32},
    {"i64", DType::kI64},
    {"i8", DType::kI8},
};

}  // namespace

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kF8E4M3FN:
    case DType::kF8E4M3FNUZ:
    case DType::kF8E5M2:
    case DType::kI8:
      return 1;
    case DType::kI64:
      return 8;
  }
  return 0;
}

const char* to_string(DType dtype) {
  for (const DTypeName& entry : kDTypeNames)
    if (entry.dtype == dtype) return entry.name.data();
  return "unknown dtype";
}

Result<DType> parse_dtype(std::string_view name) {
  for (const DTypeName& entry : kDTypeNames)
    if (entry.name == name) return entry.dtype;
  return invalid_argument(fmt::format(
      "dtype is \"{}\"; allowed: fp32, fp16, bf16, fp8_e4m3fn, fp8_e4m3fnuz, fp8_e5m2, int32, int64", name));
}

const char* to_string(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::kCpu:
      return "cpu";
    case DeviceKind::kCuda:
      return "cuda";
    case DeviceKind::kHip:
      return "hip";
    case DeviceKind::kHipEmulated:
      return "hip-emulated";
  }
  return "unknown device";
}

Result<DeviceKind> parse_device_kind(std::string_view name) {
  for (DeviceKind kind : {DeviceKind::kCpu, DeviceKind::kCuda, DeviceKind::kHip, DeviceKind::kHipEmulated})
    if (name == to_string(kind)) return kind;
  return invalid_argument(fmt::format("device is \"{}\"; allowed: cpu, cuda, hip, hip-emulated", name));
}

const char* to_string(KernelFamily family) { return family == KernelFamily::kPortable ? "portable" : "tuned"; }

int64_t TensorView::num_elements() const {
  int64_t count = 1;
  for (int i = 0; i < rank; ++i) count *= shape[static_cast<size_t>(i)];
  return count;
}

bool TensorView::is_contiguous() const {
  int64_t expected = 1;
  for (int i = rank - 1; i >= 0; --i) {
    const auto d = static_cast<size_t>(i);
    if (shape[d] != 1 && stride[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

TensorView make_view(void* data, DType dtype, std::initializer_list<int64_t> shape) {
  TensorView view;
  view.data = data;
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  size_t i = 0;
  for (int64_t extent : shape) view.shape[i++] = extent;
  int64_t stride = 1;
  while (i-- > 0) {
    view.stride[i] = stride;
    stride *= view.shape[i];
  }
  return view;
}

std::string to_string(const TensorView& view) {
  if (!view.present() && view.rank == 0) return "absent";
  std::string text = fmt::format("{}[", to_string(view.dtype));
  for (int i = 0; i < view.rank; ++i) text += fmt::format("{}{}", i ? ", " : "", view.shape[static_cast<size_t>(i)]);
  return text + "]";
}

}  // namespace sextant
