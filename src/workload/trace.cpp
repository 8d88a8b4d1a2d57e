#include "sextant/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "workload/trace_reader.h"

namespace sextant {
namespace {

void strip(std::string& line) {
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
}

enum class Format { kAzure, kMooncake };

Result<Format> format_of(const TraceLine& first) {
  std::string_view text = first.text;
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);  // spreadsheets write a byte order mark
  if (text == kAzureHeader) return Format::kAzure;
  if (!text.empty() && text[0] == '{') return Format::kMooncake;
  constexpr size_t kShown = 60;
  return trace_error(first, "the first line", fmt::format("\"{}\"", text.substr(0, kShown)),
                     fmt::format("\"{}\" (Azure CSV) or a JSON object (Mooncake JSON lines)", kAzureHeader));
}

Status open(const std::string& path, std::ifstream& file) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    return invalid_argument(fmt::format("trace is \"{}\", a folder; allowed: a file", path));
  file.open(path, std::ios::binary);
  if (!file)
    return Status(StatusCode::kNotFound,
                  fmt::format("trace is \"{}\", which cannot be opened; allowed: a readable file", path));
  return Status::ok();
}

// A file may hold anything, and a terminal obeys control characters: those are shown as \xNN.
std::string printable(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    shown += byte < 0x20 || byte >= 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return shown;
}

}  // namespace

Status trace_error(const TraceLine& line, std::string_view field, std::string_view value, std::string_view allowed) {
  return invalid_argument(
      fmt::format("{}: {} is {}; allowed: {}", line.where, field, value.empty() ? "empty" : printable(value), allowed));
}

Result<Trace> read_trace(const std::string& path, int64_t max_requests) {
  if (max_requests < 0)
    return invalid_argument(fmt::format("max_requests is {}; allowed: >= 0 (0 = all)", max_requests));
  std::ifstream file;
  SEXTANT_RETURN_IF_ERROR(open(path, file));
  Trace trace;
  trace.name = path;
  Format format = Format::kAzure;
  std::string text;
  for (int64_t number = 1; std::getline(file, text); ++number) {
    const bool last = file.eof() || file.peek() == std::ifstream::traits_type::eof();
    strip(text);
    if (text.empty()) continue;
    const TraceLine line{text, fmt::format("{}:{}", path, number), last};
    if (number == 1) {
      auto known = format_of(line);
      if (!known) return known.status();
      format = *known;
      if (format == Format::kAzure) continue;
    }
    auto request = format == Format::kAzure ? parse_azure_line(line) : parse_mooncake_line(line, trace.hash_block_size);
    if (!request) return request.status();
    trace.requests.push_back(std::move(*request));
    if (max_requests > 0 && static_cast<int64_t>(trace.requests.size()) == max_requests) break;
  }
  if (file.bad()) return Status(StatusCode::kNotFound, fmt::format("trace \"{}\" cannot be read to its end", path));
  if (trace.requests.empty())
    return invalid_argument(
        fmt::format("trace \"{}\" holds 0 requests; allowed: at least one line after the header", path));
  const auto earlier = [](const TraceRequest& a, const TraceRequest& b) { return a.arrival_ms < b.arrival_ms; };
  std::stable_sort(trace.requests.begin(), trace.requests.end(), earlier);
  const int64_t start = trace.requests.front().arrival_ms;
  for (TraceRequest& request : trace.requests) request.arrival_ms -= start;
  return trace;
}

Status shrink_trace(Trace& trace, int32_t divisor) {
  if (divisor < 1 || divisor > trace.hash_block_size)
    return invalid_argument(fmt::format("shrink is {}; allowed: 1..{}", divisor, trace.hash_block_size));
  if (trace.hash_block_size % divisor != 0)
    return invalid_argument(
        fmt::format("shrink is {}; allowed: a divisor of {} (the trace's hash block)", divisor, trace.hash_block_size));
  trace.hash_block_size /= divisor;
  for (TraceRequest& request : trace.requests) {
    // Rounded up: the number of hash blocks stays what it was.
    request.input_length = (request.input_length + divisor - 1) / divisor;
    request.output_length = (request.output_length + divisor - 1) / divisor;
  }
  return Status::ok();
}

}  // namespace sextant
