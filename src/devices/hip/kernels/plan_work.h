// The planner: a workgroup turns the current lengths into the work list of one part of the op (params.h, WorkList).
#pragma once

#include "devices/hip/kernels/work_list.h"

namespace sextant::hip {

constexpr int kPlanThreads = 256;

// Sum over the threads below this one, and over all. `scratch` is [kPlanThreads].
SEXTANT_DEVICE int64_t sum_below(int64_t x, int64_t* scratch, int64_t* total) {
  barrier();
  scratch[thread_index()] = x;
  barrier();
  int64_t below = 0, all = 0;
  for (int i = 0; i < kPlanThreads; ++i) {
    if (i < thread_index()) below += scratch[i];
    all += scratch[i];
  }
  *total = all;
  return below;
}

SEXTANT_DEVICE void plan_work(const PlanWorkParams& params) {
  const PlanWorkParams::Part& part = params.parts[block_index()];
  AttentionParams p = params.attention;
  p.filter.min_query_len = part.min_query_len;
  p.filter.max_query_len = part.max_query_len;
  p.split = part.split;
  p.work = part.work;
  auto* scratch = reinterpret_cast<int64_t*>(shared_memory<kPlanThreads * 8>());
  const int each = ceil_div(p.num_requests, kPlanThreads);
  const int first = thread_index() * each, last = min(first + each, p.num_requests);
  int32_t planned = 0;
  if (p.split.partition == 0 && p.split.segments == 0 && p.split.target_items > 0) {
    int64_t granules = 0, total;
    for (int b = first; b < last; ++b) {
      const Request r = load_request(p, b);
      if (r.active && r.query_len <= p.split.max_query_len)
        granules +=
            static_cast<int64_t>(row_tiles(p, r)) * p.num_kv_heads * ceil_div(r.key_hi - r.key_lo, p.split.granule);
    }
    sum_below(granules, scratch, &total);
    // Divided in 32 bits: what would not fit, 2^31 granules, is not split.
    const int64_t rounded = total + p.split.target_items - 1;
    const uint32_t each_item = static_cast<uint32_t>(rounded) / static_cast<uint32_t>(p.split.target_items);
    if (rounded < int64_t{1} << 31) planned = static_cast<int32_t>(max(each_item, 1u)) * p.split.granule;
  }
  int64_t items = 0, total;
  for (int b = first; b < last; ++b) {
    const Request r = load_request(p, b);
    const int32_t size = partition_size(p, r, planned);
    p.work.partition[b] = size;
    if (r.active) items += static_cast<int64_t>(row_tiles(p, r)) * p.num_kv_heads * partitions(r, size);
  }
  int64_t start = sum_below(items, scratch, &total);
  for (int b = first; b < last; ++b) {
    const Request r = load_request(p, b);
    p.work.first_item[b] = static_cast<int32_t>(start);
    if (r.active) start += static_cast<int64_t>(row_tiles(p, r)) * p.num_kv_heads * partitions(r, p.work.partition[b]);
  }
  // A list longer than what the plan's bounds allow for is cut: the launch has no more workgroups.
  if (thread_index() == 0)
    p.work.first_item[p.num_requests] = static_cast<int32_t>(min(total, static_cast<int64_t>(p.work.max_items)));
}

// Merges the partitions of one row tile: a workgroup for each first partition, a wave for each row in turn.
SEXTANT_DEVICE void reduce_partials(const AttentionParams& p) {
  WorkItem item;
  if (!find_item(p, block_index(), &item)) return;
  if (item.part != 0 || item.parts == 1) return;
  const int lane = lane_index();
  const int32_t num_rows = item.request.query_len * p.group_size;
  for (int tile_row = wave_index(); tile_row < p.work.rows; tile_row += 4) {
    const int32_t row = item.row_tile * p.work.rows + tile_row;
    if (row >= num_rows) return;
    const int64_t first = static_cast<int64_t>(item.index) * p.work.rows + tile_row;
    float top = kNegInf;
    for (int i = lane; i < item.parts; i += kWaveSize) top = max(top, p.partial_lse[first + i * p.work.rows]);
    SEXTANT_UNROLL
    for (int mask = 1; mask < kWaveSize; mask *= 2) top = max(top, shuffle_xor(top, mask));
    const int32_t token = item.request.query_start + query_of(p, row);
    const int32_t head = head_of(p, item.kv_head, row);
    float denominator = 0;
    if (p.sinks != nullptr) {
      top = max(top, p.sinks[head]);
      if (top != kNegInf) denominator = exp2((p.sinks[head] - top) * gpu::kLog2E);
    }
    for (int i = 0; i < item.parts; ++i) {
      const float lse = p.partial_lse[first + i * p.work.rows];
      if (lse != kNegInf) denominator += exp2((lse - top) * gpu::kLog2E);
    }
    if (lane == 0 && p.lse != nullptr)
      p.lse[head * p.lse_head_stride + token * p.lse_token_stride] =
          denominator == 0 ? kNegInf : top + log2(denominator) * gpu::kLn2;
    const float inverse = denominator == 0 ? 0.0f : 1.0f / denominator;
    for (int d = lane; d < p.head_dim_v; d += kWaveSize) {
      float sum = 0;
      for (int i = 0; i < item.parts; ++i) {
        const int64_t from = first + static_cast<int64_t>(i) * p.work.rows;
        const float lse = p.partial_lse[from];
        // A partition without visible keys counts nothing, whatever its row holds.
        if (lse != kNegInf) sum += exp2((lse - top) * gpu::kLog2E) * p.partial_out[from * p.head_dim_v + d];
      }
      store_wide_element(p.out_f32 != 0 ? Format::kF32 : p.format, p.out,
                         token * p.out_token_stride + head * p.out_head_stride + d, sum * inverse);
    }
  }
}

}  // namespace sextant::hip
