// Devices, backends and selection.
#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "c_api/convert.h"
#include "sextant/selector.h"

using namespace sextant;         // NOLINT(google-build-using-namespace): this file only glues
using namespace sextant::c_api;  // NOLINT(google-build-using-namespace)

namespace {

std::string explain(const Selection& selection) {
  nlohmann::json json;
  json["chosen"] = selection.backend->info().name;
  json["source"] = selection.source;
  json["warnings"] = selection.warnings;
  for (const Candidate& c : selection.candidates)
    json["candidates"].push_back({{"name", c.name}, {"chosen", c.chosen}, {"reasons", c.reasons}});
  return json.dump();
}

char* copy_string(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

}  // namespace

#define SEXTANT_TEXT(x) #x
#define SEXTANT_VERSION_TEXT(major, minor, patch) SEXTANT_TEXT(major) "." SEXTANT_TEXT(minor) "." SEXTANT_TEXT(patch)
const char* sextant_version(void) {
  return SEXTANT_VERSION_TEXT(SEXTANT_VERSION_MAJOR, SEXTANT_VERSION_MINOR, SEXTANT_VERSION_PATCH);
}

sextant_status sextant_device_open(int32_t kind, int32_t index, sextant_device** device) {
  return guarded([&]() -> Status {
    SEXTANT_RETURN_IF_ERROR(check_argument("device", device));
    if (kind < 0 || kind > SEXTANT_HIP_EMULATED)
      return invalid_argument(fmt::format("kind is {}; allowed: 0..3 (sextant_device_kind)", kind));
    auto opened = open_device(static_cast<DeviceKind>(kind), index);
    if (!opened) return opened.status();
    *device = new sextant_device{std::move(opened).value()};
    return Status::ok();
  });
}

void sextant_device_close(sextant_device* device) { delete device; }
const char* sextant_device_name(const sextant_device* device) {
  return device ? device->device->info().name.c_str() : "";
}
const char* sextant_device_architecture(const sextant_device* device) {
  return device ? device->device->info().architecture.c_str() : "";
}

int32_t sextant_backend_count(void) { return static_cast<int32_t>(all_backends().size()); }

const char* sextant_backend_name(int32_t index) {
  const auto backends = all_backends();
  if (index < 0 || index >= static_cast<int32_t>(backends.size())) return nullptr;
  return backends[static_cast<size_t>(index)]->info().name.c_str();
}

sextant_status sextant_select(const sextant_device* device, const sextant_attention_spec* spec,
                              const sextant_kv_cache_spec* cache, const char* name, const char** chosen,
                              char** explanation) {
  return guarded([&]() -> Status {
    SEXTANT_RETURN_IF_ERROR(check_argument("device", device));
    SEXTANT_RETURN_IF_ERROR(check_argument("chosen", chosen));
    SelectRequest request;
    auto attention = to_spec(spec);
    if (!attention) return attention.status();
    auto cache_spec = read_cache_spec(cache);
    if (!cache_spec) return cache_spec.status();
    request.spec = *attention;
    request.cache = *cache_spec;
    if (name != nullptr) request.backend = name;
    auto selection = select_backend(*device->device, request);
    if (!selection) return selection.status();
    *chosen = selection->backend->info().name.c_str();
    if (explanation != nullptr) *explanation = copy_string(explain(*selection));
    return Status::ok();
  });
}

void sextant_free_string(char* text) { std::free(text); }

sextant_status sextant_kv_cache_layout(const sextant_device* device, const char* backend,
                                       const sextant_kv_cache_spec* spec, int32_t* layout, int64_t* k_elements_out,
                                       int64_t* v_elements_out) {
  return guarded([&]() -> Status {
    SEXTANT_RETURN_IF_ERROR(check_argument("device", device));
    const Backend* found = nullptr;
    if (backend != nullptr) {
      auto result = find_backend(backend);
      if (!result) return result.status();
      found = *result;
    }
    auto cache = to_cache_spec(spec, *device->device, found);
    if (!cache) return cache.status();
    if (layout != nullptr) *layout = static_cast<int32_t>(cache->layout);
    if (k_elements_out != nullptr) *k_elements_out = k_elements(*cache);
    if (v_elements_out != nullptr) *v_elements_out = v_elements(*cache);
    return Status::ok();
  });
}
