// The node tests of ONNX's Attention operator (opset 23 and 24), each run through every MHA backend.
//
// Not all of the operator is a paged-cache backend's business, so some cases are translated:
//  - an additive bias (or mask) enters through extra dimensions: query i of head g has a one in dimension (g, i), and
//  key j
//    holds bias[g, i, j] / scale there. Scores come out as scale * q.k + bias.
//  - head sizes that are no multiple of 8 are padded with zeros.
//  - causal cases without a past are top-left aligned: only the first q_len keys are passed on.
// Cases that remain out of reach are skipped with their reason.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "reference/numbers.h"
#include "verify/protobuf_tensor.h"
#include "verify/recorded_case.h"

namespace sextant::verify {
namespace {

using Json = nlohmann::json;

// A score that exp turns into 0 and that fp16 still holds after the division by the scale.
constexpr double kMasked = -8000;

struct NodeCase {
  std::string name;
  Json attributes;
  std::map<std::string, OnnxTensor> inputs;
  OnnxTensor y;
};

// [B, H, S, D] whether the file is 4-D or 3-D ([B, S, H * D]).
class HeadTensor {
 public:
  HeadTensor(const OnnxTensor& tensor, int64_t heads)
      : tensor_(tensor), four_d_(tensor.dims.size() == 4), heads_(four_d_ ? tensor.dim(1) : heads) {}
  int64_t batch() const { return tensor_.dim(0); }
  int64_t heads() const { return heads_; }
  int64_t rows() const { return four_d_ ? tensor_.dim(2) : tensor_.dim(1); }
  int64_t dim() const { return four_d_ ? tensor_.dim(3) : tensor_.dim(2) / heads_; }
  double at(int64_t b, int64_t h, int64_t s, int64_t d) const {
    const int64_t i =
        four_d_ ? ((b * heads_ + h) * rows() + s) * dim() + d : ((b * rows() + s) * heads_ + h) * dim() + d;
    return tensor_.values[static_cast<size_t>(i)];
  }

 private:
  const OnnxTensor& tensor_;
  bool four_d_;
  int64_t heads_;
};

// The additive bias, broadcast over leading dimensions; bool masks become 0 / masked; keys past its width are masked.
double bias_at(const OnnxTensor& mask, int64_t b, int64_t h, int64_t i, int64_t j) {
  const size_t rank = mask.dims.size();
  const int64_t keys = mask.dims[rank - 1], queries = mask.dims[rank - 2];
  if (j >= keys) return kMasked;
  const int64_t heads = rank >= 3 ? mask.dims[rank - 3] : 1, batch = rank >= 4 ? mask.dims[0] : 1;
  const int64_t index = (((batch == 1 ? 0 : b) * heads + (heads == 1 ? 0 : h)) * queries + i) * keys + j;
  const double value = mask.values[static_cast<size_t>(index)];
  if (mask.is_bool) return value != 0 ? 0 : kMasked;
  return std::max(value, kMasked);
}

struct Translated {
  CaseData data;
  std::string skip;  // reason, when the case is out of reach
};

class Translator {
 public:
  explicit Translator(const NodeCase& node)
      : node_(node),
        q_(node.inputs.at("Q"), node.attributes.value("q_num_heads", 0)),
        k_(node.inputs.at("K"), node.attributes.value("kv_num_heads", 0)),
        v_(node.inputs.at("V"), node.attributes.value("kv_num_heads", 0)),
        y_(node.y, node.attributes.value("q_num_heads", 0)) {}

  Translated translate() {
    Translated result;
    fill_spec(result.data);
    if (has("attn_mask") && result.data.test.spec.logits_soft_cap > 0) {
      result.skip = "a bias after a softcap is not part of any serving backend";
      return result;
    }
    for (int64_t b = 0; b < q_.batch(); ++b) {
      fill_request(result.data, b);
      if (has("attn_mask") && any_row_fully_masked(result.data, b)) {
        result.skip = "a mask that hides every key of a row cannot be expressed through scores";
        return result;
      }
    }
    fill_queries(result.data);
    const double error = node_.inputs.at("Q").is_fp16 ? 2 * reference::epsilon(DType::kF16) : 0;
    expect_recorded(result.data, error, [&](int64_t t, int32_t h, int32_t d) {
      const auto [b, i] = row_of_token_[static_cast<size_t>(t)];
      return d < y_.dim() ? y_.at(b, h, i, d) : 0.0;
    });
    return result;
  }

