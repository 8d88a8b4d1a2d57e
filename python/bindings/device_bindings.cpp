// Devices, backends, selection.
#include <tvm/ffi/function.h>

#include "handles.h"
#include "sextant/selector.h"

namespace sextant::python {

std::shared_ptr<Device> device_of(const std::string& kind, int64_t index) {
  static std::mutex mutex;
  static std::map<std::pair<std::string, int64_t>, std::shared_ptr<Device>> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Device>& device = devices[{kind, index}];
  if (!device) device = value_or_raise(open_device(value_or_raise(parse_device_kind(kind)), static_cast<int>(index)));
  return device;
}

namespace {

using tvm::ffi::String;

Json info_json(const DeviceInfo& info) {
  return {{"kind", to_string(info.kind)},
          {"index", info.index},
          {"name", info.name},
          {"architecture", info.architecture},
          {"compute_units", info.compute_units},
          {"memory_bytes", info.memory_bytes},
          {"has_tuned_kernels", info.has_tuned_kernels}};
}

String devices() {
  Json list = Json::array();
  for (const DeviceReport& report : list_devices()) {
    Json entry = {{"kind", to_string(report.kind)},
                  {"built", report.built},
                  {"available", report.available},
                  {"reason", report.reason}};
    entry["devices"] = Json::array();
    for (const DeviceInfo& info : report.devices) entry["devices"].push_back(info_json(info));
    list.push_back(entry);
  }
  return list.dump();
}

// {device, device_index}
void synchronize(const String& description, int64_t stream) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  raise_unless_ok(device->synchronize({reinterpret_cast<void*>(stream)}));
}

String backends() {
  Json list = Json::array();
  for (const Backend* backend : all_backends())
    list.push_back({{"name", backend->info().name},
                    {"category", to_string(backend->info().category)},
                    {"family", to_string(backend->info().family)},
                    {"strategy", backend->info().strategy},
                    {"enable", backend->info().enable()}});
  return list.dump();
}

// {device, device_index, spec, cache, backend?} -> {chosen, source, candidates, warnings}
String select(const String& description) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  SelectRequest request;
  request.spec = spec_from(json.at("spec"));
  Json cache = json.at("cache");
  if (text_field(cache, "layout", "preferred") == "preferred")
    cache["layout"] = request.spec.mla.enabled() ? "latent" : "NHD";
  request.cache = cache_spec_from(cache, *device, nullptr);
  if (json.contains("backend") && !json["backend"].is_null()) request.backend = text_field(json, "backend", "");
  const Selection selection = value_or_raise(select_backend(*device, request));
  Json answer = {
      {"chosen", selection.backend->info().name}, {"source", selection.source}, {"warnings", selection.warnings}};
  for (const Candidate& c : selection.candidates)
    answer["candidates"].push_back({{"name", c.name}, {"chosen", c.chosen}, {"reasons", c.reasons}});
  return answer.dump();
}

// {device, backend, cache} -> {layout, k_shape, v_shape}
String cache_shape(const String& description) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  const Backend* backend =
      json.contains("backend") ? value_or_raise(find_backend(text_field(json, "backend", ""))) : nullptr;
  const KvCacheSpec c = cache_spec_from(json.at("cache"), *device, backend);
  const int64_t x = 16 / static_cast<int64_t>(size_of(c.dtype));
  const auto tiles = [](int64_t n, int64_t tile) { return (n + tile - 1) / tile; };
  std::vector<int64_t> k, v;
  const int64_t nb = c.num_blocks, bs = c.block_size, h = c.num_kv_heads, d = c.head_dim, dv = c.head_dim_v;
  switch (c.layout) {
    case KvLayout::kHND:
      k = {nb, h, bs, d}, v = {nb, h, bs, dv};
      break;
    case KvLayout::kSplitK:
      k = {nb, h, tiles(d, x), bs, x}, v = {nb, h, dv, bs};
      break;
    case KvLayout::kShuffled:
      k = {nb, h, tiles(d, x), bs, x}, v = {nb, h, tiles(bs, x), dv, x};
      break;
    case KvLayout::kPacked:
      k = {nb, h, tiles(bs, 16), d / 2, 16, 2}, v = {nb, h, tiles(bs, 2), dv, 2};
      break;
    case KvLayout::kLatent:
      k = {nb, bs, d};
      break;
    default:
      k = {nb, bs, h, d}, v = {nb, bs, h, dv};
  }
  return Json({{"layout", to_string(c.layout)}, {"k_shape", k}, {"v_shape", v}}).dump();
}

}  // namespace
}  // namespace sextant::python

TVM_FFI_DLL_EXPORT_TYPED_FUNC(devices, sextant::python::devices);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(synchronize, sextant::python::synchronize);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(backends, sextant::python::backends);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(select, sextant::python::select);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(cache_shape, sextant::python::cache_shape);
