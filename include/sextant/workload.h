// Batches by hand: vLLM's benchmark grammar.
//
//   batch   = segment { "_" segment }
//   segment = [count] "q" length ["k"] [ "s" length ["k"] ]      k = x 1024
//
// "2q2k_32q1s1k": two prefills of 2048 tokens and 32 decodes over 1024 keys. "q3616s20000": one request with 3616 new
// tokens of 20000. `s` (the KV length, new tokens included) defaults to q.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sextant/batch.h"

namespace sextant {

struct RequestLengths {
  int32_t query_len = 0;
  int32_t seq_len = 0;
  friend bool operator==(const RequestLengths&, const RequestLengths&) = default;
};

// The message names the batch, the character position and what is allowed there.
Result<std::vector<RequestLengths>> parse_batch(std::string_view text);

// A batch with memory of its own. Filled by lay_out_batch and by the scheduler.
struct BatchArrays {
  std::vector<int32_t> query_start_loc;  // [B + 1]
  std::vector<int32_t> seq_lens;         // [B]
  std::vector<int32_t> block_table;      // [B, max_blocks_per_request], unused entries 0
  int64_t max_blocks_per_request = 0;
  std::vector<int64_t> slot_mapping;  // [T]

  BatchMetadata metadata() const;
};

// Gives every request blocks of its own, scattered over the cache as in a server that has run for a while (the order is
// the same every time). `num_blocks` blocks are enough when it is blocks_needed().
int64_t blocks_needed(const std::vector<RequestLengths>& requests, int32_t block_size);
Result<BatchArrays> lay_out_batch(const std::vector<RequestLengths>& requests, int32_t block_size, int64_t num_blocks);

}  // namespace sextant
