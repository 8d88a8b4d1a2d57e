// Checks of a batch on the host. Nothing is read on a device and nothing is written.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "sextant/batch.h"
#include "sextant/ops.h"

namespace sextant {
namespace {

Status check_query_start_loc(const BatchMetadata& batch) {
  const auto& loc = batch.query_start_loc;
  const size_t expected = batch.seq_lens.size() + 1;
  if (loc.size() != expected)
    return invalid_argument(
        fmt::format("query_start_loc has {} entries; allowed: {} (len(seq_lens) + 1)", loc.size(), expected));
  if (loc[0] != 0) return invalid_argument(fmt::format("query_start_loc[0] is {}; allowed: 0", loc[0]));
  for (size_t b = 1; b < loc.size(); ++b)
    if (loc[b] < loc[b - 1])
      return invalid_argument(
          fmt::format("query_start_loc[{}] is {}; allowed: >= {} (query_start_loc[{}])", b, loc[b], loc[b - 1], b - 1));
  return Status::ok();
}

Status check_seq_lens(const BatchMetadata& batch, const KvCacheSpec& cache) {
  const int64_t capacity = batch.max_blocks_per_request * cache.block_size;
  for (size_t b = 0; b < batch.seq_lens.size(); ++b) {
    const int32_t query_len = batch.query_start_loc[b + 1] - batch.query_start_loc[b];
    const int32_t seq_len = batch.seq_lens[b];
    if (seq_len < query_len)
      return invalid_argument(fmt::format("seq_lens[{}] is {}; allowed: >= {} (its query length, new tokens included)",
                                          b, seq_len, query_len));
    if (seq_len > capacity)
      return invalid_argument(
          fmt::format("seq_lens[{}] is {}; allowed: <= {} (max_blocks_per_request {} x block_size {})", b, seq_len,
                      capacity, batch.max_blocks_per_request, cache.block_size));
  }
  return Status::ok();
}

Status check_block_table(const BatchMetadata& batch, const KvCacheSpec& cache) {
  if (batch.block_table.empty()) return Status::ok();
  const int64_t columns = batch.max_blocks_per_request;
  const auto expected = static_cast<size_t>(batch.num_requests() * columns);
  if (batch.block_table.size() != expected)
    return invalid_argument(
        fmt::format("block_table has {} entries; allowed: {} (requests {} x max_blocks_per_request {})",
                    batch.block_table.size(), expected, batch.num_requests(), columns));
  for (int64_t b = 0; b < batch.num_requests(); ++b) {
    const int64_t used = (batch.seq_lens[static_cast<size_t>(b)] + cache.block_size - 1) / cache.block_size;
    for (int64_t i = 0; i < used; ++i) {
      const int32_t block = batch.block_table[static_cast<size_t>(b * columns + i)];
      if (block < 0 || block >= cache.num_blocks)
        return invalid_argument(fmt::format("block_table[{}][{}] is {}; allowed: 0..{} (num_blocks {})", b, i, block,
                                            cache.num_blocks - 1, cache.num_blocks));
    }
  }
  return Status::ok();
}

Status check_shared_prefix(const BatchMetadata& batch, const KvCacheSpec& cache) {
  const int32_t shared = batch.shared_prefix_len;
  if (shared == 0) return Status::ok();
  if (shared < 0 || shared % cache.block_size != 0)
    return invalid_argument(
        fmt::format("shared_prefix_len is {}; allowed: a multiple of block_size ({}), >= 0", shared, cache.block_size));
  const int64_t blocks = shared / cache.block_size;
  for (int64_t b = 0; b < batch.num_requests(); ++b) {
    const auto i = static_cast<size_t>(b);
    const int32_t context_len = batch.seq_lens[i] - (batch.query_start_loc[i + 1] - batch.query_start_loc[i]);
    if (context_len < shared)
      return invalid_argument(
          fmt::format("shared_prefix_len is {}; allowed: <= {} (context of request {})", shared, context_len, b));
    for (int64_t j = 0; !batch.block_table.empty() && j < blocks; ++j) {
      const auto at = static_cast<size_t>(b * batch.max_blocks_per_request + j);
      if (batch.block_table[at] != batch.block_table[static_cast<size_t>(j)])
        return invalid_argument(
            fmt::format("block_table[{}][{}] is {}; shared_prefix_len {} allows {} (the block of request 0)", b, j,
                        batch.block_table[at], shared, batch.block_table[static_cast<size_t>(j)]));
    }
  }
  return Status::ok();
}

}  // namespace

Status validate(const BatchMetadata& batch, const KvCacheSpec& cache) {
  SEXTANT_RETURN_IF_ERROR(validate(cache));
  SEXTANT_RETURN_IF_ERROR(check_query_start_loc(batch));
  if (batch.max_blocks_per_request < 0)
    return invalid_argument(fmt::format("max_blocks_per_request is {}; allowed: >= 0", batch.max_blocks_per_request));
  SEXTANT_RETURN_IF_ERROR(check_seq_lens(batch, cache));
  SEXTANT_RETURN_IF_ERROR(check_block_table(batch, cache));
  SEXTANT_RETURN_IF_ERROR(check_shared_prefix(batch, cache));
  if (batch.slot_mapping.empty()) return Status::ok();
  if (static_cast<int64_t>(batch.slot_mapping.size()) < batch.num_tokens())
    return invalid_argument(fmt::format("slot_mapping has {} entries; allowed: >= {} (query_start_loc's last)",
                                        batch.slot_mapping.size(), batch.num_tokens()));
  return check_slot_mapping(batch.slot_mapping.first(static_cast<size_t>(batch.num_tokens())), cache);
}

Status check_slot_mapping(std::span<const int64_t> slot_mapping, const KvCacheSpec& cache) {
  const int64_t num_slots = cache.num_blocks * cache.block_size;
  std::vector<int64_t> used;
  used.reserve(slot_mapping.size());
  for (size_t t = 0; t < slot_mapping.size(); ++t) {
    if (slot_mapping[t] >= num_slots)
      return invalid_argument(
          fmt::format("slot_mapping[{}] is {}; allowed: < {} (num_blocks {} x block_size {}), or negative for padding",
                      t, slot_mapping[t], num_slots, cache.num_blocks, cache.block_size));
    if (slot_mapping[t] >= 0) used.push_back(slot_mapping[t]);
  }
  std::sort(used.begin(), used.end());
  const auto twice = std::adjacent_find(used.begin(), used.end());
  if (twice == used.end()) return Status::ok();
  const auto first = std::find(slot_mapping.begin(), slot_mapping.end(), *twice);
  const auto second = std::find(first + 1, slot_mapping.end(), *twice);
  return invalid_argument(
      fmt::format("slot_mapping[{}] is {}; allowed: a slot of its own (slot_mapping[{}] is the same)",
                  second - slot_mapping.begin(), *twice, first - slot_mapping.begin()));
}

}  // namespace sextant
