// Traces that are one JSON value: ShareGPT's conversations, the results that vLLM's benchmark saves.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "sextant/block_allocator.h"
#include "types/json_text.h"
#include "workload/trace_reader.h"

namespace sextant {
namespace {

using nlohmann::json;

bool full(const Trace& trace, int64_t max_requests) {
  return max_requests > 0 && static_cast<int64_t>(trace.requests.size()) >= max_requests;
}

// One request a reply: the prompt is everything before it. Turns of a conversation share their full blocks.
Status read_conversation(const json& turns, size_t conversation, const TraceLine& line, int64_t max_requests,
                         Trace& trace) {
  const int64_t block = trace.hash_block_size;
  int64_t tokens = 0;
  for (size_t turn = 0; turn < turns.size() && !full(trace, max_requests); ++turn) {
    const json& entry = turns[turn];
    const std::string field = fmt::format("[{}].conversations[{}]", conversation, turn);
    const auto text = entry.is_object() ? entry.find("value") : entry.end();
    const auto from = entry.is_object() ? entry.find("from") : entry.end();
    if (!entry.is_object() || text == entry.end() || !text->is_string() || from == entry.end() || !from->is_string())
      return trace_error(line, field, shown_json(entry), "an object with from and value");
    const std::string& value = text->get_ref<const std::string&>();
    const bool reply =
        *from == "gpt" || *from == "assistant" || *from == "chatgpt" || *from == "bing" || *from == "bard";
    const int64_t length = value.empty() ? 0 : guessed_tokens(value);
    if (reply && tokens > 0) {
      TraceRequest request;
      request.arrival_ms = static_cast<int64_t>(turn);  // earlier turns first; the files have no times
      request.input_length = static_cast<int32_t>(tokens);
      request.output_length = static_cast<int32_t>(length);
      const BlockHasher hasher(HashAlgorithm::kXxh3, 0);  // the same ids in every run
      for (int64_t at = 0; at < tokens; at += block) {
        const bool partial = at + block > tokens;  // ends with this turn: shared with nobody
        const std::array<int32_t, 3> name = {static_cast<int32_t>(conversation), static_cast<int32_t>(at / block),
                                             partial ? static_cast<int32_t>(turn) + 1 : 0};
        request.hash_ids.push_back(static_cast<int64_t>(hasher.chain(hasher.root("trace"), name).low));
      }
      trace.requests.push_back(std::move(request));
    }
    tokens += length;
    if (tokens > kMaxTraceTokens)
      return trace_error(line, field, "longer than a request may be", fmt::format("up to {} tokens", kMaxTraceTokens));
  }
  return Status::ok();
}

}  // namespace

Status read_sharegpt(const json& file, const TraceLine& line, int64_t max_requests, Trace& trace) {
  if (!file.is_array()) return trace_error(line, "the file", shown_json(file), "a list of conversations");
  for (size_t i = 0; i < file.size() && !full(trace, max_requests); ++i) {
    const auto turns = file[i].is_object() ? file[i].find("conversations") : file[i].end();
    if (!file[i].is_object() || turns == file[i].end() || !turns->is_array())
      return trace_error(line, fmt::format("[{}].conversations", i), shown_json(file[i]), "a list of turns");
    SEXTANT_RETURN_IF_ERROR(read_conversation(*turns, i, line, max_requests, trace));
  }
  trace.notes.emplace_back(kGuessNote);
  return Status::ok();
}

// What `vllm bench serve --save-result --save-detailed` writes: {"input_lens": [...], "output_lens": [...]}.
Status read_vllm_result(const json& file, const TraceLine& line, int64_t max_requests, Trace& trace) {
  if (!file.is_object())
    return trace_error(line, "the file", shown_json(file), "an object with input_lens, output_lens");
  for (const char* name : {"input_lens", "output_lens"}) {
    const auto list = file.find(name);
    if (list == file.end() || !list->is_array())
      return trace_error(line, name, list == file.end() ? "missing" : shown_json(*list), "a list of whole numbers");
  }
  const json &inputs = file["input_lens"], &outputs = file["output_lens"];
  if (inputs.size() != outputs.size())
    return trace_error(line, "output_lens", fmt::format("{} numbers", outputs.size()),
                       fmt::format("{} (as many as input_lens)", inputs.size()));
  const auto starts = file.find("start_times");
  const bool timed = starts != file.end() && !starts->is_null();
  if (timed && !starts->is_array()) return trace_error(line, "start_times", shown_json(*starts), "a list of seconds");
  if (timed && starts->size() != inputs.size())
    return trace_error(line, "start_times", fmt::format("{} numbers", starts->size()),
                       fmt::format("{} (as many as input_lens)", inputs.size()));
  if (!timed) trace.notes.emplace_back("the file has no start_times: all requests arrive at once");
  const json errors = file.value("errors", json::array());
  const auto failed = std::count_if(errors.begin(), errors.end(), [](const json& error) {
    return error.is_string() && !error.get_ref<const std::string&>().empty();
  });
  if (failed > 0)
    trace.notes.push_back(fmt::format("{} requests failed there (errors): taken with what they generated", failed));
  for (size_t i = 0; i < inputs.size() && !full(trace, max_requests); ++i) {
    const std::string in = fmt::format("input_lens[{}]", i), out = fmt::format("output_lens[{}]", i);
    const json pair = {{in, inputs[i]}, {out, outputs[i]}};
    int64_t input = 0, output = 0;
    SEXTANT_RETURN_IF_ERROR(read_whole(line, pair, in, 1, kMaxTraceTokens, input));
    SEXTANT_RETURN_IF_ERROR(read_whole(line, pair, out, 0, kMaxTraceTokens, output));
    TraceRequest request;
    request.input_length = static_cast<int32_t>(input);
    request.output_length = static_cast<int32_t>(output);
    if (timed) {
      const double start = (*starts)[i].is_number() ? (*starts)[i].get<double>() : NAN;
      if (!(std::fabs(start) < 1e12))
        return trace_error(line, fmt::format("start_times[{}]", i), shown_json((*starts)[i]), "seconds");
      request.arrival_ms = static_cast<int64_t>(start * 1000);
    }
    trace.requests.push_back(std::move(request));
  }
  return Status::ok();
}

}  // namespace sextant
