// Parses JSON with limits, and writes it with the special words.
#include "types/json_text.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>

namespace sextant {
namespace {

constexpr std::array<std::string_view, 3> kPythonNumbers = {"-Infinity", "Infinity", "NaN"};

// The position after the string that begins at `at`.
size_t end_of_string(std::string_view text, size_t at) {
  for (++at; at < text.size() && text[at] != '"'; ++at)
    if (text[at] == '\\') ++at;
  return std::min(at + 1, text.size());
}

// Puts Python's numbers in quotes. Empty when the text is nested too deep.
std::optional<std::string> standard_json(std::string_view text) {
  std::string standard;
  standard.reserve(text.size());
  int level = 0;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '"') {
      const size_t end = end_of_string(text, at);
      standard.append(text.substr(at, end - at));
      at = end;
      continue;
    }
    if ((c == '{' || c == '[') && ++level > kMostJsonLevels) return {};
    if (c == '}' || c == ']') --level;
    bool quoted = false;
    for (const std::string_view word : kPythonNumbers) {
      if (text.substr(at, word.size()) != word) continue;
      standard.append("\"").append(word).append("\"");
      at += word.size();
      quoted = true;
      break;
    }
    if (quoted) continue;
    standard.push_back(c);
    ++at;
  }
  return standard;
}

}  // namespace

std::optional<nlohmann::json> parse_json(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) text.remove_prefix(kByteOrderMark.size());
  const auto standard = standard_json(text);
  if (!standard) return {};
  nlohmann::json value = nlohmann::json::parse(*standard, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return {};
  return value;
}

std::string shown_json(const nlohmann::json& value) {
  constexpr size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  return text.size() > kLongest ? text.substr(0, kLongest) + "..." : text;
}

Result<std::string> read_text_file(const std::string& path, std::string_view what, int64_t most_bytes) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream)
    return Status(StatusCode::kNotFound,
                  fmt::format("{} is \"{}\", which cannot be opened; allowed: a readable file", what, path));
  std::string text;
  std::array<char, 1 << 16> part;
  while (stream.read(part.data(), part.size()) || stream.gcount() > 0) {
    text.append(part.data(), static_cast<size_t>(stream.gcount()));
    if (static_cast<int64_t>(text.size()) > most_bytes)
      return invalid_argument(
          fmt::format("{} is \"{}\", longer than {} bytes; allowed: up to that", what, path, most_bytes));
  }
  return text;
}

}  // namespace sextant
