// The text of a random case, both ways.
#include "verify/random/random_case.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <tuple>
#include <type_traits>
#include <utility>

#include "verify/random/simple_ops.h"

namespace sextant::verify {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::pair<Relation, const char*> kRelations[] = {
    {Relation::kNone, "none"},           {Relation::kTwice, "twice"},     {Relation::kPermuted, "permuted"},
    {Relation::kReblocked, "reblocked"}, {Relation::kChunked, "chunked"}, {Relation::kJoined, "joined"},
    {Relation::kPlanned, "planned"}};

constexpr std::pair<KernelFamily, const char*> kFamilies[] = {{KernelFamily::kPortable, "portable"},
                                                              {KernelFamily::kTuned, "tuned"}};

constexpr std::pair<SplitPolicy::Kind, const char*> kSplits[] = {{SplitPolicy::Kind::kAuto, "auto"},
                                                                 {SplitPolicy::Kind::kNone, "none"},
                                                                 {SplitPolicy::Kind::kSegments, "segments"},
                                                                 {SplitPolicy::Kind::kPartition, "partition"}};

// Reads a count at the front of `text`.
bool take_number(std::string_view& text, int32_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value < 0) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool take(std::string_view& text, char letter) {
  if (text.empty() || text.front() != letter) return false;
  text.remove_prefix(1);
  return true;
}

// Visits every field but the batch, so that writing and reading cannot differ.
template <class Visitor>
void visit_fields(RandomCase& c, Visitor&& visit) {
  visit("backend", c.backend);
  visit("op", c.op.name);
  visit("family", c.op.family);
  visit("split", c.op.split.kind);
  visit("split_value", c.op.split.value);
  visit("min_query_len", c.op.filter.min_query_len);
  visit("filter_max_query_len", c.op.filter.max_query_len);
  visit("key_begin", c.op.key_begin);
  visit("key_end", c.op.key_end);
  visit("out_f32", c.op.out_f32);
  visit("size", c.op.size);
  visit("isa", c.isa);
  visit("num_heads", c.spec.num_heads);
  visit("num_kv_heads", c.spec.num_kv_heads);
  visit("head_dim", c.spec.head_dim);
  visit("head_dim_v", c.spec.head_dim_v);
  visit("kv_lora_rank", c.spec.mla.kv_lora_rank);
  visit("qk_nope_head_dim", c.spec.mla.qk_nope_head_dim);
  visit("qk_rope_head_dim", c.spec.mla.qk_rope_head_dim);
  visit("v_head_dim", c.spec.mla.v_head_dim);
  visit("softmax_scale", c.spec.softmax_scale);
  visit("causal", c.spec.causal);
  visit("sliding_window", c.spec.sliding_window);
  visit("window_left", c.spec.window_left);
  visit("window_right", c.spec.window_right);
  visit("attention_chunk_size", c.spec.attention_chunk_size);
  visit("max_span_len", c.spec.max_span_len);
  visit("logits_soft_cap", c.spec.logits_soft_cap);
  visit("has_sinks", c.spec.has_sinks);
  visit("has_alibi", c.spec.has_alibi);
  visit("dtype", c.spec.dtype);
  visit("query_dtype", c.spec.query_dtype);
  visit("cache_dtype", c.cache_dtype);
  visit("layout", c.layout);
  visit("block_size", c.block_size);
  visit("num_scales", c.num_scales);
  visit("token_scales", c.token_scales);
  visit("requests", c.requests);
  visit("planned", c.planned);
  visit("max_query_len", c.options.bounds.max_query_len);
  visit("max_seq_len", c.options.bounds.max_seq_len);
  visit("deterministic", c.options.deterministic);
  visit("lse_out", c.options.lse_out);
  visit("decode_max_query_len", c.options.decode_max_query_len);
  visit("chunk_workspace_rows", c.options.chunk_workspace_rows);
  visit("shared_prefix_len", c.shared_prefix_len);
  visit("writes", c.writes);
  visit("host_tables", c.host_tables);
  visit("graph", c.graph);
  visit("padding_tokens", c.padding_tokens);
  visit("row_padding", c.row_padding);
  visit("magnitude", c.magnitude);
  visit("relation", c.relation);
  visit("seed", c.seed);
}

template <class T>
Json to_json(const T& value) {
  return value;
}
Json to_json(DType value) { return to_string(value); }
Json to_json(const std::optional<DType>& value) { return value ? Json(to_string(*value)) : Json(); }
Json to_json(KvLayout value) { return to_string(value); }
Json to_json(const std::vector<RequestShape>& value) { return batch_text(value); }
template <class T, size_t N>
Json name_in(const std::pair<T, const char*> (&names)[N], T value) {
  for (const auto& [named, name] : names)
    if (named == value) return name;
  return {};
}
Json to_json(Relation value) { return name_in(kRelations, value); }
Json to_json(KernelFamily value) { return name_in(kFamilies, value); }
Json to_json(SplitPolicy::Kind value) { return name_in(kSplits, value); }

template <class T>
Status assign(T& value, Result<T> parsed) {
  if (!parsed) return parsed.status();
  value = std::move(*parsed);
  return Status::ok();
}

// False for a number that the field's integer type cannot hold: converting it would be undefined.
template <class T>
bool holds(const Json& json, const T&) {
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
    return json.is_number_unsigned() ? std::in_range<T>(json.get<uint64_t>())
                                     : json.is_number_integer() && std::in_range<T>(json.get<int64_t>());
  return true;
}

template <class T>
Status from_json(const Json& json, T& value) {
  value = json.get<T>();  // throws what is reported by the caller
  return Status::ok();
}
Status from_json(const Json& json, DType& value) { return assign(value, parse_dtype(json.get<std::string>())); }
Status from_json(const Json& json, std::optional<DType>& value) {
  DType type{};
  SEXTANT_RETURN_IF_ERROR(from_json(json, type));
  value = type;
  return Status::ok();
}
Status from_json(const Json& json, KvLayout& value) { return assign(value, parse_kv_layout(json.get<std::string>())); }
Status from_json(const Json& json, std::vector<RequestShape>& value) {
  return assign(value, parse_batch_text(json.get<std::string>()));
}
template <class T, size_t N>
Status from_names(const std::pair<T, const char*> (&names)[N], const char* field, const Json& json, T& value) {
  std::string allowed;
  for (const auto& [named, name] : names) {
    if (json.get<std::string>() == name) {
      value = named;
      return Status::ok();
    }
    allowed += (allowed.empty() ? "" : ", ") + std::string(name);
  }
  return invalid_argument(fmt::format("{} is {}; allowed: {}", field, json.dump(), allowed));
}
Status from_json(const Json& json, Relation& value) { return from_names(kRelations, "relation", json, value); }
Status from_json(const Json& json, KernelFamily& value) { return from_names(kFamilies, "family", json, value); }
Status from_json(const Json& json, SplitPolicy::Kind& value) { return from_names(kSplits, "split", json, value); }

}  // namespace

