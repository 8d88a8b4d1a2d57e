// One JSON object a line: Mooncake's traces and those made after them, Bailian's, LLMServingSim's, vLLM's own prompts.
//   {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
#include <fmt/format.h>

#include <cmath>

#include "sextant/block_allocator.h"
#include "types/ceil_div.h"
#include "types/json_text.h"
#include "workload/trace_reader.h"

namespace sextant {
namespace {

using nlohmann::json;

constexpr double kLatest = 9007199254740992;  // 2^53 milliseconds: whole numbers are exact up to there

class JsonReader : public LineReader {
 public:
  JsonReader(const JsonFields& fields, int32_t hash_block_size) : fields_(fields), block_(hash_block_size) {}

  bool has_header() const override { return false; }
  Status header(const TraceLine&) override { return Status::ok(); }

  Result<TraceRequest> request(const TraceLine& line) override {
    const auto object = parse_json(line.text);
    if (!object)
      return trace_error(
          line, "the line", "not JSON",
          line.last ? "one JSON object a line; this is the last line: is the file cut?" : "one JSON object a line");
    if (!object->is_object()) return trace_error(line, "the line", shown_json(*object), "one JSON object a line");
    TraceRequest request;
    SEXTANT_RETURN_IF_ERROR(read_arrival(line, *object, request.arrival_ms));
    int64_t input = 0, output = 0;
    if (!fields_.prompt.empty()) {
      SEXTANT_RETURN_IF_ERROR(read_prompt(line, *object, input, output));
    } else {
      SEXTANT_RETURN_IF_ERROR(read_whole(line, *object, fields_.input, 1, kMaxTraceTokens, input));
      SEXTANT_RETURN_IF_ERROR(read_whole(line, *object, fields_.output, 0, kMaxTraceTokens, output));
    }
    request.input_length = static_cast<int32_t>(input);
    request.output_length = static_cast<int32_t>(output);
    SEXTANT_RETURN_IF_ERROR(read_hash_ids(line, *object, request));
    SEXTANT_RETURN_IF_ERROR(hash_tokens(line, *object, request));
    ++(request.hash_ids.empty() ? unshared_ : shared_);
    return request;
  }

  void finish(Trace& trace) override {
    if (guessed_) trace.notes.emplace_back(kGuessNote);
    if (shared_ > 0 && unshared_ > 0)
      trace.notes.push_back(fmt::format("{} of {} requests have no {}: taken as sharing nothing", unshared_,
                                        shared_ + unshared_, fields_.ids.empty() ? fields_.tokens : fields_.ids));
    if (delays_ > 0)
      trace.notes.push_back(
          fmt::format("{} turns of sessions have a delay: taken from the arrival of the turn before, "
                      "each line as a request of its own",
                      delays_));
  }

 private:
  // Milliseconds. A turn of a session may have a delay after the turn before instead of a time.
  Status read_arrival(const TraceLine& line, const json& object, int64_t& arrival) {
    const auto session = object.find("session_id");
    const std::string key = session == object.end() ? "" : session->dump();
    const auto time = object.find(fields_.time);
    const auto delay = object.find("delay");
    if (time != object.end() && !time->is_null()) {
      SEXTANT_RETURN_IF_ERROR(read_time(line, fields_.time, *time, fields_.milliseconds, arrival));
    } else if (delay != object.end() && !delay->is_null()) {
      SEXTANT_RETURN_IF_ERROR(read_time(line, "delay", *delay, 1, arrival));
      const auto before = sessions_.find(key);
      if (before != sessions_.end()) arrival += before->second;
      ++delays_;
    } else if (fields_.prompt.empty() && session == object.end()) {
      return trace_error(line, fields_.time, "missing", fmt::format("a number, 0..{:.0f}", kLatest));
    }
    if (session != object.end()) sessions_[key] = arrival;
    return Status::ok();
  }

  static Status read_time(const TraceLine& line, std::string_view field, const json& value, double unit,
                          int64_t& milliseconds) {
    const double time = value.is_number() ? value.get<double>() : NAN;
    if (!(time >= 0 && time * unit <= kLatest))
      return trace_error(line, field, shown_json(value), fmt::format("a number, 0..{:.0f}", kLatest / unit));
    milliseconds = static_cast<int64_t>(time * unit);
    return Status::ok();
  }

