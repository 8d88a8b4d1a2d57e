// Azure's and BurstGPT's CSV files: columns are found by their names.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "workload/trace_reader.h"

namespace sextant {
namespace {

bool read_digits(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty() && text[0] != '-';
}

Status read_tokens(const TraceLine& line, std::string_view field, std::string_view text, int64_t min, int32_t& tokens) {
  int64_t value = 0;
  if (!read_digits(text, value) || value < min || value > kMaxTraceTokens)
    return trace_error(line, field, text, fmt::format("a whole number, {}..{}", min, kMaxTraceTokens));
  tokens = static_cast<int32_t>(value);
  return Status::ok();
}

class CsvReader : public LineReader {
 public:
  explicit CsvReader(const CsvColumns& columns) : columns_(columns) {}

  bool has_header() const override { return true; }

  Status header(const TraceLine& line) override {
    names_ = csv_fields(line.text);
    for (const std::string_view name : {columns_.time, columns_.input, columns_.output, columns_.images}) {
      const auto columns = std::count(names_.begin(), names_.end(), name);
      if (!name.empty() && columns != 1)
        return trace_error(line, "the header", fmt::format("\"{}\"", line.text.substr(0, 60)),
                           fmt::format("one with a column {}{}", name, columns > 1 ? ", and not with several" : ""));
    }
    return Status::ok();
  }

  Result<TraceRequest> request(const TraceLine& line) override {
    const std::vector<std::string> fields = csv_fields(line.text);
    if (std::count(line.text.begin(), line.text.end(), '"') % 2 != 0)
      return trace_error(line, "the line", "cut within quotes", "quotes in pairs");
    if (fields.size() != names_.size())
      return trace_error(line, "the number of fields", fmt::format("{}", fields.size()),
                         fmt::format("{} ({})", names_.size(), fmt::join(names_, ",")));
    TraceRequest request;
    SEXTANT_RETURN_IF_ERROR(read_time(line, fields[*index_of(columns_.time)], request.arrival_ms));
    SEXTANT_RETURN_IF_ERROR(
        read_tokens(line, columns_.input, fields[*index_of(columns_.input)], 1, request.input_length));
    SEXTANT_RETURN_IF_ERROR(
        read_tokens(line, columns_.output, fields[*index_of(columns_.output)], 0, request.output_length));
    if (columns_.images.empty()) return request;
    int32_t images = 0;
    SEXTANT_RETURN_IF_ERROR(read_tokens(line, columns_.images, fields[*index_of(columns_.images)], 0, images));
    images_ += images;
    return request;
  }

  void finish(Trace& trace) override {
    if (images_ > 0)
      trace.notes.push_back(fmt::format("{} images came with the requests: taken as tokens of the prompt", images_));
  }

 private:
  Status read_time(const TraceLine& line, const std::string& text, int64_t& milliseconds) const {
    if (!columns_.time_in_seconds) {
      if (read_timestamp(text, milliseconds)) return Status::ok();
      return trace_error(line, columns_.time, text, kTimestampForm);
    }
    double seconds = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || !(seconds >= 0 && seconds <= 1e12))
      return trace_error(line, columns_.time, text, "seconds, 0..1e12");
    milliseconds = static_cast<int64_t>(std::llround(seconds * 1000));
    return Status::ok();
  }

  std::optional<size_t> index_of(std::string_view name) const {
    for (size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == name) return i;
    return {};
  }

  CsvColumns columns_;
  std::vector<std::string> names_;
  int64_t images_ = 0;
};

}  // namespace

std::vector<std::string> csv_fields(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"' && quoted && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += c;  // a doubled quote stands for one
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  for (std::string& field : fields) {
    const size_t first = field.find_first_not_of(" \t"), last = field.find_last_not_of(" \t");
    field = first == std::string::npos ? "" : field.substr(first, last - first + 1);
  }
  return fields;
}

std::unique_ptr<LineReader> make_csv_reader(const CsvColumns& columns) { return std::make_unique<CsvReader>(columns); }

}  // namespace sextant
