// Runs of tokens into the packed layout: rows of a panel are written together, so that its cache lines are written once
// instead of once a token.
#pragma once

#include <cstdint>

#include "sextant/kv_cache.h"

namespace sextant::cpu {

// The layouts whose runs write_key_run and write_value_run know: pairs of dims of 16-token panels, pairs of tokens, of
// 16 or 8 bits.
bool packs_keys(const KvAddressing& address, DType dtype);
bool packs_values(const KvAddressing& address, DType dtype);

// Tokens slot_mapping[first, ..) that follow each other in one 16-token panel of one block; 1 at least. `first` has a
// slot.
int64_t run_of_slots(const int64_t* slot_mapping, int64_t first, int64_t end, int64_t block_size);

// `count` rows of elements of `bytes`, `row_stride` bytes apart, to one head's tokens from `token` of a block on.
void write_key_run(const char* rows, int64_t row_stride, int64_t count, int64_t dim, size_t bytes,
                   const KvAddressing& address, char* head, int64_t token);
void write_value_run(const char* rows, int64_t row_stride, int64_t count, int64_t dim, size_t bytes,
                     const KvAddressing& address, char* head, int64_t token);

}  // namespace sextant::cpu
