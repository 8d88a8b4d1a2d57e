// Lays out a batch of given lengths in scattered blocks of a cache.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "sextant/workload.h"
#include "types/ceil_div.h"

namespace sextant {
namespace {

// A fixed walk over all blocks with a stride coprime to their number: neighbours in a request are far apart in memory.
class ScatteredBlocks {
 public:
  explicit ScatteredBlocks(int64_t num_blocks) : num_blocks_(num_blocks), stride_(num_blocks * 5 / 8 | 1) {
    while (std::gcd(stride_, num_blocks_) != 1) stride_ += 2;
  }
  int32_t next() {
    block_ = (block_ + stride_) % num_blocks_;
    return static_cast<int32_t>(block_);
  }

 private:
  int64_t num_blocks_;
  int64_t stride_;
  int64_t block_ = 0;
};

}  // namespace

BatchMetadata BatchArrays::metadata() const {
  BatchMetadata batch;
  batch.query_start_loc = query_start_loc;
  batch.seq_lens = seq_lens;
  batch.block_table = block_table;
  batch.max_blocks_per_request = max_blocks_per_request;
  batch.slot_mapping = slot_mapping;
  return batch;
}

int64_t blocks_needed(const std::vector<RequestLengths>& requests, int32_t block_size) {
  int64_t blocks = 0;
  for (const RequestLengths& request : requests) blocks += ceil_div(int64_t{request.seq_len}, block_size);
  return blocks;
}

Result<BatchArrays> lay_out_batch(const std::vector<RequestLengths>& requests, int32_t block_size, int64_t num_blocks) {
  if (block_size < 1) return invalid_argument(fmt::format("block_size is {}; allowed: >= 1", block_size));
  const int64_t needed = blocks_needed(requests, block_size);
  if (needed > INT32_MAX)
    return Status(
        StatusCode::kResourceExhausted,
        fmt::format("the batch needs {} KV blocks of {} tokens; allowed: at most {}", needed, block_size, INT32_MAX));
  if (num_blocks < needed || num_blocks > INT32_MAX)
    return Status(StatusCode::kResourceExhausted,
                  fmt::format("num_blocks is {}; allowed: {}..{} for this batch", num_blocks, needed, INT32_MAX));
  int64_t tokens = 0, widest = 0;
  for (const RequestLengths& request : requests) {
    tokens += request.query_len;
    widest = std::max(widest, ceil_div(int64_t{request.seq_len}, block_size));
  }
  if (tokens > INT32_MAX)
    return invalid_argument(fmt::format("the batch has {} query tokens; allowed: at most {}", tokens, INT32_MAX));
  if (static_cast<int64_t>(requests.size()) * widest > INT32_MAX)
    return Status(StatusCode::kResourceExhausted,
                  fmt::format("the block_table of {} requests is {} blocks wide; allowed: at most {} entries",
                              requests.size(), widest, INT32_MAX));
  BatchArrays batch;
  batch.max_blocks_per_request = widest;
  batch.query_start_loc.push_back(0);
  for (const RequestLengths& request : requests) {
    batch.query_start_loc.push_back(batch.query_start_loc.back() + request.query_len);
    batch.seq_lens.push_back(request.seq_len);
  }
  batch.block_table.resize(requests.size() * static_cast<size_t>(batch.max_blocks_per_request));
  batch.slot_mapping.reserve(static_cast<size_t>(batch.query_start_loc.back()));
  ScatteredBlocks blocks(std::max<int64_t>(num_blocks, 1));
  for (size_t b = 0; b < requests.size(); ++b) {
    int32_t* row = batch.block_table.data() + b * static_cast<size_t>(batch.max_blocks_per_request);
    for (int64_t i = 0; i < ceil_div(int64_t{requests[b].seq_len}, block_size); ++i) row[i] = blocks.next();
    for (int32_t position = requests[b].seq_len - requests[b].query_len; position < requests[b].seq_len; ++position)
      batch.slot_mapping.push_back(static_cast<int64_t>(row[position / block_size]) * block_size +
                                   position % block_size);
  }
  return batch;
}

}  // namespace sextant
