// Reads Python's dataclasses and DLPack tensors into Sextant's types, field by field.
#include "convert.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>

#include "types/fields.h"

namespace sextant::python {
namespace {

const char* exception_of(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
      return "SextantInvalidArgument";
    case StatusCode::kUnsupported:
      return "SextantUnsupported";
    case StatusCode::kNotFound:
      return "SextantNotFound";
    case StatusCode::kResourceExhausted:
      return "SextantResourceExhausted";
    case StatusCode::kUnavailable:
      return "SextantUnavailable";
    default:
      return "SextantInternal";
  }
}

[[noreturn]] void raise_invalid(const std::string& message) { raise(invalid_argument(message)); }

// As NumPy writes it.
std::string name_of(DLDataType type) {
  const std::string bits = std::to_string(type.bits), lanes = type.lanes == 1 ? "" : "x" + std::to_string(type.lanes);
  switch (type.code) {
    case kDLInt:
      return "int" + bits + lanes;
    case kDLUInt:
      return "uint" + bits + lanes;
    case kDLFloat:
      return "float" + bits + lanes;
    case kDLBfloat:
      return "bfloat" + bits + lanes;
    case kDLComplex:
      return "complex" + bits + lanes;
    case kDLBool:
      return "bool" + lanes;
    default:
      return "(DLPack code " + std::to_string(type.code) + ", " + bits + " bits)" + lanes;
  }
}

DType dtype_from(const char* field, DLDataType type) {
  if (type.lanes == 1) {
    if (type.code == kDLFloat && type.bits == 32) return DType::kF32;
    if (type.code == kDLFloat && type.bits == 16) return DType::kF16;
    if (type.code == kDLBfloat && type.bits == 16) return DType::kBF16;
    if (type.code == kDLFloat8_e4m3fn) return DType::kF8E4M3FN;
    if (type.code == kDLFloat8_e4m3fnuz) return DType::kF8E4M3FNUZ;
    if (type.code == kDLFloat8_e5m2) return DType::kF8E5M2;
    if (type.code == kDLUInt && type.bits == 16)
      return DType::kBF16;  // bits of bf16, of libraries without a name for it
    if (type.code == kDLUInt && type.bits == 8) return DType::kF8E4M3FN;  // caches of bytes; the spec says which format
    if (type.code == kDLInt && type.bits == 32) return DType::kI32;
    if (type.code == kDLInt && type.bits == 64) return DType::kI64;
    if (type.code == kDLInt && type.bits == 8) return DType::kI8;
  }
  raise_invalid(std::string(field) + " has dtype " + name_of(type) +
                "; allowed: fp32, fp16, bf16, fp8_*, uint16 (bf16 bits), uint8 (fp8 bytes), int32, int64");
}

// As torch writes it.
std::string name_of(DLDevice device) {
  const std::string index = std::to_string(device.device_id);
  switch (device.device_type) {
    case kDLCPU:
    case kDLCUDAHost:
    case kDLROCMHost:
      return "cpu";
    case kDLCUDA:
    case kDLCUDAManaged:
      return "cuda:" + index;
    case kDLROCM:
      return "hip:" + index;
    default:
      return "DLPack device (" + std::to_string(device.device_type) + ", " + index + ")";
  }
}

// Managed memory is read from every GPU.
bool lives_on(DLDevice device, const DeviceInfo& wanted) {
  if (device.device_type == kDLCUDAManaged) return wanted.kind == DeviceKind::kCuda;
  const bool host = wanted.kind == DeviceKind::kCpu || wanted.kind == DeviceKind::kHipEmulated;
  return name_of(device) == (host ? "cpu" : to_string(wanted.kind) + (":" + std::to_string(wanted.index)));
}

float number(const Json& json, const char* field, float fallback) {
  const auto it = json.find(field);
  if (it == json.end() || it->is_null()) return fallback;
  if (!it->is_number()) raise_invalid(std::string(field) + " is " + it->dump() + "; allowed: a number");
  return it->get<float>();
}

DType dtype_field(const Json& json, const char* field) {
  const auto it = json.find(field);
  if (it == json.end() || !it->is_string())
    raise_invalid(std::string(field) + " is missing; allowed: a dtype's name, such as \"bf16\"");
  return value_or_raise(parse_dtype(it->get<std::string>()));
}

}  // namespace

void raise(const Status& status) { throw tvm::ffi::Error(exception_of(status.code()), status.message(), ""); }

void raise_unless_ok(const Status& status) {
  if (!status.is_ok()) raise(status);
}

std::string text_field(const Json& json, const char* field, const std::string& fallback) {
  const auto it = json.find(field);
  if (it == json.end()) return fallback;
  if (!it->is_string()) raise_invalid(std::string(field) + " is " + it->dump() + "; allowed: a string");
  return it->get<std::string>();
}

