// Recordings of Hugging Face transformers' eager attention: GQA, sliding window and softcap, sinks, MLA.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "reference/numbers.h"
#include "verify/recorded_case.h"
#include "verify/safetensors.h"

namespace sextant::verify {
namespace {

using Json = nlohmann::json;

// [heads, rows, dim] -> [rows, heads, dim]
HostTensor rows_first(const HostTensor& from) {
  HostTensor to = HostTensor::zeros(from.dtype, {from.shape[1], from.shape[0], from.shape[2]});
  for (int64_t h = 0; h < from.shape[0]; ++h)
    for (int64_t r = 0; r < from.shape[1]; ++r)
      for (int64_t d = 0; d < from.shape[2]; ++d)
        to.set((r * from.shape[0] + h) * from.shape[2] + d, from.get((h * from.shape[1] + r) * from.shape[2] + d));
  return to;
}

CaseData record_case(const SafetensorsFile& file, const Json& record, const std::string& name) {
  const std::string prefix = std::to_string(record.at("index").get<int>()) + ".";
  const HostTensor& q = file.tensors.at(prefix + "q");
  const HostTensor& k = file.tensors.at(prefix + "k");
  const HostTensor& v = file.tensors.at(prefix + "v");
  CaseData data;
  AttentionSpec& spec = data.test.spec;
  spec.num_heads = static_cast<int32_t>(q.shape[0]);
  spec.num_kv_heads = static_cast<int32_t>(k.shape[0]);
  spec.head_dim = static_cast<int32_t>(q.shape[2]);
  spec.head_dim_v = static_cast<int32_t>(v.shape[2]);
  spec.softmax_scale = record.at("scaling").get<float>();
  spec.dtype = q.dtype;
  if (!record.at("sliding_window").is_null()) spec.sliding_window = record.at("sliding_window").get<int32_t>();
  if (!record.at("softcap").is_null()) spec.logits_soft_cap = record.at("softcap").get<float>();
  data.test.name = fmt::format("{} record {}", name, record.at("index").get<int>());
  data.test.cache_dtype = spec.dtype;
  data.test.block_size = 16;
  data.k_scale = data.v_scale = {1.0F};
  data.q = rows_first(q);
  data.keys.push_back(rows_first(k));
  data.values.push_back(rows_first(v));
  data.query_start_loc = {0, static_cast<int32_t>(q.shape[1])};
  data.seq_lens = {static_cast<int32_t>(k.shape[1])};
  data.test.requests = {{data.query_start_loc[1], data.seq_lens[0]}};
  const auto sinks = file.tensors.find(prefix + "sinks");
  if (sinks != file.tensors.end()) {
    spec.has_sinks = true;
    for (int64_t i = 0; i < sinks->second.elements(); ++i)
      data.sinks.push_back(static_cast<float>(sinks->second.get(i)));
  }
  const HostTensor& out = file.tensors.at(prefix + "out");
  double largest = 0;
  for (int64_t i = 0; i < out.elements(); ++i) largest = std::max(largest, std::fabs(out.get(i)));
  const double error = spec.dtype == DType::kF32 ? 0 : reference::epsilon(spec.dtype) * largest;
  expect_recorded(data, error,
                  [&](int64_t t, int32_t h, int32_t d) { return out.get((t * out.shape[1] + h) * out.shape[2] + d); });
  return data;
}

// The same record as multi-head latent attention: latents of all tokens so far, k_pe from the recorded keys.
CaseData latent_case(const SafetensorsFile& file, const CaseData& mha, const Json& record, const Json& config) {
  CaseData data = mha;
  AttentionSpec& spec = data.test.spec;
  spec.mla = {config.at("kv_lora_rank"), config.at("qk_nope_head_dim"), config.at("qk_rope_head_dim"),
              config.at("v_head_dim")};
  data.test.name += " as MLA";
  const std::string weight = fmt::format("layers.{}.self_attn.kv_b_proj.weight", record.at("layer").get<int>());
  data.kv_b_proj = file.tensors.at(weight);
  const int64_t rank = spec.mla.kv_lora_rank, rope = spec.mla.qk_rope_head_dim;
  HostTensor latent = HostTensor::zeros(spec.dtype, {data.seq_lens[0], rank + rope});
  int64_t row = 0;
  for (int i = 0; i <= record.at("index").get<int>(); ++i) {
    const HostTensor& part = file.tensors.at("latent." + std::to_string(i));
    const int64_t rows = part.elements() / rank;
    for (int64_t r = 0; r < rows; ++r, ++row)
      for (int64_t d = 0; d < rank; ++d) latent.set(row * (rank + rope) + d, part.get(r * rank + d));
  }
  const HostTensor& keys = mha.keys[0];  // [rows, heads, 192]
  for (int64_t r = 0; r < data.seq_lens[0]; ++r)
    for (int64_t d = 0; d < rope; ++d)
      latent.set(r * (rank + rope) + rank + d, keys.get(r * keys.shape[1] * keys.shape[2] + keys.shape[2] - rope + d));
  data.keys = {latent};
  return data;
}

Status run_file(Device& device, const std::string& path, const VerifyOptions& options, SuiteResult& suite) {
  auto file = read_safetensors(path);
  if (!file) return file.status();
  const std::string name = std::filesystem::path(path).stem().string();
  try {
    const Json config = Json::parse(file->metadata.at("config"));
    const Json records = Json::parse(file->metadata.at("records"));
    for (const Json& record : records) {
      const CaseData data = record_case(*file, record, name);
      run_recorded(device, options, data, suite);
      if (config.contains("kv_lora_rank"))
        run_recorded(device, options, latent_case(*file, data, record, config), suite);
    }
  } catch (const std::exception& error) {
    return invalid_argument(fmt::format("{}: {}", path, error.what()));
  }
  return Status::ok();
}

}  // namespace

Result<SuiteResult> run_goldens_suite(Device& device, const std::string& folder, const VerifyOptions& options) {
  SuiteResult suite;
  suite.name = "transformers goldens";
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
  if (error) return Status(StatusCode::kNotFound, fmt::format("goldens folder {}: {}", folder, error.message()));
  if (paths.empty())
    return Status(StatusCode::kNotFound, fmt::format("goldens folder {} holds no .safetensors file", folder));
  std::sort(paths.begin(), paths.end());
  for (size_t i = 0; i < paths.size(); ++i) {
    SEXTANT_RETURN_IF_ERROR(run_file(device, paths[i], options, suite));
    if (options.progress) options.progress(static_cast<int>(i + 1), static_cast<int>(paths.size()));
  }
  return suite;
}

}  // namespace sextant::verify