  // vLLM's custom data sets: {"prompt": "...", "output_tokens": 10}.
  Status read_prompt(const TraceLine& line, const json& object, int64_t& input, int64_t& output) {
    const auto prompt = object.find(fields_.prompt);
    if (prompt == object.end() || !prompt->is_string())
      return trace_error(line, fields_.prompt, prompt == object.end() ? "missing" : shown_json(*prompt), "a string");
    input = guessed_tokens(prompt->get_ref<const std::string&>());
    guessed_ = true;
    output = 256;  // vLLM's own default for custom data sets
    const auto given = object.find(fields_.output);
    if (given == object.end() || given->is_null()) return Status::ok();
    return read_whole(line, object, fields_.output, 0, kMaxTraceTokens, output);
  }

  Status read_hash_ids(const TraceLine& line, const json& object, TraceRequest& request) const {
    const auto found = fields_.ids.empty() ? object.end() : object.find(fields_.ids);
    if (found == object.end() || found->is_null()) return Status::ok();  // no sharing is known
    if (!found->is_array()) return trace_error(line, fields_.ids, shown_json(*found), "a list of whole numbers");
    const int64_t blocks = ceil_div(int64_t{request.input_length}, block_);
    if (static_cast<int64_t>(found->size()) != blocks)
      return trace_error(
          line, fields_.ids, fmt::format("{} ids", found->size()),
          fmt::format("{} (one a block of {} tokens, input_length {})", blocks, block_, request.input_length));
    for (size_t i = 0; i < found->size(); ++i) {
      const json& id = (*found)[i];
      if (!id.is_number_integer())
        return trace_error(line, fmt::format("{}[{}]", fields_.ids, i), shown_json(id), "a whole number");
      request.hash_ids.push_back(id.get<int64_t>());
    }
    return Status::ok();
  }

  // Blocks of token ids, each with everything before it.
  Status hash_tokens(const TraceLine& line, const json& object, TraceRequest& request) const {
    const auto found = fields_.tokens.empty() ? object.end() : object.find(fields_.tokens);
    if (found == object.end() || found->is_null()) return Status::ok();
    if (!found->is_array()) return trace_error(line, fields_.tokens, shown_json(*found), "a list of token ids");
    if (static_cast<int64_t>(found->size()) != request.input_length)
      return trace_error(line, fields_.tokens, fmt::format("{} ids", found->size()),
                         fmt::format("{} ({})", request.input_length, fields_.input));
    std::vector<int32_t> tokens;
    for (const json& id : *found) {
      if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
        return trace_error(line, fmt::format("{}[{}]", fields_.tokens, tokens.size()), shown_json(id), "a token id");
      tokens.push_back(id.get<int32_t>());
    }
    const BlockHasher hasher(HashAlgorithm::kXxh3, 0);  // ids of a file's blocks: the same in every run
    BlockHash hash = hasher.root("trace");
    for (size_t at = 0; at < tokens.size(); at += static_cast<size_t>(block_)) {
      const size_t count = std::min(tokens.size() - at, static_cast<size_t>(block_));
      hash = hasher.chain(hash, std::span<const int32_t>(tokens).subspan(at, count));
      request.hash_ids.push_back(static_cast<int64_t>(hash.low));
    }
    return Status::ok();
  }

  JsonFields fields_;
  int64_t block_;
  std::unordered_map<std::string, int64_t> sessions_;  // arrival of each session's last turn
  int64_t delays_ = 0;
  int64_t shared_ = 0, unshared_ = 0;  // requests with hash ids, and without
  bool guessed_ = false;
};

}  // namespace

Status read_whole(const TraceLine& line, const json& object, std::string_view field, int64_t min, int64_t max,
                  int64_t& value) {
  const std::string allowed = fmt::format("a whole number, {}..{}", min, max);
  const auto found = object.find(field);
  if (found == object.end()) return trace_error(line, field, "missing", allowed);
  // Unsigned values above the largest signed one would wrap: they are out of range in any case.
  const bool fits = found->is_number_integer() && !(found->is_number_unsigned() && found->get<uint64_t>() > INT64_MAX);
  if (!fits || found->get<int64_t>() < min || found->get<int64_t>() > max)
    return trace_error(line, field, shown_json(*found), allowed);
  value = found->get<int64_t>();
  return Status::ok();
}

int64_t guessed_tokens(std::string_view text) {
  int64_t characters = 0;
  for (const char c : text)
    characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;  // UTF-8's first bytes
  return std::clamp<int64_t>((characters + kCharactersAToken - 1) / kCharactersAToken, 1, kMaxTraceTokens);
}

std::unique_ptr<LineReader> make_json_reader(const JsonFields& fields, int32_t hash_block_size) {
  return std::make_unique<JsonReader>(fields, hash_block_size);
}

}  // namespace sextant
