// Which type each layer has. Newer configs list layer_types; older ones have a list or a pattern of their own; the rest
// is the model type's habit (attention_facts.json).
#include <fmt/format.h>

#include <algorithm>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "types/json_text.h"

namespace sextant::model {
namespace {

using nlohmann::json;
using Types = std::vector<std::string>;

constexpr int64_t kMostLayers = 10000;  // a config that says more is broken, and would cost memory

// A list of names, one a layer.
Result<Types> named_list(const ConfigFields& fields, const std::string& field, const json& list) {
  if (!list.is_array()) return fields.error(field, list, "a list of strings, one a layer");
  Types types;
  for (const json& entry : list) {
    const std::string type = entry.is_string() ? entry.get<std::string>() : "";
    if (layer_type_facts(type) == nullptr)
      return fields.error(fmt::format("{}[{}]", field, types.size()), entry, known_layer_types());
    types.push_back(type);
  }
  return types;
}

// A list of numbers or letters, each standing for a type: {"0": "full_attention", "1": "sliding_attention"}.
Result<Types> coded_list(const ConfigFields& fields, const std::string& field, const json& list, const json& codes) {
  const auto allowed = [&codes] {
    std::string text;
    for (const auto& [code, type] : codes.items()) text += fmt::format("{}{}", text.empty() ? "" : ", ", code);
    return text;
  };
  std::vector<std::string> entries;
  if (list.is_string()) {
    for (const char c : list.get<std::string>()) entries.emplace_back(1, c);
  } else if (list.is_array()) {
    for (const json& entry : list)
      entries.push_back(entry.is_string()    ? entry.get<std::string>()
                        : entry.is_boolean() ? entry == true ? "1" : "0"
                                             : entry.dump());
  } else {
    return fields.error(field, list, "a list or a string, one entry a layer");
  }
  Types types;
  for (const std::string& entry : entries) {
    const auto code = codes.find(entry);
    if (code == codes.end()) return fields.error(fmt::format("{}[{}]", field, types.size()), entry, allowed());
    types.push_back(code->get<std::string>());
  }
  return types;
}

// Numbers of layers that have one type; the others have another.
Result<Types> index_list(const ConfigFields& fields, const std::string& name, const json& rule, int64_t num_layers,
                         Types types) {
  auto numbers = fields.whole_list(name, 0);
  if (!numbers) return numbers.status();
  const int64_t base = rule.value("base", int64_t{0});
  for (size_t i = 0; i < numbers->size(); ++i) {
    const int64_t layer = (*numbers)[i] - base;
    if (layer >= num_layers && fields.given({name}) == nullptr) continue;  // the class's own list, for a taller model
    if (layer < 0 || layer >= num_layers)
      return fields.error(fmt::format("{}[{}]", name, i), (*numbers)[i],
                          fmt::format("{}..{} (a layer)", base, num_layers - 1 + base));
    types[static_cast<size_t>(layer)] = rule.at("type").get<std::string>();
  }
  return types;
}

// A second list that names the other layers must name those and no more (Kimi's kda_layers).
Status check_others(const ConfigFields& fields, const json& rule, const Types& types) {
  const std::string name = rule.value("others", std::string());
  if (name.empty() || fields.given({name}) == nullptr) return Status::ok();
  auto numbers = fields.whole_list(name, 0);
  if (!numbers) return numbers.status();
  std::vector<bool> listed(types.size(), false);
  bool fits = true;
  for (const int64_t number : *numbers) {
    const int64_t layer = number - rule.value("base", int64_t{0});
    if (layer >= 0 && layer < static_cast<int64_t>(types.size()))
      listed[static_cast<size_t>(layer)] = true;
    else
      fits = false;
  }
  for (size_t layer = 0; layer < types.size(); ++layer)
    fits = fits && listed[layer] == (types[layer] == rule.at("rest").get<std::string>());
  if (fits) return Status::ok();
  return fields.error(name, *fields.given({name}),
                      fmt::format("the layers that {} does not list", rule.at("field").get<std::string>()));
}

// GPT-Neo: [[["global", "local"], 12]].
Result<Types> repeated_lists(const ConfigFields& fields, const std::string& field, const json& list) {
  const std::string allowed = "a list of [[types], times]";
  if (!list.is_array()) return fields.error(field, list, allowed);
  json flat = json::array();
  for (const json& entry : list) {
    const bool fits = entry.is_array() && entry.size() == 2 && entry[0].is_array() && entry[1].is_number_integer() &&
                      entry[1] >= 0 && entry[1] <= kMostLayers;
    if (!fits) return fields.error(field, entry, allowed);
    for (int64_t times = entry[1].get<int64_t>(); times > 0 && !entry[0].empty(); --times)
      for (const json& type : entry[0]) {
        if (static_cast<int64_t>(flat.size()) >= kMostLayers) return fields.error(field, entry, "at most 10000 layers");
        flat.push_back(type);
      }
  }
  return named_list(fields, field, flat);
}

// The first layers, where they do not follow the rule.
Types head_of(const json& rule, int64_t num_layers) {
  Types types = rule.value("head", Types());
  if (static_cast<int64_t>(types.size()) > num_layers) types.resize(static_cast<size_t>(num_layers));
  return types;
}

// Every n-th layer has one type, the others another.
Result<Types> periodic(const ConfigFields& fields, const json& rule, int64_t num_layers) {
  const std::string every_from = rule.value("every_from", std::string("?"));
  // Gemma 3's class has a name with an underscore, its configs one without.
  auto every = fields.whole({every_from, every_from[0] == '_' ? every_from.substr(1) : every_from}, 1,
                            rule.value("every", int64_t{1}));
  if (!every) return every.status();
  // The full ones come at the end of each period (offset every - 1) unless said otherwise.
  auto offset = fields.whole({rule.value("offset_from", std::string("?"))}, 0, rule.value("offset", *every - 1));
  if (!offset) return offset.status();
  Types types = head_of(rule, num_layers);
  const auto head = static_cast<int64_t>(types.size());
  for (int64_t layer = head; layer < num_layers; ++layer) {
    const int64_t at = rule.value("from_end", false) ? num_layers - layer - 1 + *offset : layer - head;
    bool chosen = at % *every == *offset % *every;
    chosen =
        chosen || (rule.value("last", false) && layer == num_layers - 1) || layer < rule.value("first", int64_t{0});
    chosen = chosen && layer >= rule.value("not_before", int64_t{0});
    types.push_back(rule.at(chosen ? "type" : "rest").get<std::string>());
  }
  return types;
}

// Qwen: layers from max_window_layers on slide, where use_sliding_window says so.
Result<Types> from_layer_on(const ConfigFields& fields, int64_t num_layers) {
  auto first = fields.whole({"max_window_layers"}, 0, 0);
  if (!first) return first.status();
  Types types(static_cast<size_t>(num_layers), "sliding_attention");
  for (int64_t layer = 0; layer < std::min(*first, num_layers); ++layer)
    types[static_cast<size_t>(layer)] = "full_attention";
  return types;
}

// Classes that have no window ignore one that a config brings; of the others nobody knows.
bool reads_window(const json& facts) {
  const std::string from = facts.value("from", std::string());
  if (!from.ends_with("Config") || facts.value("takes_window", false) || facts.contains("window_from")) return true;
  const json none = json::object();
  const json& defaults = facts.contains("defaults") ? facts.at("defaults") : none;
  return defaults.contains("sliding_window") || defaults.contains("sliding_window_size") ||
         defaults.contains("attention_window_size");
}

Result<bool> window_is_on(const ConfigFields& fields, const json& facts) {
  auto used = fields.flag({"use_sliding_window"}, true);
  if (!used) return used;
  if (!*used) {  // switched off: whatever they say
    fields.mark_read({"sliding_window", "sliding_window_size", "max_window_layers", "sliding_window_pattern"});
    return false;
  }
  return fields.find({facts.value("window_from", std::string("sliding_window")), "sliding_window",
                      "sliding_window_size", "attention_window_size"}) != nullptr;
}

// The types go round the layers; the last one may be fixed (EXAONE 4's "LLLG").
void go_round(const json& rule, int64_t num_layers, Types& types) {
  const Types once = types;
  types.resize(static_cast<size_t>(num_layers));
  for (size_t layer = 0; layer < types.size(); ++layer) types[layer] = once[layer % once.size()];
  if (rule.contains("last")) types.back() = rule.at("last").get<std::string>();
}

// What one of the lists says, or nothing where the config has none.
Result<std::optional<Types>> read_list(const ConfigFields& fields, const json& facts, const json& rule,
                                       int64_t num_layers) {
  const std::optional<Types> none;
  const std::string field = rule.at("field").get<std::string>();
  if (rule.contains("only") && facts.value("lists", std::string()) != rule.at("only").get<std::string>()) return none;
  const std::string outer = rule.value("in", std::string());
  auto section = outer.empty() ? Result<ConfigFields>(fields) : fields.section(outer);
  if (!section) return section.status();
  const json* list = section->find({field});
  if (list == nullptr) return none;
  if (rule.contains("only") && list->is_array() && list->empty()) return none;  // Llama 4 writes [] for "the usual"
  if (list->is_number() && rule.value("number_elsewhere", false)) return none;  // a period, not a list
  const std::string kind = rule.at("is").get<std::string>();
  const std::string rest = rule.value("rest", std::string("full_attention"));
  const Types all_rest(static_cast<size_t>(std::max<int64_t>(num_layers, 0)), rest);
  auto types = kind == "names"                      ? named_list(*section, field, *list)
               : kind == "codes" || kind == "cycle" ? coded_list(*section, field, *list, rule.at("codes"))
               : kind == "repeat"                   ? repeated_lists(*section, field, *list)
                                                    : index_list(*section, field, rule, num_layers, all_rest);
  if (!types) return types.status();
  if (kind == "indices") SEXTANT_RETURN_IF_ERROR(check_others(*section, rule, *types));
  if (kind == "cycle" && types->empty()) return section->error(field, *list, "at least one type");
  if (kind == "cycle" && static_cast<int64_t>(types->size()) != num_layers && num_layers > 0)
    go_round(rule, num_layers, *types);
  // A list that goes on beyond the layers describes those that predict further tokens: not part of the stack.
  if (rule.value("may_be_longer", false) && num_layers > 0 && static_cast<int64_t>(types->size()) > num_layers)
    types->resize(static_cast<size_t>(num_layers));
  if (num_layers > 0 && static_cast<int64_t>(types->size()) != num_layers)
    return section->error(field, *list, fmt::format("a list of num_hidden_layers ({}) strings", num_layers));
  if (types->empty() || static_cast<int64_t>(types->size()) > kMostLayers)
    return section->error(field, *list, fmt::format("1..{} layers", kMostLayers));
  return std::optional<Types>(std::move(*types));
}

// Layers of one kind have one mask, whatever their types are called.
bool same_kinds(const Types& one, const Types& other) {
  return std::equal(one.begin(), one.end(), other.begin(), other.end(), [](const auto& a, const auto& b) {
    return layer_type_facts(a)->at("as") == layer_type_facts(b)->at("as");
  });
}

// The first of the config's own lists counts; another that says something else is named.
Result<std::optional<Types>> listed(const ConfigFields& fields, const json& facts, int64_t num_layers,
                                    std::vector<std::string>& notes) {
  std::optional<Types> chosen;
  std::string chosen_field;
  for (const json& rule : attention_facts().at("layer_lists")) {
    const auto layers = chosen ? static_cast<int64_t>(chosen->size()) : num_layers;
    auto types = read_list(fields, facts, rule, layers);
    if (!types) {
      if (!chosen) return types.status();
      continue;  // history beside the list that counts
    }
    if (!*types) continue;
    const std::string field = rule.at("field").get<std::string>();
    if (!chosen) {
      chosen = std::move(*types);
      chosen_field = field;
    } else if (!same_kinds(*chosen, **types)) {
      notes.push_back(
          fmt::format("{} and {} do not say the same of the layers: the first counts", chosen_field, field));
    }
  }
  return chosen;
}

Result<Types> by_habit(const ConfigFields& fields, const json& facts, int64_t num_layers) {
  const bool plain = !facts.contains("pattern") || facts.at("pattern").contains("from_max_window_layers") ||
                     facts.at("pattern").contains("qwen2_moe");
  auto window = plain && reads_window(facts) ? window_is_on(fields, facts) : Result<bool>(false);
  if (!window) return window.status();
  // Configs of unknown types may name a pattern all the same.
  if (!facts.contains("pattern")) {
    auto pattern = fields.whole({"sliding_window_pattern", "_sliding_window_pattern"}, 1, 0);
    if (!pattern) return pattern.status();
    if (!*window) return Types(static_cast<size_t>(num_layers), "full_attention");
    if (*pattern > 0)
      return periodic(fields, {{"every", *pattern}, {"type", "full_attention"}, {"rest", "sliding_attention"}},
                      num_layers);
    return from_layer_on(fields, num_layers);
  }
  const json& rule = facts.at("pattern");
  if (rule.contains("every")) return periodic(fields, rule, num_layers);
  if (rule.contains("cycle")) {
    Types types = head_of(rule, num_layers);
    const size_t head = types.size();
    const json& cycle = rule.at("cycle");
    for (size_t layer = head; layer < static_cast<size_t>(num_layers); ++layer)
      types.push_back(cycle[(layer - head) % cycle.size()].get<std::string>());
    return types;
  }
  const std::string named = rule.value("all", std::string("full_attention"));
  const bool alternate = rule.contains("qwen2_moe");  // every other of the first max_window_layers
  if (alternate && *window) {
    auto first = fields.whole({"max_window_layers"}, 0, 0);
    if (!first) return first.status();
    Types types;
    for (int64_t layer = 0; layer < num_layers; ++layer)
      types.emplace_back((layer + 1) % 2 != 0 && layer < *first ? "sliding_attention" : "full_attention");
    return types;
  }
  if (rule.contains("from_max_window_layers") && *window) return from_layer_on(fields, num_layers);
  if (rule.contains("from_max_window_layers") || alternate)
    return Types(static_cast<size_t>(num_layers), "full_attention");
  return Types(static_cast<size_t>(num_layers), named);
}

}  // namespace

Result<Types> layer_types(const ConfigFields& fields, const json& facts, std::vector<std::string>& notes) {
  const ConfigFields::Names weaker = {"num_layers", "num_transformer_layers", "depth", "encoder_layers"};
  auto weak = fields.whole(weaker, 1, 0);
  if (!weak) return weak.status();
  const bool list_alone = facts.value("counts_by_list", false);  // the list says how many, the number is history
  const bool counted = fields.given({"num_hidden_layers", "n_layer", "n_layers", "num_layers"}) != nullptr;
  bool has_list = false;  // one that has an entry for every layer
  for (const json& rule : attention_facts().at("layer_lists"))
    has_list = has_list || (rule.value("every_layer", false) && !rule.contains("only") &&
                            fields.given({rule.at("field").get<std::string>()}) != nullptr);
  auto num_layers = fields.whole({"num_hidden_layers", "n_layer", "n_layers"}, weaker, 1,
                                 has_list ? std::optional<int64_t>(0) : std::nullopt);
  if (!num_layers) return num_layers.status();
  const json *one = fields.given({"num_hidden_layers", "n_layer", "n_layers"}), *other = fields.given({"num_layers"});
  if (one != nullptr && other != nullptr && *one != *other && !facts.contains("encoder_decoder"))
    notes.push_back(fmt::format("num_layers is {} beside num_hidden_layers {}: the latter counts", shown_json(*other),
                                shown_json(*one)));
  // LongCat counts pairs of attention layers.
  if (*weak > 0) *num_layers *= facts.value("layers_times", int64_t{1});
  if (*num_layers > kMostLayers)
    return invalid_argument(
        fmt::format("{}.num_hidden_layers is {}; allowed: 1..{}", fields.prefix(), *num_layers, kMostLayers));
  const bool counted_by_list = (list_alone || !counted) && has_list;
  auto list = listed(fields, facts, counted_by_list ? 0 : *num_layers, notes);
  if (!list) return list.status();
  if (*list) {
    // A list decides: the periods and older lists beside it say the same in other words, or nothing.
    for (const json& field : attention_facts().at("layer_habit_fields")) fields.mark_read({field.get<std::string>()});
    for (const json& rule : attention_facts().at("layer_lists"))
      fields.mark_read({rule.value("in", rule.at("field").get<std::string>())});
    if (counted_by_list && counted && static_cast<int64_t>((*list)->size()) != *num_layers)
      notes.push_back(
          fmt::format("{} layers are listed and num_hidden_layers is {}: the list counts, as in the "
                      "model's class",
                      (*list)->size(), *num_layers));
    return std::move(**list);
  }
  if (*num_layers == 0)
    return invalid_argument(
        fmt::format("{}.num_hidden_layers is missing; allowed: 1..{}", fields.prefix(), kMostLayers));
  for (const json& rule : attention_facts().at("layer_lists")) {
    const std::string outer = rule.value("in", std::string());
    const json* section = outer.empty() ? nullptr : fields.given({outer});
    if (section != nullptr && section->is_object() && !section->empty())
      notes.push_back(fmt::format("{} has no {}: not taken into account", outer, rule.at("field").get<std::string>()));
  }
  const std::string needed = facts.value("needs_list", std::string());
  if (!needed.empty() && fields.given({needed}) == nullptr)
    return invalid_argument(fmt::format(
        "{}.{} is missing; allowed: an entry for every layer, as layers of this type differ", fields.prefix(), needed));
  auto types = by_habit(fields, facts, *num_layers);
  if (types && facts.contains("pattern") &&
      (facts.at("pattern").contains("every") || facts.at("pattern").contains("cycle"))) {
    bool said = false;  // by a period or a number of its own
    for (const json& field : attention_facts().at("layer_habit_fields"))
      said = said || fields.given({field.get<std::string>()}) != nullptr;
    if (!said)
      notes.push_back(fmt::format("the config does not say which layers differ: as {} has them",
                                  facts.value("from", std::string("the model's class"))));
  }
  const json* window = fields.given({"use_sliding_window"});
  const std::string own = facts.value("window_from", std::string("sliding_window"));
  if (types && window != nullptr && *window == true &&
      fields.find({own, "sliding_window", "sliding_window_size", "attention_window_size"}) == nullptr)
    notes.push_back("use_sliding_window is true and no window is given: layers see everything");
  return types;
}

}  // namespace sextant::model
