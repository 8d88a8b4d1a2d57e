// Reads models, batches and backends from the command line; every refusal names what is allowed.
#include "arguments.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <type_traits>

#include "types/fields.h"

namespace sextant::cli {

int report(const Status& status) {
  fmt::print(stderr, "sextant: {}\n", status.message());
  return status.code() == StatusCode::kInvalidArgument || status.code() == StatusCode::kNotFound ? kBadUsage : kFailure;
}

int report_warning(const std::string& message) {
  fmt::print(stderr, "sextant: warning: {}\n", message);
  return kSuccess;
}

void print_json(const Json& value) { fmt::print("{}\n", value.dump(2, ' ', false, Json::error_handler_t::replace)); }

std::string device_name(const DeviceInfo& info) {
  const bool one_of_many = info.kind == DeviceKind::kCuda || info.kind == DeviceKind::kHip;
  return one_of_many ? fmt::format("{}:{}", to_string(info.kind), info.index) : to_string(info.kind);
}

Result<std::shared_ptr<Device>> open_device_named(const std::string& text) {
  if (text == "auto") {
    for (const DeviceReport& device : list_devices())
      if (device.available && device.kind != DeviceKind::kCpu && device.kind != DeviceKind::kHipEmulated)
        return open_device(device.kind);
    return open_device(DeviceKind::kCpu);
  }
  const size_t colon = text.find(':');
  auto kind = parse_device_kind(text.substr(0, colon));
  if (!kind) return invalid_argument(fmt::format("--device is \"{}\"; allowed: {}", text, kDeviceNames));
  int index = 0;
  if (colon != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, index);
    if (error != std::errc() || stop != end || index < 0)
      return invalid_argument(fmt::format("--device is \"{}\"; allowed after the colon: a device index from 0", text));
  }
  return open_device(*kind, index);
}

Result<std::vector<const Backend*>> parse_backends(const std::vector<std::string>& names) {
  std::vector<const Backend*> backends;
  for (const std::string& name : names) {
    if (name == "all") {
      const auto all = all_backends();
      return std::vector<const Backend*>(all.begin(), all.end());
    }
    auto backend = find_backend(name);
    if (!backend) return backend.status();
    backends.push_back(*backend);
  }
  return backends;
}

namespace {

// "fp8" is what the device has; without a name it is the model's own type.
Result<KvFormat> parse_kv_format_argument(const std::string& name, DType model_dtype, const DeviceInfo& device) {
  if (name == "auto") return KvFormat(model_dtype);
  std::string full = name;
  if (name == "fp8" || name.starts_with("fp8_per")) full = to_string(device.native_fp8) + name.substr(3);
  auto format = parse_kv_format(full);
  if (format && (is_quantized(format->dtype) || format->dtype == model_dtype)) return format;
  return invalid_argument(
      fmt::format("--kv-cache-dtype is \"{}\"; allowed: {}, {}", name, to_string(model_dtype), kKvFormatNames));
}

}  // namespace

Result<LoadedModel> load_model_with(const std::string& name, const ModelArguments& arguments,
                                    const DeviceInfo& device) {
  if (arguments.block_size < 1)
    return invalid_argument(fmt::format("--block-size is {}; allowed: >= 1", arguments.block_size));
  auto shape = load_model(name);
  if (!shape) return shape.status();
  LoadedModel model;
  model.shape = std::move(*shape);
  if (arguments.dtype != "auto") {
    auto dtype = parse_dtype(arguments.dtype);
    if (!dtype || (*dtype != DType::kF32 && *dtype != DType::kF16 && *dtype != DType::kBF16))
      return invalid_argument(fmt::format("--dtype is \"{}\"; allowed: auto, fp32, fp16, bf16", arguments.dtype));
    for (ModelLayer& layer : model.shape.layers) layer.attention.dtype = *dtype;
  }
  if (arguments.query_dtype != "auto") {
    auto dtype = arguments.query_dtype == "fp8" ? Result<DType>(device.native_fp8) : parse_dtype(arguments.query_dtype);
    if (!dtype || !is_fp8(*dtype))
      return invalid_argument(fmt::format("--query-dtype is \"{}\"; allowed: {}", arguments.query_dtype, kFp8Names));
    for (ModelLayer& layer : model.shape.layers) layer.attention.query_dtype = *dtype;
  }
  auto format = parse_kv_format_argument(arguments.kv_cache_dtype, model.shape.layers.front().attention.dtype, device);
  if (!format) return format.status();
  model.kv_format = *format;
  model.kinds = layer_kinds(model.shape);
  model.unserved = unserved_kinds(model.shape);
  return model;
}

std::string describe(const AttentionSpec& spec) {
  std::string text =
      spec.mla.enabled()
          ? fmt::format("MLA, {} heads, latent {}+{}, {}/{} wide", spec.num_heads, spec.mla.kv_lora_rank,
                        spec.mla.qk_rope_head_dim, spec.head_dim, spec.value_head_dim())
          : fmt::format("{} heads, {} KV heads, {} wide", spec.num_heads, spec.num_kv_heads, spec.head_dim);
  if (!spec.mla.enabled() && spec.value_head_dim() != spec.head_dim)
    text += fmt::format(" (values {})", spec.value_head_dim());
  const AttentionSpec usual;
  for_each_field<AttentionSpec>([&](const auto& field) {
    const auto& value = field.of(spec);
    if (field.word == nullptr || value == field.of(usual)) return;
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, bool>)
      text += fmt::format(", {}{}", value ? "" : "not ", field.word);
    else
      text += fmt::format(", {} {}", field.word, json_value(value));
  });
  text += fmt::format(", {}", to_string(spec.dtype));
  return spec.has_fp8_queries() ? text + ", queries " + to_string(spec.query_type()) : text;
}

Json to_json(const AttentionSpec& spec) {
  Json json = fields_to_json<Json>(spec);
  json["head_dim_v"] = spec.value_head_dim();
  json["query_dtype"] = to_string(spec.query_type());
  json["sinks"] = spec.has_sinks;  // the names of version 0.1
  json["alibi"] = spec.has_alibi;
  if (spec.mla.enabled())
    json["mla"] = {{"kv_lora_rank", spec.mla.kv_lora_rank},
                   {"qk_nope_head_dim", spec.mla.qk_nope_head_dim},
                   {"qk_rope_head_dim", spec.mla.qk_rope_head_dim},
                   {"v_head_dim", spec.mla.v_head_dim}};
  return json;
}

std::string layer_count(const std::vector<int32_t>& layers, const std::string& part) {
  return fmt::format("{} {}layer{}", layers.size(), part.empty() ? "" : part + " ", layers.size() == 1 ? "" : "s");
}

Json to_json(const std::vector<UnservedKind>& kinds, size_t num_layers) {
  Json array = Json::array();
  for (const UnservedKind& kind : kinds) {
    Json json = {{"what", kind.what},
                 {"count", kind.layers.size()},
                 {"layers", kind.layers},
                 {"attends", kind.attends},
                 {"text", describe(kind, num_layers)}};
    json["attention"] = kind.attends ? to_json(kind.spec) : Json(nullptr);
    array.push_back(std::move(json));
  }
  return array;
}

}  // namespace sextant::cli
