// Model shapes: what attention each layer of a model wants, from a Hugging Face config.json or a built-in table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sextant/kv_cache.h"
#include "sextant/spec.h"

namespace sextant {

struct ModelShape {
  std::string name;
  std::string source;  // "built in" or the file
  int32_t hidden_size = 0;
  int64_t max_position_embeddings = 0;  // 0: not said
  std::vector<AttentionSpec> layers;    // one a layer, first to last
  std::vector<std::string> notes;       // what was assumed, and what this library does not express
};

// Layers that want the same attention.
struct LayerKind {
  AttentionSpec spec;
  std::vector<int32_t> layers;
};
std::vector<LayerKind> layer_kinds(const ModelShape& model);  // in order of first appearance

// The text of a config.json. Errors name the field, its value and what is allowed.
Result<ModelShape> parse_model_config(std::string_view json_text, std::string_view name);
// A file, or a folder that holds config.json.
Result<ModelShape> read_model_config(const std::string& path);

// The built-in table, by name whatever the case; kNotFound with a "did you mean".
Result<ModelShape> find_known_model(std::string_view name);
std::vector<std::string> known_model_names();

// What `--model` takes: a path that exists or ends in .json, else a built-in name.
Result<ModelShape> load_model(const std::string& name_or_path);

// The paged cache of one layer. kNHD stands for "any MHA layout" until a backend is chosen; MLA gives kLatent.
KvCacheSpec kv_cache_for(const AttentionSpec& spec, DType dtype, int32_t block_size, int64_t num_blocks);

// The slopes of the ALiBi paper (arXiv:2108.12409) for a head count: 2^(-8 i / n) for n a power of two, otherwise those
// of the next smaller power followed by every other one of the next larger.
std::vector<float> alibi_slopes(int32_t num_heads);

}  // namespace sextant
