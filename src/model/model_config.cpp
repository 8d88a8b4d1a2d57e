#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "model/config_rules.h"
#include "sextant/model.h"

namespace sextant {
namespace {

using nlohmann::json;

Status not_json(std::string_view name) {
  return invalid_argument(
      fmt::format("the config of {} is not a JSON object; allowed: a Hugging Face config.json", name));
}

// Models that see or hear keep the language model's shape in a part of its own, whose dtype may stand outside.
json language_part(const json& config) {
  for (const char* part : {"text_config", "llm_config", "language_config"}) {
    const auto found = config.find(part);
    if (found == config.end() || !found->is_object()) continue;
    json text = *found;
    for (const char* inherited : {"dtype", "torch_dtype"})
      if (!text.contains(inherited) && config.contains(inherited)) text[inherited] = config[inherited];
    return text;
  }
  return config;
}

void note_unexpressed(const model::ConfigFields& fields, std::vector<std::string>& notes) {
  if (fields.has("index_topk")) notes.push_back("sparse attention (index_topk) is not expressed: every key takes part");
  if (fields.has("attention_chunk_size")) notes.push_back("attention_chunk_size is not expressed");
}

}  // namespace

Result<ModelShape> parse_model_config(std::string_view json_text, std::string_view name) {
  const json config = json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded() || !config.is_object()) return not_json(name);
  const json text = language_part(config);
  const model::ConfigFields fields(text);
  ModelShape shape;
  shape.name = name;
  auto base = model::base_spec(fields, shape.notes);
  if (!base) return base.status();
  auto layers = model::layer_specs(fields, *base, shape.notes);
  if (!layers) return layers.status();
  shape.layers = std::move(*layers);
  auto hidden = fields.whole({"hidden_size", "n_embd", "d_model"}, 1, 0);
  if (!hidden) return hidden.status();
  shape.hidden_size = static_cast<int32_t>(*hidden);
  auto positions = fields.whole(
      {"max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "seq_length"}, 1, 0);
  if (!positions) return positions.status();
  shape.max_position_embeddings = *positions;
  note_unexpressed(fields, shape.notes);
  return shape;
}

Result<ModelShape> read_model_config(const std::string& path) {
  std::error_code error;
  std::filesystem::path file(path);
  if (std::filesystem::is_directory(file, error)) file /= "config.json";
  std::ifstream stream(file, std::ios::binary);
  if (!stream)
    return Status(
        StatusCode::kNotFound,
        fmt::format("model is \"{}\", which cannot be opened; allowed: a readable config.json", file.string()));
  std::stringstream text;
  text << stream.rdbuf();
  // Name a model by its folder when the file is called config.json, as checkpoints are laid out.
  const std::filesystem::path whole = std::filesystem::absolute(file, error);
  const std::string name =
      whole.filename() == "config.json" ? whole.parent_path().filename().string() : whole.stem().string();
  auto shape = parse_model_config(text.str(), name);
  if (!shape) return Status(shape.status().code(), fmt::format("{}: {}", file.string(), shape.status().message()));
  shape->source = file.string();
  return shape;
}

Result<ModelShape> load_model(const std::string& name_or_path) {
  std::error_code error;
  const bool looks_like_path = name_or_path.size() > 5 && name_or_path.substr(name_or_path.size() - 5) == ".json";
  auto known = find_known_model(name_or_path);
  if (known) return known;
  if (looks_like_path || std::filesystem::exists(name_or_path, error)) return read_model_config(name_or_path);
  return known;
}

}  // namespace sextant