 private:
  bool has(const std::string& input) const { return node_.inputs.count(input) > 0; }
  int64_t group() const { return q_.heads() / k_.heads(); }
  int64_t past() const { return has("past_key") ? node_.inputs.at("past_key").dim(2) : 0; }
  int64_t bias_dims() const { return has("attn_mask") ? group() * q_.rows() : 0; }

  void fill_spec(CaseData& data) const {
    AttentionSpec& spec = data.test.spec;
    spec.num_heads = static_cast<int32_t>(q_.heads());
    spec.num_kv_heads = static_cast<int32_t>(k_.heads());
    spec.head_dim = padded_head_dim(q_.dim() + bias_dims());
    spec.head_dim_v = padded_head_dim(v_.dim());
    spec.softmax_scale =
        node_.attributes.value("scale", static_cast<float>(1.0 / std::sqrt(static_cast<double>(q_.dim()))));
    spec.logits_soft_cap = node_.attributes.value("softcap", 0.0F);
    spec.causal = node_.attributes.value("is_causal", 0) != 0;
    spec.dtype = node_.inputs.at("Q").is_fp16 ? DType::kF16 : DType::kF32;
    data.test.name = node_.name;
    data.test.cache_dtype = spec.dtype;
    data.test.block_size = 4;
    data.k_scale = data.v_scale = {1.0F};
    data.query_start_loc = {0};
  }

  // Query 0 sits at this position among the keys.
  int64_t query_offset(int64_t b) const {
    if (has("nonpad_kv_seqlen"))
      return static_cast<int64_t>(node_.inputs.at("nonpad_kv_seqlen").values[static_cast<size_t>(b)]) - q_.rows();
    return past();
  }

  int64_t key_count(const AttentionSpec& spec, int64_t b) const {
    if (spec.causal) return query_offset(b) + q_.rows();
    if (has("nonpad_kv_seqlen"))
      return static_cast<int64_t>(node_.inputs.at("nonpad_kv_seqlen").values[static_cast<size_t>(b)]);
    return past() + k_.rows();
  }

  // Queries before key 0 see nothing: ONNX wants zeros there, and no serving batch holds them.
  int64_t first_query(const AttentionSpec& spec, int64_t b) const {
    return spec.causal ? std::max<int64_t>(0, -query_offset(b)) : 0;
  }

  void fill_request(CaseData& data, int64_t b) {
    const AttentionSpec& spec = data.test.spec;
    const int64_t keys = key_count(spec, b);
    HostTensor k = HostTensor::zeros(spec.dtype, {keys, spec.num_kv_heads, spec.head_dim});
    HostTensor v = HostTensor::zeros(spec.dtype, {keys, spec.num_kv_heads, spec.head_dim_v});
    for (int64_t j = 0; j < keys; ++j)
      for (int64_t h = 0; h < k_.heads(); ++h) {
        const int64_t at = j * k_.heads() + h;
        for (int64_t d = 0; d < k_.dim(); ++d) k.set(at * spec.head_dim + d, key_at("past_key", k_, b, h, j, d));
        for (int64_t d = 0; d < v_.dim(); ++d) v.set(at * spec.head_dim_v + d, key_at("past_value", v_, b, h, j, d));
        for (int64_t e = 0; e < bias_dims(); ++e)
          k.set(at * spec.head_dim + k_.dim() + e,
                bias_at(node_.inputs.at("attn_mask"), b, h * group() + e / q_.rows(), e % q_.rows(), j) /
                    static_cast<double>(spec.softmax_scale));
      }
    // A request has at most as many queries as keys. Queries that see all keys are independent of each other, so a
    // non-causal case with more of them becomes several requests.
    const int64_t first = first_query(spec, b);
    for (int64_t from = first; from < q_.rows(); from += std::max<int64_t>(1, keys)) {
      const int64_t queries = std::min(q_.rows() - from, std::max<int64_t>(1, keys));
      data.keys.push_back(k);
      data.values.push_back(v);
      for (int64_t i = from; i < from + queries; ++i) row_of_token_.emplace_back(b, i);
      data.query_start_loc.push_back(data.query_start_loc.back() + static_cast<int32_t>(queries));
      data.seq_lens.push_back(static_cast<int32_t>(keys));
      data.test.requests.push_back({static_cast<int32_t>(queries), static_cast<int32_t>(keys)});
    }
  }

