// Between TVM FFI's values and Sextant's types; errors leave as Python exceptions that carry the status code.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/optional.h>
#include <tvm/ffi/string.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "sextant/backend.h"

namespace sextant::python {

using Json = nlohmann::json;
using Tensor = tvm::ffi::TensorView;
using OptionalTensor = tvm::ffi::Optional<tvm::ffi::TensorView>;

// Throws the exception class that python/sextant/errors.py registered for the code.
[[noreturn]] void raise(const Status& status);
void raise_unless_ok(const Status& status);
template <class T>
T value_or_raise(Result<T> result) {
  if (!result) raise(result.status());
  return std::move(result).value();
}

// Fields of a description; a value of another kind is an invalid argument, not a JSON error.
std::string text_field(const Json& json, const char* field, const std::string& fallback);
int64_t integer_field(const Json& json, const char* field, int64_t fallback);
int32_t int32_field(const Json& json, const char* field, int32_t fallback);

Json parse_json(const tvm::ffi::String& text);
AttentionSpec spec_from(const Json& json);
AttentionSpec spec_fields_from(const Json& json);  // not validated: of latents, whose rule ops know
// `backend` resolves the layout "preferred".
KvCacheSpec cache_fields_from(const Json& json);  // not validated
KvCacheSpec cache_spec_from(const Json& json, const Device& device, const Backend* backend);
PlanOptions options_from(const Json& json);

// A tensor that must live on `device`, of several GPUs on that one. Absent optionals give an absent view.
sextant::TensorView view_from(const char* field, const Tensor& tensor, const DeviceInfo& device);
sextant::TensorView view_from(const char* field, const OptionalTensor& tensor, const DeviceInfo& device);
// One that is written: no two elements at one address.
sextant::TensorView written_view_from(const char* field, const OptionalTensor& tensor, const DeviceInfo& device);
// Scratch memory: one run of bytes, which the library takes from its first address on.
struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};
Workspace workspace_from(const OptionalTensor& tensor, const DeviceInfo& device);
// What the plan does not know of would be ignored in silence.
void refuse_unplanned(const char* field, const OptionalTensor& tensor, bool planned, const char* how_to_plan);
// A contiguous array of T on `device`; null when absent.
template <class T>
T* array_from(const char* field, const OptionalTensor& tensor, const DeviceInfo& device);
// A cache's memory must be of the cache's dtype; fp8 formats may come as each other or as bytes, the spec says which.
void check_cache_dtype(const char* field, const sextant::TensorView& view, const KvCacheSpec& cache);
// Raw pointers cannot say how long they are, so their lengths are checked here, where tensors still have shapes.
void check_length(const char* field, const OptionalTensor& tensor, int64_t length, const char* what);
// How many scales each array holds: one or one a KV head, the same number for K and V where both are given.
int32_t num_scales_from(const OptionalTensor& k_scale, const OptionalTensor& v_scale, const KvCacheSpec& cache);

// A contiguous host array.
template <class T>
std::span<const T> host_array_from(const char* field, const OptionalTensor& tensor);

}  // namespace sextant::python
