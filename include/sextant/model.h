// Model shapes: what attention each layer of a model wants, from a Hugging Face config.json or a built-in table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sextant/kv_cache.h"
#include "sextant/spec.h"

namespace sextant {

// A layer of a model, whether this library serves it or not.
struct ModelLayer {
  // What it wants. Where it is not served: as much of it as the spec can say, for sizes (its heads, its head sizes).
  AttentionSpec attention;
  std::string not_served;  // "linear attention", "cross attention", ...; empty: served where a backend takes the spec
  bool attends = true;     // false: it keeps no keys and values (linear attention, convolutions, experts alone)
  int32_t shares_kv_with = -1;  // reads the keys and values of that earlier layer and keeps none of its own
  bool crosses = false;         // attends to an encoder's output or an image, not to earlier tokens
  std::string part;             // "encoder" or "decoder" where a model has both

  bool served() const { return not_served.empty(); }
};

struct ModelShape {
  std::string name;
  std::string source;      // "built in" or the file
  std::string model_type;  // of the part that is read; empty: the config names none
  int32_t hidden_size = 0;
  int64_t max_position_embeddings = 0;  // 0: not said
  std::vector<ModelLayer> layers;       // one a layer, first to last; an encoder's before its decoder's
  std::vector<std::string> notes;       // what was assumed, and what this library does not express
};

// Served layers that want the same attention.
struct LayerKind {
  AttentionSpec spec;
  std::vector<int32_t> layers;
  std::string part;  // "encoder", "decoder" or empty
};
std::vector<LayerKind> layer_kinds(const ModelShape& model);  // in order of first appearance

// Layers that are not served, for one reason.
struct UnservedKind {
  std::string what;  // ModelLayer::not_served
  bool attends = true;
  AttentionSpec spec;
  std::vector<int32_t> layers;
  std::string part;  // "encoder", "decoder" or empty
};
std::vector<UnservedKind> unserved_kinds(const ModelShape& model);
// "36 of 48 layers are linear attention: not served here".
std::string describe(const UnservedKind& kind, size_t num_layers);

// The text of a config.json. Errors name the field, its value and what is allowed.
Result<ModelShape> parse_model_config(std::string_view json_text, std::string_view name);
// A file, or a folder that holds config.json.
Result<ModelShape> read_model_config(const std::string& path);

// The built-in table, by name whatever the case; kNotFound with a "did you mean".
Result<ModelShape> find_known_model(std::string_view name);
std::vector<std::string> known_model_names();

// What `--model` takes: a path that exists or ends in .json, else a built-in name.
Result<ModelShape> load_model(const std::string& name_or_path);

// The paged cache of one layer: kPreferred until a backend is chosen (with_layout), kLatent for MLA.
KvCacheSpec kv_cache_for(const AttentionSpec& spec, KvFormat format, int32_t block_size, int64_t num_blocks);
// Of a token's keys and values in it, scales included.
int64_t token_bytes(const KvCacheSpec& cache);

// The slopes of the ALiBi paper (arXiv:2108.12409) for a head count: 2^(-8 i / n) for n a power of two, otherwise those
// of the next smaller power followed by every other one of the next larger.
std::vector<float> alibi_slopes(int32_t num_heads);

}  // namespace sextant
