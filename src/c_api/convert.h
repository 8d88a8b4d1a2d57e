// Between the C structs and the C++ types.
#pragma once

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
Result<TensorView> to_view(const char* field, const sextant_tensor* tensor);
Result<AttentionSpec> to_spec(const sextant_attention_spec* spec);
// `backend` resolves layout -1; may be null when the layout is given.
Result<KvCacheSpec> to_cache_spec(const sextant_kv_cache_spec* spec, const Device& device, const Backend* backend);
Result<KvCacheView> to_cache_view(const sextant_kv_cache* cache, const Device& device, const Backend* backend);
Result<const Ops*> ops_of(const sextant_device* device, int32_t family);

}  // namespace sextant::c_api
