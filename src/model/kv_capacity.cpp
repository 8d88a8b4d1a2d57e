// What a model's caches take a token, and how many requests fit into memory.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "model/attention_facts.h"
#include "sextant/capacity.h"
#include "types/ceil_div.h"

namespace sextant {
namespace {

// Keys and values of a token, in one layer, on one device. KV heads are split among the devices, and repeated where
// there are fewer of them; a latent belongs to all heads and is on every device.
int64_t bytes_on_a_device(const AttentionSpec& spec, const CapacityRequest& request) {
  KvCacheSpec cache = kv_cache_for(spec, request.kv_format, request.block_size, 1);
  cache.num_kv_heads = std::max(cache.num_kv_heads / request.tensor_parallel, 1);
  return token_bytes(cache);
}

// What a request keeps of a layer: a window, or a chunk; 0: everything.
int64_t kept_tokens(const ModelLayer& layer) {
  const int32_t chunk = layer.attention.attention_chunk_size;
  return chunk > 0 ? int64_t{chunk} + 1 : layer.attention.sliding_window;
}

// Encoders see all of a prompt at once and keep nothing of it; what cross attention keeps does not grow with the
// tokens.
bool keeps_tokens(const ModelLayer& layer) { return layer.attends && layer.attention.causal && !layer.crosses; }

// Layers that do not attend and keep something of a fixed size for each request.
std::string note_states(const ModelShape& model) {
  int states = 0;
  for (const ModelLayer& layer : model.layers)
    for (const auto& [name, type] : model::attention_facts().at("layer_types").items())
      if (!layer.attends && type.at("name") == layer.not_served) {
        states += type.value("state", false) ? 1 : 0;
        break;
      }
  return states == 0 ? "" : fmt::format("the states that {} layers keep for each request are not counted", states);
}

Status check(const ModelShape& model, const CapacityRequest& request) {
  if (request.memory_bytes < 1)
    return invalid_argument(fmt::format("memory is {} bytes; allowed: >= 1", request.memory_bytes));
  if (request.block_size < 1)
    return invalid_argument(fmt::format("block_size is {}; allowed: >= 1", request.block_size));
  if (request.tensor_parallel < 1)
    return invalid_argument(fmt::format("tensor parallel is {}; allowed: >= 1", request.tensor_parallel));
  for (const ModelLayer& layer : model.layers)
    if (layer.attends && layer.attention.num_heads % request.tensor_parallel != 0)
      return invalid_argument(fmt::format("tensor parallel is {}; allowed: a divisor of num_attention_heads ({})",
                                          request.tensor_parallel, layer.attention.num_heads));
  return Status::ok();
}

std::vector<CapacityKind> kinds_of(const ModelShape& model, const CapacityRequest& request) {
  std::vector<CapacityKind> kinds;
  for (const ModelLayer& layer : model.layers) {
    if (!keeps_tokens(layer)) continue;
    const int64_t bytes = bytes_on_a_device(layer.attention, request), kept = kept_tokens(layer);
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const CapacityKind& one) {
      return one.bytes_a_token == bytes && one.most_tokens == kept && one.what == layer.not_served &&
             one.spec.head_dim == layer.attention.head_dim && one.spec.num_kv_heads == layer.attention.num_kv_heads;
    });
    if (kind == kinds.end())
      kind = kinds.insert(kinds.end(), {layer.attention, 0, 0, layer.served(), layer.not_served, bytes, kept, 0});
    ++(layer.shares_kv_with < 0 ? kind->layers : kind->shared);
  }
  return kinds;
}

}  // namespace

int64_t Capacity::blocks_for(int64_t tokens, const CapacityRequest& request) const {
  int64_t blocks = 0;
  for (const CapacityKind& kind : kinds) {
    if (kind.groups == 0) continue;
    // Kinds with less a token have longer blocks: pages are equal.
    const int64_t block = request.block_size * (page_bytes / (kind.bytes_a_token * request.block_size));
    const int64_t window = kind.most_tokens;
    const int64_t more = kind.spec.attention_chunk_size > 0 ? 0 : 1;  // a window may begin within a block
    const int64_t held = window == 0
                             ? ceil_div(tokens, block)
                             : ceil_div(std::min(window - 1 + request.max_num_batched_tokens, tokens), block) + more;
    blocks += kind.groups * held;
  }
  return blocks;
}

Result<Capacity> kv_capacity(const ModelShape& model, const CapacityRequest& request) {
  SEXTANT_RETURN_IF_ERROR(check(model, request));
  Capacity capacity;
  capacity.kinds = kinds_of(model, request);
  int64_t fewest = 0, most = 0;
  for (const CapacityKind& kind : capacity.kinds) {
    capacity.bytes_a_token += kind.bytes_a_token * kind.layers;
    capacity.page_bytes = std::max(capacity.page_bytes, kind.bytes_a_token * request.block_size);
    if (kind.layers == 0) continue;
    fewest = fewest == 0 ? kind.layers : std::min<int64_t>(fewest, kind.layers);
    most = std::max<int64_t>(most, kind.layers);
  }
  if (most == 0) return unsupported(fmt::format("{}: no layer keeps keys and values between steps", model.name));
  for (const ModelLayer& layer : model.layers)
    if (layer.crosses) {
      capacity.notes.emplace_back("what cross attention keeps does not grow with the tokens: not counted");
      break;
    }
  if (std::string note = note_states(model); !note.empty()) capacity.notes.push_back(std::move(note));
  for (const CapacityKind& kind : capacity.kinds)
    if (capacity.page_bytes % (kind.bytes_a_token * request.block_size) != 0) {
      // vLLM refuses these; memory for whole layers is a lower bound that always holds.
      capacity.notes.push_back(
          fmt::format("{} and {} bytes a token have no common page: blocks are counted for the larger one",
                      capacity.page_bytes / request.block_size, kind.bytes_a_token));
    }
  // The smaller count is the size of a group; where both are near, the larger one wastes less.
  capacity.group_layers = 2 * most < 3 * fewest ? most : fewest;
  for (CapacityKind& kind : capacity.kinds) kind.groups = ceil_div(kind.layers, capacity.group_layers);
  capacity.num_blocks = request.memory_bytes / capacity.page_bytes / capacity.group_layers;
  return capacity;
}

}  // namespace sextant
