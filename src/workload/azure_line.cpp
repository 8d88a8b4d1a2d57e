// 2023-11-16 18:15:46.6805900,374,44
#include <fmt/format.h>

#include <array>
#include <charconv>

#include "workload/trace_reader.h"

namespace sextant {
namespace {

constexpr size_t kFields = 3;

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

// Days since 1970-01-01 of a Gregorian date (years from March on, so that the leap day is the last of its year).
int64_t days_since_epoch(int64_t year, int64_t month, int64_t day) {
  if (month <= 2) --year;
  const int64_t shifted = (month + 9) % 12;
  return 365 * year + year / 4 - year / 100 + year / 400 + (153 * shifted + 2) / 5 + day - 1 - 719468;
}

// "YYYY-MM-DD HH:MM:SS[.fraction]" to milliseconds.
bool read_timestamp(std::string_view text, int64_t& milliseconds) {
  constexpr std::string_view kForm = "dddd-dd-dd dd:dd:dd";
  if (text.size() < kForm.size()) return false;
  for (size_t i = 0; i < kForm.size(); ++i)
    if (kForm[i] == 'd' ? (text[i] < '0' || text[i] > '9') : text[i] != kForm[i]) return false;
  std::array<int64_t, 6> part{};  // year, month, day, hour, minute, second
  constexpr std::array<std::pair<size_t, size_t>, 6> kParts = {{{0, 4}, {5, 2}, {8, 2}, {11, 2}, {14, 2}, {17, 2}}};
  for (size_t i = 0; i < part.size(); ++i) read_digits(text.substr(kParts[i].first, kParts[i].second), part[i]);
  if (part[1] < 1 || part[1] > 12 || part[2] < 1 || part[2] > 31 || part[3] > 23 || part[4] > 59 || part[5] > 60)
    return false;
  int64_t fraction = 0;
  std::string_view rest = text.substr(kForm.size());
  if (!rest.empty()) {
    int64_t all = 0;
    if (rest[0] != '.' || rest.size() > 10 || !read_digits(rest.substr(1), all)) return false;
    for (size_t i = 1; i <= 3; ++i) fraction = fraction * 10 + (i < rest.size() ? rest[i] - '0' : 0);
  }
  milliseconds =
      ((days_since_epoch(part[0], part[1], part[2]) * 24 + part[3]) * 60 + part[4]) * 60000 + part[5] * 1000 + fraction;
  return true;
}

}  // namespace

Result<TraceRequest> parse_azure_line(const TraceLine& line) {
  std::array<std::string_view, kFields> fields;
  size_t count = 0;
  for (size_t begin = 0; begin <= line.text.size(); ++count) {
    const size_t end = std::min(line.text.find(',', begin), line.text.size());
    if (count < kFields) fields[count] = line.text.substr(begin, end - begin);
    begin = end + 1;
  }
  if (count != kFields)
    return trace_error(line, "the number of fields", fmt::format("{}", count),
                       fmt::format("{} ({})", kFields, kAzureHeader));
  TraceRequest request;
  if (!read_timestamp(fields[0], request.arrival_ms))
    return trace_error(line, "TIMESTAMP", fields[0], "YYYY-MM-DD HH:MM:SS[.fraction]");
  SEXTANT_RETURN_IF_ERROR(read_tokens(line, "ContextTokens", fields[1], 1, request.input_length));
  SEXTANT_RETURN_IF_ERROR(read_tokens(line, "GeneratedTokens", fields[2], 0, request.output_length));
  return request;
}

}  // namespace sextant