int64_t integer_field(const Json& json, const char* field, int64_t fallback) {
  const auto it = json.find(field);
  if (it == json.end() || it->is_null()) return fallback;
  if (it->is_boolean()) return it->get<bool>() ? 1 : 0;
  const bool huge =
      it->is_number_unsigned() && it->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (!it->is_number_integer() || huge)
    raise_invalid(std::string(field) + " is " + it->dump() + "; allowed: an integer");
  return it->get<int64_t>();
}

int32_t int32_field(const Json& json, const char* field, int32_t fallback) {
  const int64_t value = integer_field(json, field, fallback);
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
    raise_invalid(std::string(field) + " is " + std::to_string(value) + "; allowed: a 32-bit integer");
  return static_cast<int32_t>(value);
}

Json parse_json(const tvm::ffi::String& text) {
  Json json = Json::parse(std::string(text), nullptr, false);
  if (!json.is_object()) raise_invalid("the description is not a JSON object");
  return json;
}

namespace {

void read_field(const Json& json, const char* name, bool& to) { to = int32_field(json, name, to ? 1 : 0) != 0; }
void read_field(const Json& json, const char* name, int32_t& to) { to = int32_field(json, name, to); }
void read_field(const Json& json, const char* name, int64_t& to) { to = integer_field(json, name, to); }
void read_field(const Json& json, const char* name, float& to) { to = number(json, name, to); }
void read_field(const Json& json, const char* name, DType& to) { to = dtype_field(json, name); }
void read_field(const Json& json, const char* name, std::optional<DType>& to) {
  if (!text_field(json, name, "").empty()) to = dtype_field(json, name);
}
void read_field(const Json& json, const char* name, KvScales& to) {
  to = value_or_raise(parse_kv_scales(text_field(json, name, to_string(to))));
}
void read_field(const Json&, const char*, KvLayout&) {}  // "preferred" takes a backend: see cache_spec_from

template <class Struct>
Struct fields_from(const Json& json) {
  Struct to;
  for_each_field<Struct>([&](const auto& field) { read_field(json, field.name, field.of(to)); });
  return to;
}

}  // namespace

AttentionSpec spec_fields_from(const Json& json) { return fields_from<AttentionSpec>(json); }

AttentionSpec spec_from(const Json& json) {
  const auto spec = spec_fields_from(json);
  raise_unless_ok(validate(spec));
  return spec;
}

KvCacheSpec cache_fields_from(const Json& json) {
  auto cache = fields_from<KvCacheSpec>(json);
  if (cache.head_dim_v == 0) cache.head_dim_v = cache.head_dim;
  cache.layout = value_or_raise(parse_kv_layout(text_field(json, "layout", "preferred")));
  return cache;
}

KvCacheSpec cache_spec_from(const Json& json, const Device& device, const Backend* backend) {
  KvCacheSpec cache = cache_fields_from(json);
  if (backend != nullptr) cache = with_layout(cache, *backend, device.info());
  raise_unless_ok(validate(cache));
  return cache;
}

PlanOptions options_from(const Json& json) { return fields_from<PlanOptions>(json); }

sextant::TensorView view_from(const char* field, const Tensor& tensor, const DeviceInfo& device) {
  if (!lives_on(tensor.device(), device))
    raise_invalid(std::string(field) + " is on " + name_of(tensor.device()) + "; allowed: a tensor on " +
                  (device.host_readable() ? "cpu" : to_string(device.kind) + (":" + std::to_string(device.index))));
  sextant::TensorView view;
  view.dtype = dtype_from(field, tensor.dtype());
  view.rank = tensor.ndim();
  if (view.rank > kMaxRank)
    raise_invalid(std::string(field) + " has rank " + std::to_string(view.rank) + "; allowed: at most 6");
  view.data = static_cast<char*>(tensor.data_ptr()) + tensor.byte_offset();
  int64_t dense = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    const auto d = static_cast<size_t>(i);
    view.shape[d] = tensor.size(i);
    view.stride[d] = tensor.strides().data() != nullptr ? tensor.stride(i) : dense;
    dense *= view.shape[d];
  }
  if (tensor.data_ptr() == nullptr && dense > 0)
    raise_invalid(std::string(field) + " has no memory (was it freed?); allowed: a live tensor");
  return view;
}

sextant::TensorView view_from(const char* field, const OptionalTensor& tensor, const DeviceInfo& device) {
  return tensor.has_value() ? view_from(field, tensor.value(), device) : sextant::TensorView{};
}

sextant::TensorView written_view_from(const char* field, const OptionalTensor& tensor, const DeviceInfo& device) {
  const sextant::TensorView view = view_from(field, tensor, device);
  // Dimensions from the smallest stride up: each begins where the ones before end.
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (size_t i = 0; i < static_cast<size_t>(view.rank); ++i)
    if (view.shape[i] > 1) dims.emplace_back(std::abs(view.stride[i]), view.shape[i]);
  std::sort(dims.begin(), dims.end());
  int64_t end = 1;
  for (const auto& [stride, size] : dims) {
    if (stride < end && view.num_elements() > 0)
      raise_invalid(std::string(field) + " is " + to_string(view) +
                    " with elements that share memory (an expanded tensor?); allowed: elements apart");
    end = stride * (size - 1) + end;
  }
  return view;
}

