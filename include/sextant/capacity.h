// How many tokens and requests a model's KV cache holds, counted as vLLM counts its blocks.
//
// Layers that keep keys and values of one shape and one window are of one kind. Where there are several kinds, they are
// split into groups of one size; a block of the pool holds `block_size` tokens of one group's layers. A request takes
// blocks for its whole length from each group that sees everything, and for its window from each that slides.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sextant/model.h"

namespace sextant {

struct CapacityRequest {
  int64_t memory_bytes = 0;  // for keys and values, on each device
  KvFormat kv_format;
  int32_t block_size = 16;
  int32_t tensor_parallel = 1;            // devices that share the heads
  int32_t max_num_batched_tokens = 8192;  // a step's own tokens, which a window holds besides
};

// Layers that keep the same things.
struct CapacityKind {
  AttentionSpec spec;
  int32_t layers = 0;  // that keep keys and values
  int32_t shared = 0;  // that read those of others
  bool served = true;
  std::string what;           // why not served
  int64_t bytes_a_token = 0;  // of one layer, on one device
  int64_t most_tokens = 0;    // a request keeps in it; 0: all
  int64_t groups = 0;         // of the pool
};

struct Capacity {
  std::vector<CapacityKind> kinds;
  int64_t bytes_a_token = 0;  // of all layers, before any window gives blocks back
  int64_t group_layers = 0;   // layers of a group
  int64_t page_bytes = 0;     // of a block of one layer
  int64_t num_blocks = 0;
  std::vector<std::string> notes;

  // Blocks that a request of this many tokens takes at most.
  int64_t blocks_for(int64_t tokens, const CapacityRequest& request) const;
};

// Errors: a tensor_parallel that does not divide the heads, kinds whose pages cannot be made equal.
Result<Capacity> kv_capacity(const ModelShape& model, const CapacityRequest& request);

}  // namespace sextant
