// Between the C structs and the C++ types.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "sextant/backend.h"
#include "sextant/sextant.h"

struct sextant_device {
  std::shared_ptr<sextant::Device> device;
};

namespace sextant::c_api {

const char* last_error_message();
// Remembers the message for sextant_last_error and gives the code.
sextant_status report(const Status& status);
// Runs `body` (returning Status) and turns anything thrown below, such as std::bad_alloc, into a status.
template <class Body>
sextant_status guarded(Body&& body) {
  try {
    return report(body());
  } catch (const std::bad_alloc&) {
    return report({StatusCode::kResourceExhausted, "out of memory"});
  } catch (const std::exception& error) {
    return report({StatusCode::kInternal, error.what()});
  }
}

Status check_argument(const char* field, const void* pointer);

Status check_size(const char* name, size_t got, size_t oldest);
// A caller's struct in this header's size: what an older header did not have is zero, which means the default.
// `oldest`: the size of the first header's.
template <class Struct>
Result<Struct> read_struct(const char* name, const Struct* from, size_t oldest) {
  SEXTANT_RETURN_IF_ERROR(check_argument(name, from));
  SEXTANT_RETURN_IF_ERROR(check_size(name, from->size, oldest));
  Struct own{};
  std::memcpy(&own, from, std::min(from->size, sizeof(Struct)));
  return own;
}
// The same where a struct lies inside another by value: its size moves what follows.
Result<sextant_kv_cache> read_cache(const char* name, const sextant_kv_cache* from);
Result<sextant_run_tensors> read_tensors(const sextant_run_tensors* from);

Result<TensorView> to_view(const char* field, const sextant_tensor* tensor);
Result<AttentionSpec> to_spec(const sextant_attention_spec* spec);
Result<KvCacheSpec> read_cache_spec(const sextant_kv_cache_spec* spec);  // not validated
// Validated. `backend` resolves the preferred layout; may be null when the layout is given.
Result<KvCacheSpec> to_cache_spec(const sextant_kv_cache_spec* spec, const Device& device, const Backend* backend);
Result<KvCacheView> to_cache_view(const sextant_kv_cache* cache, const Device& device, const Backend* backend);
Result<const Ops*> ops_of(const sextant_device* device, int32_t family);

}  // namespace sextant::c_api