int64_t count_tokens(const std::vector<RequestShape>& requests) {
  int64_t tokens = 0;
  for (const RequestShape& r : requests) tokens += r.query_len;
  return tokens;
}

Result<AttentionOp> parse_attention_op(std::string_view name) {
  for (const AttentionOp op : {AttentionOp::kUnified, AttentionOp::kVarlen, AttentionOp::kPrefixPrefill,
                               AttentionOp::kPagedDecode, AttentionOp::kMlaDecode})
    if (name == to_string(op)) return op;
  return invalid_argument(fmt::format("op is \"{}\"; allowed: the names of the attention ops", name));
}

std::string batch_text(const std::vector<RequestShape>& requests) {
  std::string text;
  for (size_t i = 0; i < requests.size();) {
    const RequestShape& r = requests[i];
    size_t count = 1;
    while (i + count < requests.size() && requests[i + count].query_len == r.query_len &&
           requests[i + count].seq_len == r.seq_len)
      ++count;
    if (!text.empty()) text += "_";
    if (count > 1) text += fmt::to_string(count);
    text += fmt::format("q{}s{}", r.query_len, r.seq_len);
    i += count;
  }
  return text;
}

Result<std::vector<RequestShape>> parse_batch_text(std::string_view text) {
  constexpr int32_t kMostRequests = 1 << 16;
  std::vector<RequestShape> requests;
  while (!text.empty()) {
    const std::string_view segment = text;
    int32_t count = 1;
    RequestShape r;
    const bool counted = text.front() == 'q' || take_number(text, count);
    if (!counted || !take(text, 'q') || !take_number(text, r.query_len) || !take(text, 's') ||
        !take_number(text, r.seq_len) || (!text.empty() && (!take(text, '_') || text.empty())) ||
        count > kMostRequests - static_cast<int32_t>(requests.size()))
      return invalid_argument(fmt::format(
          "batch segment is \"{}\"; allowed: [count]q<query_len>s<seq_len>, joined by _, {} requests at most",
          segment.substr(0, segment.find('_')), kMostRequests));
    requests.insert(requests.end(), static_cast<size_t>(count), r);
  }
  return requests;
}

