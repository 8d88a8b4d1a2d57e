// Reads a trace of any known format.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "types/ceil_div.h"
#include "types/json_text.h"
#include "workload/trace_reader.h"

namespace sextant {
namespace {

constexpr size_t kMostLineBytes = size_t{64} << 20;   // a million token ids come to a tenth of that
constexpr int64_t kMostFileBytes = int64_t{2} << 30;  // of traces that are one JSON value

// A line without its end; false at the file's end. Longer ones are cut there and refused by the caller.
bool read_line(std::ifstream& file, std::string& line) {
  line.clear();
  char c = 0;
  bool any = false;
  while (file.get(c)) {
    any = true;
    if (c == '\n') break;
    line.push_back(c);
    if (line.size() > kMostLineBytes) break;
  }
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
  return any;
}

void drop_byte_order_mark(std::string& line) {
  if (line.compare(0, 3, "\xEF\xBB\xBF") == 0) line.erase(0, 3);  // spreadsheets and editors write one
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

// Programs that pack files, by the first bytes of what they write.
const char* packed_by(std::string_view first) {
  const auto begins = [first](std::string_view bytes) { return first.substr(0, bytes.size()) == bytes; };
  if (begins("\x1f\x8b")) return "gzip";
  if (begins("\x28\xb5\x2f\xfd")) return "zstd";
  if (begins("\xfd"
             "7zXZ"))
    return "xz";
  if (begins("BZh")) return "bzip2";
  if (begins("PK\x03\x04")) return "zip";
  return nullptr;
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

namespace {

// The first line that is not blank.
struct FirstLine {
  std::string text;
  int64_t number = 0;
};

FirstLine first_line(std::ifstream& file) {
  FirstLine first;
  while (read_line(file, first.text)) {
    if (++first.number == 1) drop_byte_order_mark(first.text);
    if (!first.text.empty()) break;
  }
  return first;
}

Status read_lines(std::ifstream& file, const std::string& path, FirstLine first, LineReader& reader,
                  int64_t max_requests, Trace& trace) {
  std::string text = std::move(first.text);
  int64_t number = first.number;
  bool header = reader.has_header();
  do {
    const bool last = file.eof() || file.peek() == std::ifstream::traits_type::eof();
    if (text.empty()) continue;
    const TraceLine line{text, fmt::format("{}:{}", path, number), last};
    if (text.size() > kMostLineBytes)
      return trace_error(line, "the line", "too long", fmt::format("up to {} bytes", kMostLineBytes));
    if (header) {
      SEXTANT_RETURN_IF_ERROR(reader.header(line));
      header = false;
      continue;
    }
    auto request = reader.request(line);
    if (!request) return request.status();
    trace.requests.push_back(std::move(*request));
    if (max_requests > 0 && static_cast<int64_t>(trace.requests.size()) == max_requests) break;
  } while (++number, read_line(file, text));
  if (file.bad()) return Status(StatusCode::kNotFound, fmt::format("trace \"{}\" cannot be read to its end", path));
  reader.finish(trace);
  return Status::ok();
}

Status read_whole_file(const std::string& path, const OpenedFormat& format, int64_t max_requests, Trace& trace) {
  auto text = read_text_file(path, "trace", kMostFileBytes);
  if (!text) return text.status();
  const TraceLine line{"", path, true};
  const auto value = parse_json(*text);
  if (!value) return trace_error(line, "the file", "not JSON", "one JSON value; is the file cut?");
  return format.whole(*value, line, max_requests, trace);
}

}  // namespace

Result<Trace> read_trace(const std::string& path, int64_t max_requests) {
  TraceOptions options;
  options.max_requests = max_requests;
  return read_trace(path, options);
}

Result<Trace> read_trace(const std::string& path, const TraceOptions& options) {
  if (options.max_requests < 0)
    return invalid_argument(fmt::format("max_requests is {}; allowed: >= 0 (0 = all)", options.max_requests));
  if (options.hash_block_size < 0)
    return invalid_argument(
        fmt::format("hash_block_size is {}; allowed: >= 0 (0 = the format's own)", options.hash_block_size));
  std::ifstream file;
  SEXTANT_RETURN_IF_ERROR(open(path, file));
  FirstLine first = first_line(file);
  if (const char* packed = packed_by(first.text); packed != nullptr)
    return invalid_argument(
        fmt::format("trace is \"{}\", packed by {}; allowed: the file that is in it", path, packed));
  Trace trace;
  trace.name = path;
  const Status empty =
      invalid_argument(fmt::format("trace \"{}\" holds 0 requests; allowed: at least one line after the header", path));
  if (first.text.empty()) return empty;
  auto format = open_format({first.text, fmt::format("{}:{}", path, first.number), false}, options);
  if (!format) return format.status();
  trace.format = format->format.name;
  trace.hash_block_size = format->hash_block_size;
  SEXTANT_RETURN_IF_ERROR(format->whole != nullptr
                              ? read_whole_file(path, *format, options.max_requests, trace)
                              : read_lines(file, path, std::move(first), *format->lines, options.max_requests, trace));
  if (trace.requests.empty()) return empty;
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
    request.input_length = ceil_div(request.input_length, divisor);
    request.output_length = ceil_div(request.output_length, divisor);
  }
  return Status::ok();
}

}  // namespace sextant
