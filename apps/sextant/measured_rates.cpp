// Takes the two rates that `sextant size` needs from the JSON of `sextant bench`.
#include "measured_rates.h"

#include <fmt/format.h>

#include "types/json_text.h"

namespace sextant::cli {
namespace {

using nlohmann::json;

constexpr int64_t kMostBytes = int64_t{256} << 20;

double number_at(const json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() && found->is_number() ? found->get<double>() : 0;
}

std::string text_at(const json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// "64q1s8k": nothing but requests of one token.
bool is_decode(const std::string& batch) {
  bool decodes = !batch.empty();
  for (size_t at = batch.find('q'); at != std::string::npos; at = batch.find('q', at + 1))
    decodes = decodes && batch.compare(at, 3, "q1s") == 0;
  return decodes && batch.find("q1s") != std::string::npos;
}

}  // namespace

Result<MeasuredRates> read_measured_rates(const std::string& path) {
  auto text = read_text_file(path, "--measured", kMostBytes);
  if (!text) return text.status();
  const std::string allowed = "what sextant bench --json prints, with a batch of decodes (64q1s8k)";
  const auto bench = parse_json(*text);
  if (!bench || !bench->is_object() || !bench->contains("ceilings") || !bench->contains("results") ||
      !bench->at("results").is_array())
    return invalid_argument(fmt::format("--measured is \"{}\", which is no such file; allowed: {}", path, allowed));
  MeasuredRates rates;
  rates.memory_gbs = number_at(bench->at("ceilings"), "gbs");
  if (bench->contains("machine")) rates.device = text_at(bench->at("machine"), "device_name");
  for (const json& result : bench->at("results")) {
    const double gbs = number_at(result, "gbs");
    if (!is_decode(text_at(result, "batch")) || gbs <= rates.attention_gbs) continue;
    rates.attention_gbs = gbs;
    rates.backend = text_at(result, "backend");
  }
  if (rates.attention_gbs <= 0 || rates.memory_gbs <= 0)
    return invalid_argument(fmt::format("--measured is \"{}\", which has no decodes; allowed: {}", path, allowed));
  return rates;
}

}  // namespace sextant::cli
