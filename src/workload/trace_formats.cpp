// The trace formats: one row each, and how the first line tells which it is.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "types/json_text.h"
#include "types/near_miss.h"
#include "workload/trace_reader.h"

namespace sextant {
namespace {

using nlohmann::json;

struct FormatRow {
  TraceFormat format;
  std::optional<CsvColumns> csv;
  std::optional<JsonFields> lines;
  Status (*whole)(const json&, const TraceLine&, int64_t, Trace&) = nullptr;
  // JSON is this format when its first object has one of these fields.
  std::vector<std::string_view> told_by;
};

const std::vector<FormatRow>& rows() {
  static const std::vector<FormatRow> kRows = {
      {{"azure-2025", "Azure 2025, multimodal CSV: TIMESTAMP,NumImages,ContextTokens,GeneratedTokens"},
       CsvColumns{"TIMESTAMP", "ContextTokens", "GeneratedTokens", "NumImages"},
       {},
       nullptr,
       {}},
      {{"azure", "Azure 2023 and 2024, CSV: TIMESTAMP,ContextTokens,GeneratedTokens"},
       CsvColumns{"TIMESTAMP", "ContextTokens", "GeneratedTokens", ""},
       {},
       nullptr,
       {}},
      {{"burstgpt", "BurstGPT, CSV: Timestamp,Model,Request tokens,Response tokens,..."},
       CsvColumns{"Timestamp", "Request tokens", "Response tokens", "", true},
       {},
       nullptr,
       {}},
      {{"bailian", "Alibaba Bailian, JSON lines: chat_id, timestamp (s), input_length, output_length, hash_ids of 16"},
       {},
       JsonFields{"timestamp", "input_length", "output_length", "hash_ids", 1000, 16, "", ""},
       nullptr,
       {"chat_id"}},
      {{"mooncake", "Mooncake and AIPerf, JSON lines: timestamp (ms), input_length, output_length, hash_ids of 512"},
       {},
       JsonFields{"timestamp", "input_length", "output_length", "hash_ids", 1, 512, "", ""},
       nullptr,
       {"input_length"}},
      {{"llmservingsim", "LLMServingSim, JSON lines: input_toks, output_toks, arrival_time_ns, input_tok_ids"},
       {},
       JsonFields{"arrival_time_ns", "input_toks", "output_toks", "", 1e-6, 16, "input_tok_ids", ""},
       nullptr,
       {"input_toks"}},
      {{"vllm-custom", "vLLM's custom data sets, JSON lines: prompt, output_tokens (lengths guessed from text)"},
       {},
       JsonFields{"timestamp", "", "output_tokens", "", 1, 512, "", "prompt"},
       nullptr,
       {"prompt"}},
      {{"sharegpt", "ShareGPT, one JSON list of conversations (lengths guessed from text)"},
       {},
       {},
       read_sharegpt,
       {"conversations"}},
      {{"vllm-result", "what `vllm bench serve --save-detailed` writes: input_lens, output_lens, start_times"},
       {},
       {},
       read_vllm_result,
       {"input_lens", "request_throughput"}},
  };
  return kRows;
}

bool is_csv_of(const FormatRow& row, const std::vector<std::string>& header) {
  for (const std::string_view name : {row.csv->time, row.csv->input, row.csv->output, row.csv->images})
    if (!name.empty() && std::find(header.begin(), header.end(), name) == header.end()) return false;
  return true;
}

const FormatRow* told(std::string_view first) {
  if (first.empty()) return nullptr;
  for (const FormatRow& row : rows())
    if (row.format.name == "sharegpt" && first[0] == '[') return &row;
  if (first[0] != '{') {
    const std::vector<std::string> header = csv_fields(first);
    for (const FormatRow& row : rows())
      if (row.csv && is_csv_of(row, header)) return &row;
    return nullptr;
  }
  // A file that is one value may spread over many lines: its first is not an object by itself.
  const auto object = parse_json(first);
  for (const FormatRow& row : rows()) {
    const auto has = [&](std::string_view field) {
      return object ? object->contains(std::string(field)) : first.find(fmt::format("\"{}\"", field)) != first.npos;
    };
    if (std::any_of(row.told_by.begin(), row.told_by.end(), has)) return &row;
  }
  for (const FormatRow& row : rows())  // Mooncake's reader says best what is missing
    if (row.format.name == (first == "{" ? "vllm-result" : "mooncake")) return &row;
  return nullptr;
}

}  // namespace

std::span<const TraceFormat> trace_formats() {
  static const std::vector<TraceFormat> kFormats = [] {
    std::vector<TraceFormat> formats;
    for (const FormatRow& row : rows()) formats.push_back(row.format);
    return formats;
  }();
  return kFormats;
}

Result<OpenedFormat> open_format(const TraceLine& first, const TraceOptions& options) {
  const FormatRow* row = options.format == "auto" ? told(first.text) : nullptr;
  std::vector<std::string> names;
  for (const FormatRow& one : rows()) {
    names.emplace_back(one.format.name);
    if (one.format.name == options.format) row = &one;
  }
  if (row == nullptr && options.format != "auto") {
    const auto near = nearest(options.format, names);
    return invalid_argument(fmt::format("trace format is \"{}\"{}; allowed: auto, {}", options.format,
                                        near ? fmt::format(" (did you mean {}?)", *near) : std::string(),
                                        fmt::join(names, ", ")));
  }
  constexpr size_t kShown = 60;
  if (row == nullptr)
    return trace_error(
        first, "the first line", fmt::format("\"{}\"", first.text.substr(0, kShown)),
        "\"TIMESTAMP,ContextTokens,GeneratedTokens\" (Azure CSV), a JSON object (Mooncake JSON lines) or "
        "another known trace");
  OpenedFormat opened;
  opened.format = row->format;
  const int32_t usual = row->lines ? row->lines->hash_block_size : 512;
  opened.hash_block_size = options.hash_block_size > 0 ? options.hash_block_size : usual;
  opened.whole = row->whole;
  if (row->csv) opened.lines = make_csv_reader(*row->csv);
  if (row->lines) opened.lines = make_json_reader(*row->lines, opened.hash_block_size);
  return opened;
}

}  // namespace sextant
