// What several verbs' arguments mean.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "sextant/backend.h"
#include "sextant/device.h"
#include "sextant/model.h"

namespace sextant::cli {

// Keys in the order that docs/json.md gives.
using Json = nlohmann::ordered_json;

// Exit codes.
inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;   // the work failed: a mismatch, a missing device, a refused combination
inline constexpr int kBadUsage = 2;  // an argument or an input file is wrong

// Prints "sextant: <message>" on stderr and gives the exit code.
int report(const Status& status);
int report_warning(const std::string& message);
void print_json(const Json& value);

inline constexpr char kDeviceNames[] = "auto, cpu, cuda[:index], hip[:index], hip-emulated";
// "auto" (the first accelerator, else the CPU), "cpu", "cuda", "cuda:1", "hip".
Result<std::shared_ptr<Device>> open_device_named(const std::string& text);
std::string device_name(const DeviceInfo& info);  // "cpu", "cuda:1"

// "all" or names. MHA and MLA backends may be mixed; each model takes those of its category.
Result<std::vector<const Backend*>> parse_backends(const std::vector<std::string>& names);

inline constexpr char kFp8Names[] = "auto, fp8, fp8_e4m3fn, fp8_e4m3fnuz, fp8_e5m2";  // of queries
inline constexpr char kKvFormatNames[] =
    "auto, fp8, fp8_e4m3fn, fp8_e4m3fnuz, fp8_e5m2, int8_per_token_head, fp8_per_token_head, ...";
// Options that shape the attention of a model.
struct ModelArguments {
  std::string dtype = "auto";           // of q, k, v; auto: the model's
  std::string query_dtype = "auto";     // auto: dtype
  std::string kv_cache_dtype = "auto";  // auto: dtype
  int32_t block_size = 16;
};
struct LoadedModel {
  ModelShape shape;
  std::vector<LayerKind> kinds;        // of the layers that are served here
  std::vector<UnservedKind> unserved;  // and of the others
  KvFormat kv_format;
};
Result<LoadedModel> load_model_with(const std::string& name, const ModelArguments& arguments, const DeviceInfo& device);

// "32 heads, 8 KV heads, 128 wide, window 128, sinks".
std::string describe(const AttentionSpec& spec);
Json to_json(const AttentionSpec& spec);
Json to_json(const std::vector<UnservedKind>& kinds, size_t num_layers);
// "12 layers", "6 decoder layers".
std::string layer_count(const std::vector<int32_t>& layers, const std::string& part);

}  // namespace sextant::cli
