// Checks of a batch on the host. Nothing is read on a device and nothing is written.
#include <fmt/format.h>

#include <limits>

#include "ops/array_checks.h"
#include "sextant/batch.h"
#include "sextant/ops.h"

namespace sextant {

Status validate(const BatchMetadata& batch, const KvCacheSpec& cache, const AttentionSpec& spec) {
  SEXTANT_RETURN_IF_ERROR(validate(cache));
  SEXTANT_RETURN_IF_ERROR(check_lengths(batch.query_start_loc, batch.seq_lens));
  const int64_t columns = batch.max_blocks_per_request;
  if (columns < 0 || columns > std::numeric_limits<int32_t>::max())
    return invalid_argument(
        fmt::format("max_blocks_per_request is {}; allowed: 0..{}", columns, std::numeric_limits<int32_t>::max()));
  SEXTANT_RETURN_IF_ERROR(check_capacity(batch.seq_lens, columns, "max_blocks_per_request", cache));
  const auto entries = static_cast<size_t>(batch.num_requests() * columns);
  if (!batch.block_table.empty() && batch.block_table.size() != entries)
    return invalid_argument(
        fmt::format("block_table has {} entries; allowed: {} (requests {} x max_blocks_per_request {})",
                    batch.block_table.size(), entries, batch.num_requests(), columns));
  const TableUse use{batch.query_start_loc,
                     batch.seq_lens,
                     batch.block_table.empty() ? nullptr : batch.block_table.data(),
                     columns,
                     batch.shared_prefix_len,
                     batch.token_spans.empty() ? nullptr : batch.token_spans.data()};
  if (use.token_spans != nullptr && static_cast<int64_t>(batch.token_spans.size()) < 2 * batch.num_tokens())
    return invalid_argument(fmt::format("token_spans has {} entries; allowed: >= {} (two a token)",
                                        batch.token_spans.size(), 2 * batch.num_tokens()));
  SEXTANT_RETURN_IF_ERROR(check_token_spans(use, spec));
  SEXTANT_RETURN_IF_ERROR(check_shared_prefix(use, cache));
  if (use.block_table != nullptr) SEXTANT_RETURN_IF_ERROR(check_block_ids(use, cache, spec));
  if (batch.slot_mapping.empty()) return Status::ok();
  if (static_cast<int64_t>(batch.slot_mapping.size()) < batch.num_tokens())
    return invalid_argument(fmt::format("slot_mapping has {} entries; allowed: >= {} (query_start_loc's last)",
                                        batch.slot_mapping.size(), batch.num_tokens()));
  return check_slot_mapping(batch.slot_mapping.first(static_cast<size_t>(batch.num_tokens())), cache);
}

}  // namespace sextant