std::string to_text(const RandomCase& test) {
  Json json = Json::object(), usual = Json::object();
  RandomCase defaults, copy = test;
  visit_fields(defaults, [&](const char* name, auto& value) { usual[name] = to_json(value); });
  visit_fields(copy, [&](const char* name, auto& value) {
    Json field = to_json(value);
    if (field != usual[name]) json[name] = std::move(field);
  });
  return json.dump();
}

namespace {

// What runs has a name that there is, and sizes that memory can be made for: a text may be written by hand.
Status check_case(const RandomCase& test) {
  if (test.is_op() && is_simple_op(test.op.name)) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(test.is_op() ? parse_attention_op(test.op.name).status()
                                       : find_backend(test.backend).status());
  if (!test.is_op()) SEXTANT_RETURN_IF_ERROR(validate(test.spec));  // an op's are wider: 576 for latents
  for (const auto& [name, value, least] :
       {std::tuple{"num_heads", test.spec.num_heads, 1}, std::tuple{"num_kv_heads", test.spec.num_kv_heads, 1},
        std::tuple{"head_dim", test.spec.head_dim, 1}, std::tuple{"head_dim_v", test.spec.head_dim_v, 0},
        std::tuple{"block_size", test.block_size, 1}, std::tuple{"num_scales", test.num_scales, 1},
        std::tuple{"shared_prefix_len", test.shared_prefix_len, 0},
        std::tuple{"padding_tokens", test.padding_tokens, 0}, std::tuple{"row_padding", test.row_padding, 0}})
    if (value < least) return invalid_argument(fmt::format("--case: {} is {}; allowed: >= {}", name, value, least));
  return Status::ok();
}

}  // namespace

Result<RandomCase> parse_random_case(const std::string& text) {
  RandomCase test;
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object())
    return invalid_argument(fmt::format("--case is \"{}\"; allowed: the JSON object that a failure prints", text));
  Status status = Status::ok();
  size_t known = 0;
  visit_fields(test, [&](const char* name, auto& value) {
    const auto field = json.find(name);
    if (field == json.end() || !status.is_ok()) return;
    ++known;
    const auto refused = [&] {
      return invalid_argument(
          fmt::format("--case: {} is {}; allowed: the kind of value that a failure prints", name, field->dump()));
    };
    try {
      status = holds(*field, value) ? from_json(*field, value) : refused();
    } catch (const Json::exception&) {
      status = refused();
    }
  });
  if (!status.is_ok()) return status;
  if (known == json.size()) {
    SEXTANT_RETURN_IF_ERROR(check_case(test));
    return test;
  }
  Json unknown = json;
  visit_fields(test, [&](const char* name, auto&) { unknown.erase(name); });
  return invalid_argument(
      fmt::format("--case has the field \"{}\"; allowed: those that a failure prints", unknown.begin().key()));
}

}  // namespace sextant::verify
