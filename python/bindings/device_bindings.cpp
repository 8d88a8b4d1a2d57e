// Devices, backends, selection.
#include <tvm/ffi/function.h>

#include "handles.h"
#include "sextant/executor.h"
#include "sextant/log.h"
#include "sextant/selector.h"
#include "types/fields.h"

namespace sextant::python {

namespace {

struct OpenDevices {
  std::mutex mutex;
  std::map<std::pair<std::string, int64_t>, std::shared_ptr<Device>> devices;
  int threads = 0;  // of the CPU; 0: all usable
};

OpenDevices& open_devices() {
  static OpenDevices open;
  return open;
}

}  // namespace

std::shared_ptr<Device> device_of(const std::string& kind, int64_t index) {
  OpenDevices& open = open_devices();
  const std::lock_guard<std::mutex> lock(open.mutex);
  std::shared_ptr<Device>& device = open.devices[{kind, index}];
  if (!device && kind == "cpu" && index == 0)
    device = value_or_raise(make_cpu_device({.executor = make_thread_pool(open.threads), .isa = {}}));
  if (!device) device = value_or_raise(open_device(value_or_raise(parse_device_kind(kind)), static_cast<int>(index)));
  return device;
}

namespace {

// Each plan and run as a line of JSON; null: off.
void set_log_sink(tvm::ffi::Optional<tvm::ffi::Function> sink) {
  if (!sink.has_value()) return set_log({});
  set_log([call = *sink](const LogEvent& event) { call(tvm::ffi::String(to_json(event))); });
}

// Plans that were made before keep their threads.
void set_num_threads(int64_t threads) {
  if (threads < 1 || threads > 4096)
    raise(invalid_argument("num_threads is " + std::to_string(threads) + "; allowed: 1..4096"));
  OpenDevices& open = open_devices();
  const std::lock_guard<std::mutex> lock(open.mutex);
  if (open.threads == threads) return;
  open.threads = static_cast<int>(threads);
  open.devices.erase({"cpu", 0});
}

int64_t get_num_threads() {
  OpenDevices& open = open_devices();
  const std::lock_guard<std::mutex> lock(open.mutex);
  return open.threads > 0 ? open.threads : usable_threads();
}

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

// The fields that descriptions have and their defaults, for the test that Python's signatures are the same.
String fields() {
  return Json({{"spec", fields_to_json<Json>(AttentionSpec{})},
               {"cache", fields_to_json<Json>(KvCacheSpec{})},
               {"options", fields_to_json<Json>(PlanOptions{})}})
      .dump();
}

// {device, device_index, spec, cache, backend?} -> {chosen, source, candidates, warnings}
String select(const String& description) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  SelectRequest request;
  request.spec = spec_from(json.at("spec"));
  request.cache = cache_fields_from(json.at("cache"));
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

TVM_FFI_DLL_EXPORT_TYPED_FUNC(fields, sextant::python::fields);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(devices, sextant::python::devices);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(set_log, sextant::python::set_log_sink);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(set_num_threads, sextant::python::set_num_threads);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(get_num_threads, sextant::python::get_num_threads);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(synchronize, sextant::python::synchronize);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(backends, sextant::python::backends);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(select, sextant::python::select);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(cache_shape, sextant::python::cache_shape);