Workspace workspace_from(const OptionalTensor& tensor, const DeviceInfo& device) {
  const sextant::TensorView view = view_from("workspace", tensor, device);
  if (!tensor.has_value()) return {};
  if (!view.is_contiguous() && view.num_elements() > 0)
    raise_invalid("workspace is " + to_string(view) + ", not contiguous; allowed: bytes that follow one another");
  return {view.data, static_cast<size_t>(view.num_elements()) * size_of(view.dtype)};
}

void refuse_unplanned(const char* field, const OptionalTensor& tensor, bool planned, const char* how_to_plan) {
  if (tensor.has_value() && !planned)
    raise_invalid(std::string(field) + " was given; allowed: none, since the plan was made without " + how_to_plan);
}

void check_cache_dtype(const char* field, const sextant::TensorView& view, const KvCacheSpec& cache) {
  const bool fits = is_fp8(cache.dtype) ? size_of(view.dtype) == 1 : view.dtype == cache.dtype;
  if (!fits)
    raise_invalid(std::string(field) + " has dtype " + to_string(view.dtype) + "; allowed: " + to_string(cache.dtype));
}

void check_length(const char* field, const OptionalTensor& tensor, int64_t length, const char* what) {
  if (tensor.has_value() && tensor.value().numel() < length)
    raise_invalid(std::string(field) + " has " + std::to_string(tensor.value().numel()) +
                  " elements; allowed: at least " + std::to_string(length) + " (" + what + ")");
}

int32_t num_scales_from(const OptionalTensor& k_scale, const OptionalTensor& v_scale, const KvCacheSpec& cache) {
  if (cache.has_token_scales()) {
    const int64_t scales = cache.num_blocks * cache.block_size * cache.num_kv_heads;
    check_length("k_scale", k_scale, scales, "num_blocks * block_size * num_kv_heads");
    check_length("v_scale", v_scale, scales, "num_blocks * block_size * num_kv_heads");
    return 1;
  }
  for (const auto& [field, tensor] : {std::pair{"k_scale", &k_scale}, std::pair{"v_scale", &v_scale}}) {
    const int64_t n = tensor->has_value() ? tensor->value().numel() : 1;
    if (n != 1 && n != cache.num_kv_heads)
      raise_invalid(std::string(field) + " has " + std::to_string(n) + " elements; allowed: 1 or " +
                    std::to_string(cache.num_kv_heads) + " (num_kv_heads)");
  }
  if (k_scale.has_value() && v_scale.has_value() && k_scale.value().numel() != v_scale.value().numel())
    raise_invalid("v_scale has " + std::to_string(v_scale.value().numel()) +
                  " elements; allowed: " + std::to_string(k_scale.value().numel()) + ", as k_scale");
  const OptionalTensor& given = k_scale.has_value() ? k_scale : v_scale;
  return given.has_value() ? static_cast<int32_t>(given.value().numel()) : 1;
}

namespace {

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::kF32;
  if constexpr (std::is_same_v<T, int32_t>) return DType::kI32;
  return DType::kI64;
}

template <class T>
sextant::TensorView checked_array(const char* field, const OptionalTensor& tensor, const DeviceInfo& device) {
  const sextant::TensorView view = view_from(field, tensor, device);
  if (!tensor.has_value()) return view;
  if (view.dtype != dtype_of<T>())
    raise_invalid(std::string(field) + " has dtype " + to_string(view.dtype) +
                  "; allowed: " + to_string(dtype_of<T>()));
  if (!view.is_contiguous() && view.num_elements() > 0)
    raise_invalid(std::string(field) + " is not contiguous; allowed: contiguous");
  return view;
}

}  // namespace

template <class T>
T* array_from(const char* field, const OptionalTensor& tensor, const DeviceInfo& device) {
  return checked_array<T>(field, tensor, device).template as<T>();
}

template <class T>
std::span<const T> host_array_from(const char* field, const OptionalTensor& tensor) {
  const sextant::TensorView view = checked_array<T>(field, tensor, DeviceInfo{});
  if (!tensor.has_value()) return {};
  return {view.as<const T>(), static_cast<size_t>(view.num_elements())};
}

template float* array_from(const char*, const OptionalTensor&, const DeviceInfo&);
template int32_t* array_from(const char*, const OptionalTensor&, const DeviceInfo&);
template int64_t* array_from(const char*, const OptionalTensor&, const DeviceInfo&);
template std::span<const int32_t> host_array_from(const char*, const OptionalTensor&);
template std::span<const int64_t> host_array_from(const char*, const OptionalTensor&);

}  // namespace sextant::python
