// Reads points in time as traces write them.
#include <algorithm>
#include <array>
#include <charconv>

#include "workload/trace_reader.h"

namespace sextant {
namespace {

// Days since 1970-01-01 of a Gregorian date (years from March on, so that the leap day is the last of its year).
int64_t days_since_epoch(int64_t year, int64_t month, int64_t day) {
  if (month <= 2) --year;
  const int64_t shifted = (month + 9) % 12;
  return 365 * year + year / 4 - year / 100 + year / 400 + (153 * shifted + 2) / 5 + day - 1 - 719468;
}

int64_t days_in_month(int64_t year, int64_t month) {
  const bool last = month == 12;
  return days_since_epoch(last ? year + 1 : year, last ? 1 : month + 1, 1) - days_since_epoch(year, month, 1);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// "dd" for a digit; every other character stands for itself.
bool has_form(std::string_view text, std::string_view form) {
  if (text.size() != form.size()) return false;
  for (size_t i = 0; i < form.size(); ++i)
    if (form[i] == 'd' ? !is_digit(text[i]) : text[i] != form[i]) return false;
  return true;
}

int64_t number(std::string_view digits) {
  int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

// "", "Z", "+00:00", "-0730".
bool read_offset(std::string_view text, int64_t& minutes) {
  minutes = 0;
  if (text.empty() || text == "Z") return true;
  if (text[0] != '+' && text[0] != '-') return false;
  const std::string_view rest = text.substr(1);
  if (!has_form(rest, "dd:dd") && !has_form(rest, "dddd")) return false;
  const int64_t hours = number(rest.substr(0, 2)), past = number(rest.substr(rest.size() - 2));
  if (hours > 23 || past > 59) return false;
  minutes = hours * 60 + past;
  if (text[0] == '-') minutes = -minutes;
  return true;
}

}  // namespace

bool read_timestamp(std::string_view text, int64_t& milliseconds) {
  constexpr std::string_view kForm = "dddd-dd-dd dd:dd:dd";
  constexpr size_t kMostFraction = 9;
  if (text.size() < kForm.size()) return false;
  std::string seconds(text.substr(0, kForm.size()));
  if (seconds[10] == 'T') seconds[10] = ' ';
  if (!has_form(seconds, kForm)) return false;
  std::array<int64_t, 6> part{};  // year, month, day, hour, minute, second
  constexpr std::array<std::pair<size_t, size_t>, 6> kParts = {{{0, 4}, {5, 2}, {8, 2}, {11, 2}, {14, 2}, {17, 2}}};
  for (size_t i = 0; i < part.size(); ++i)
    part[i] = number(std::string_view(seconds).substr(kParts[i].first, kParts[i].second));
  if (part[1] < 1 || part[1] > 12 || part[2] < 1 || part[2] > days_in_month(part[0], part[1]) || part[3] > 23 ||
      part[4] > 59 || part[5] > 60)
    return false;
  std::string_view rest = text.substr(kForm.size());
  int64_t fraction = 0;
  if (!rest.empty() && rest[0] == '.') {
    const size_t digits =
        static_cast<size_t>(std::find_if_not(rest.begin() + 1, rest.end(), is_digit) - rest.begin()) - 1;
    if (digits == 0 || digits > kMostFraction) return false;
    for (size_t i = 1; i <= 3; ++i) fraction = fraction * 10 + (i <= digits ? rest[i] - '0' : 0);
    rest.remove_prefix(digits + 1);
  }
  int64_t offset = 0;
  if (!read_offset(rest, offset)) return false;
  const int64_t minutes = (days_since_epoch(part[0], part[1], part[2]) * 24 + part[3]) * 60 + part[4] - offset;
  milliseconds = minutes * 60000 + part[5] * 1000 + fraction;
  return true;
}

}  // namespace sextant
