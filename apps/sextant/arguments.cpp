#include "arguments.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>

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
    for (AttentionSpec& spec : model.shape.layers) spec.dtype = *dtype;
  }
  if (arguments.query_dtype != "auto") {
    auto dtype = arguments.query_dtype == "fp8" ? Result<DType>(device.native_fp8) : parse_dtype(arguments.query_dtype);
    if (!dtype || !is_fp8(*dtype))
      return invalid_argument(fmt::format("--query-dtype is \"{}\"; allowed: {}", arguments.query_dtype, kFp8Names));
    for (AttentionSpec& spec : model.shape.layers) spec.query_dtype = *dtype;
  }
  model.cache_dtype = model.shape.layers.front().dtype;
  if (arguments.kv_cache_dtype == "fp8") {
    model.cache_dtype = device.native_fp8;
  } else if (arguments.kv_cache_dtype != "auto") {
    auto dtype = parse_dtype(arguments.kv_cache_dtype);
    if (!dtype || (!is_fp8(*dtype) && *dtype != model.cache_dtype))
      return invalid_argument(
          fmt::format("--kv-cache-dtype is \"{}\"; allowed: auto, {}, fp8, fp8_e4m3fn, fp8_e4m3fnuz, fp8_e5m2",
                      arguments.kv_cache_dtype, to_string(model.cache_dtype)));
    model.cache_dtype = *dtype;
  }
  model.kinds = layer_kinds(model.shape);
  return model;
}

std::string describe(const AttentionSpec& spec) {
  std::string text =
      spec.mla.enabled()
          ? fmt::format("MLA, {} heads, latent {}+{}, {}/{} wide", spec.num_heads, spec.mla.kv_lora_rank,
                        spec.mla.qk_rope_head_dim, spec.head_dim, spec.value_head_dim())
          : fmt::format("{} heads, {} KV heads, {} wide", spec.num_heads, spec.num_kv_heads, spec.head_dim);
  if (spec.sliding_window > 0) text += fmt::format(", window {}", spec.sliding_window);
  if (spec.logits_soft_cap > 0) text += fmt::format(", softcap {}", spec.logits_soft_cap);
  if (spec.has_sinks) text += ", sinks";
  if (spec.has_alibi) text += ", ALiBi";
  text += fmt::format(", {}", to_string(spec.dtype));
  return spec.has_fp8_queries() ? text + ", queries " + to_string(spec.query_type()) : text;
}

Json to_json(const AttentionSpec& spec) {
  Json json = {{"num_heads", spec.num_heads},
               {"num_kv_heads", spec.num_kv_heads},
               {"head_dim", spec.head_dim},
               {"head_dim_v", spec.value_head_dim()},
               {"softmax_scale", spec.softmax_scale},
               {"sliding_window", spec.sliding_window},
               {"logits_soft_cap", spec.logits_soft_cap},
               {"sinks", spec.has_sinks},
               {"alibi", spec.has_alibi},
               {"dtype", to_string(spec.dtype)},
               {"query_dtype", to_string(spec.query_type())}};
  if (spec.mla.enabled())
    json["mla"] = {{"kv_lora_rank", spec.mla.kv_lora_rank},
                   {"qk_nope_head_dim", spec.mla.qk_nope_head_dim},
                   {"qk_rope_head_dim", spec.mla.qk_rope_head_dim},
                   {"v_head_dim", spec.mla.v_head_dim}};
  return json;
}

std::string layer_ranges(const std::vector<int32_t>& layers) {
  std::string text;
  for (size_t begin = 0, end = 0; begin < layers.size(); begin = end) {
    for (end = begin + 1; end < layers.size() && layers[end] == layers[end - 1] + 1; ++end) {
    }
    if (!text.empty()) text += ",";
    text += end - begin == 1 ? fmt::format("{}", layers[begin]) : fmt::format("{}-{}", layers[begin], layers[end - 1]);
  }
  return text;
}

}  // namespace sextant::cli
