// From a config.json to the kinds of attention layers of a model.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "sextant/model.h"
#include "types/json_text.h"

namespace sextant {
namespace {

using nlohmann::json;

constexpr int64_t kMostConfigBytes = int64_t{64} << 20;  // real ones are a few kilobytes; some list every tensor

Status not_json(std::string_view name) {
  return invalid_argument(
      fmt::format("the config of {} is not a JSON object; allowed: a Hugging Face config.json", name));
}

// Decoder layers of an encoder-decoder model attend twice; the second time is not a paged self attention.
void note_cross_attention(const model::ConfigPart& part, size_t layers, ModelShape& shape) {
  if (part.cross_attention)
    shape.notes.push_back(
        fmt::format("{} {}layers also attend to the encoder's output (cross attention): not served here", layers,
                    part.name.empty() ? "" : part.name + " "));
}

// What all layers together say, counted and named: first, since it matters most.
void note_unserved(ModelShape& shape) {
  std::vector<std::string> notes;
  for (const UnservedKind& kind : unserved_kinds(shape)) notes.push_back(describe(kind, shape.layers.size()));
  shape.notes.insert(shape.notes.begin(), notes.begin(), notes.end());
}

Status add_part(const model::ConfigPart& part, ModelShape& shape) {
  auto layers = model::part_layers(part, shape.notes);
  if (!layers) return layers.status();
  const auto offset = static_cast<int32_t>(shape.layers.size());
  for (ModelLayer& layer : *layers) {
    if (layer.shares_kv_with >= 0) layer.shares_kv_with += offset;
    shape.layers.push_back(std::move(layer));
  }
  const json& facts = model::facts_of(part.model_type);
  static const json kNone = json::object();
  const json& defaults = facts.contains("defaults") ? facts.at("defaults") : kNone;
  const model::ConfigFields fields(part.fields, part.prefix, &defaults);
  auto hidden = fields.whole({"hidden_size", "n_embd", "n_embed"}, 1, 0);
  if (!hidden) return hidden.status();
  auto width = fields.whole({"d_model", "model_dim"}, 1, 0);
  if (!width) return width.status();
  shape.hidden_size = static_cast<int32_t>(*hidden > 0 ? *hidden : *width);
  int64_t longest = 0;
  for (const char* name : {"max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "seq_length",
                           "model_max_length", "max_target_positions"}) {
    auto positions = fields.whole({name}, 1, 0);
    if (!positions) return positions.status();
    if (longest == 0) longest = *positions;
  }
  shape.max_position_embeddings = longest;
  model::note_fields(part, shape.notes);
  note_cross_attention(part, layers->size(), shape);
  return Status::ok();
}

}  // namespace

Result<ModelShape> parse_model_config(std::string_view json_text, std::string_view name) {
  const auto config = parse_json(json_text);
  if (!config || !config->is_object()) return not_json(name);
  const model::ConfigFields outer(*config);
  auto type = outer.text({"model_type"}, "");
  if (!type) return type.status();
  ModelShape shape;
  shape.name = name;
  auto parts = model::config_parts(*config, shape.notes);
  if (!parts) return parts.status();
  for (const model::ConfigPart& part : *parts) {
    SEXTANT_RETURN_IF_ERROR(add_part(part, shape));
    shape.model_type = part.model_type;
  }
  note_unserved(shape);
  // Parts and kinds of layers may have the same to say.
  std::vector<std::string> once;
  for (std::string& note : shape.notes)
    if (std::find(once.begin(), once.end(), note) == once.end()) once.push_back(std::move(note));
  shape.notes = std::move(once);
  return shape;
}

Result<ModelShape> read_model_config(const std::string& path) {
  std::error_code error;
  std::filesystem::path file(path);
  if (std::filesystem::is_directory(file, error)) {
    // Mistral's own format has params.json alone.
    const bool params = !std::filesystem::exists(file / "config.json", error);
    file /= params && std::filesystem::exists(file / "params.json", error) ? "params.json" : "config.json";
  }
  auto text = read_text_file(file.string(), "model", kMostConfigBytes);
  if (!text) return text.status();
  // Name a model by its folder when the file is called config.json, as checkpoints are laid out.
  const std::filesystem::path whole = std::filesystem::absolute(file, error);
  const bool named_by_folder = whole.filename() == "config.json" || whole.filename() == "params.json";
  const std::string name = named_by_folder ? whole.parent_path().filename().string() : whole.stem().string();
  auto shape = parse_model_config(*text, name);
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
