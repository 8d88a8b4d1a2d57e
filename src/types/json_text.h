// JSON that may come from anywhere: nothing that is written there may crash the reader or make it slow.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "sextant/status.h"

namespace sextant {

// Python's json writes NaN, Infinity and -Infinity, which JSON does not have: they come out as these words in a string,
// so that a field that needs a number refuses them by name. Empty: not JSON, or nested more than kMostJsonLevels deep
// (whoever walks a value recurses once a level).
inline constexpr int kMostJsonLevels = 64;
std::optional<nlohmann::json> parse_json(std::string_view text);

// The value on one line, cut to a length that fits a message.
std::string shown_json(const nlohmann::json& value);

// A whole file of at most `most_bytes`; `what` names it in messages ("model", "trace").
Result<std::string> read_text_file(const std::string& path, std::string_view what, int64_t most_bytes);

}  // namespace sextant
