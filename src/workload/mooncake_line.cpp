// {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "workload/trace_reader.h"

namespace sextant {
namespace {

using nlohmann::json;

std::string shown(const json& value) {
  constexpr size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

Status read_whole(const TraceLine& line, const json& object, const char* field, int64_t min, int64_t max,
                  int64_t& value) {
  const std::string allowed = fmt::format("a whole number, {}..{}", min, max);
  const auto found = object.find(field);
  if (found == object.end()) return trace_error(line, field, "missing", allowed);
  // Unsigned values above the largest signed one would wrap: they are out of range in any case.
  const bool fits = found->is_number_integer() && !(found->is_number_unsigned() && found->get<uint64_t>() > INT64_MAX);
  if (!fits || found->get<int64_t>() < min || found->get<int64_t>() > max)
    return trace_error(line, field, shown(*found), allowed);
  value = found->get<int64_t>();
  return Status::ok();
}

Status read_hash_ids(const TraceLine& line, const json& object, int32_t hash_block_size, TraceRequest& request) {
  const auto found = object.find("hash_ids");
  if (found == object.end()) return Status::ok();  // no sharing is known
  if (!found->is_array()) return trace_error(line, "hash_ids", shown(*found), "a list of whole numbers");
  const int64_t blocks = (static_cast<int64_t>(request.input_length) + hash_block_size - 1) / hash_block_size;
  if (static_cast<int64_t>(found->size()) != blocks)
    return trace_error(
        line, "hash_ids", fmt::format("{} ids", found->size()),
        fmt::format("{} (one a block of {} tokens, input_length {})", blocks, hash_block_size, request.input_length));
  for (size_t i = 0; i < found->size(); ++i) {
    const json& id = (*found)[i];
    if (!id.is_number_integer()) return trace_error(line, fmt::format("hash_ids[{}]", i), shown(id), "a whole number");
    request.hash_ids.push_back(id.get<int64_t>());
  }
  return Status::ok();
}

}  // namespace

Result<TraceRequest> parse_mooncake_line(const TraceLine& line, int32_t hash_block_size) {
  const json object = json::parse(line.text, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded())
    return trace_error(
        line, "the line", "not JSON",
        line.last ? "one JSON object a line; this is the last line: is the file cut?" : "one JSON object a line");
  if (!object.is_object()) return trace_error(line, "the line", shown(object), "one JSON object a line");
  TraceRequest request;
  int64_t input = 0, output = 0;
  SEXTANT_RETURN_IF_ERROR(read_whole(line, object, "timestamp", 0, int64_t{1} << 53, request.arrival_ms));
  SEXTANT_RETURN_IF_ERROR(read_whole(line, object, "input_length", 1, kMaxTraceTokens, input));
  SEXTANT_RETURN_IF_ERROR(read_whole(line, object, "output_length", 0, kMaxTraceTokens, output));
  request.input_length = static_cast<int32_t>(input);
  request.output_length = static_cast<int32_t>(output);
  SEXTANT_RETURN_IF_ERROR(read_hash_ids(line, object, hash_block_size, request));
  return request;
}

}  // namespace sextant