  double key_at(const char* past_name, const HeadTensor& fresh, int64_t b, int64_t h, int64_t j, int64_t d) const {
    if (j >= past()) return fresh.at(b, h, j - past(), d);
    return HeadTensor(node_.inputs.at(past_name), 0).at(b, h, j, d);
  }

  bool any_row_fully_masked(const CaseData& data, int64_t b) const {
    for (int64_t h = 0; h < q_.heads(); ++h)
      for (int64_t i = first_query(data.test.spec, b); i < q_.rows(); ++i) {
        bool visible = false;
        const int64_t last = data.test.spec.causal ? query_offset(b) + i : key_count(data.test.spec, b) - 1;
        for (int64_t j = 0; j <= last; ++j)
          visible = visible || bias_at(node_.inputs.at("attn_mask"), b, h, i, j) > kMasked;
        if (!visible) return true;
      }
    return false;
  }

  void fill_queries(CaseData& data) const {
    const AttentionSpec& spec = data.test.spec;
    data.q = HostTensor::zeros(spec.dtype, {data.query_start_loc.back(), spec.num_heads, spec.head_dim});
    for (size_t t = 0; t < row_of_token_.size(); ++t)
      for (int64_t h = 0; h < q_.heads(); ++h) {
        const auto [b, i] = row_of_token_[t];
        const int64_t at = (static_cast<int64_t>(t) * q_.heads() + h) * spec.head_dim;
        for (int64_t d = 0; d < q_.dim(); ++d) data.q.set(at + d, q_.at(b, h, i, d));
        if (bias_dims() > 0) data.q.set(at + q_.dim() + h % group() * q_.rows() + i, 1.0);
      }
  }

  const NodeCase& node_;
  HeadTensor q_, k_, v_, y_;
  std::vector<std::pair<int64_t, int64_t>> row_of_token_;
};

Result<NodeCase> load_case(const std::string& folder, const Json& entry) {
  NodeCase node;
  node.name = entry.at("name").get<std::string>();
  node.attributes = entry.at("attrs");
  const std::string data = folder + "/node/" + node.name + "/test_data_set_0/";
  for (const auto& [name, input] : entry.at("inputs").items()) {
    auto tensor = read_onnx_tensor(data + input.at("file").get<std::string>());
    if (!tensor) return tensor.status();
    node.inputs[name] = std::move(tensor).value();
  }
  auto y = read_onnx_tensor(data + entry.at("outputs").at("Y").at("file").get<std::string>());
  if (!y) return y.status();
  node.y = std::move(y).value();
  return node;
}

}  // namespace

Result<SuiteResult> run_onnx_suite(Device& device, const std::string& folder, const VerifyOptions& options) {
  std::ifstream file(folder + "/cases.json");
  if (!file) return Status(StatusCode::kNotFound, fmt::format("{}/cases.json: cannot be opened", folder));
  const Json cases = Json::parse(file, nullptr, false);
  if (!cases.is_array()) return invalid_argument(fmt::format("{}/cases.json: not a JSON array", folder));
  SuiteResult suite;
  suite.name = "ONNX Attention node tests";
  for (size_t i = 0; i < cases.size(); ++i) {
    try {
      auto node = load_case(folder, cases[i]);
      if (!node) return node.status();
      const Translated translated = Translator(*node).translate();
      if (translated.skip.empty()) {
        run_recorded(device, options, translated.data, suite);
      } else {
        ++suite.cases;
        ++suite.skipped;
        suite.messages.push_back(fmt::format("skipped {}: {}", node->name, translated.skip));
      }
    } catch (const std::exception& error) {
      return invalid_argument(fmt::format("{}/cases.json, entry {}: {}", folder, i, error.what()));
    }
    if (options.progress) options.progress(static_cast<int>(i + 1), static_cast<int>(cases.size()));
  }
  return suite;
}

}  // namespace sextant::verify
