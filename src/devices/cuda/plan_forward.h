// When the forward kernel, made for prefills, also takes the requests of few query tokens.
#pragma once

#include "devices/cuda/plan_splits.h"

namespace sextant::cuda {

// Decodes of more rows than a cluster takes: the forward kernel's copies keep up with the memory, and its products,
// most of them of empty rows, cost nothing while it waits. `fp8_products`: the kernel that reads fp8 queries and keys.
bool forward_beats_stream(const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n, int32_t short_len,
                          bool fp8_products, const ChipLimits& chip);

// Seconds of products of the requests longer than `short_len`.
double prefill_seconds(const AttentionPlanArgs& a, const AttentionParams& p, int32_t short_len, const ChipLimits& chip);

// Decodes by clusters, which need no second kernel, beside prefills.
double seconds_beside(double decodes, double prefills, const ChipLimits& chip);

// Seconds of the forward kernel for requests of a few query tokens each, one row tile a KV head.
double forward_seconds_of_few(const AttentionParams& p, const PartKeys& keys, const ChipLimits& chip);

// Rows of the forward kernel's row tiles: three consumers' where their products are faster and few rows are empty.
int32_t choose_forward_rows(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                            const ChipLimits& chip);

// Keys of a partition where the chip is filled better, or the longest row tile ends earlier, when requests are split;
// 0: they are not. The lengths are those of now.
int32_t choose_forward_partition(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                 const ChipLimits& chip);

// A mixed batch in one launch: memory is read for decodes while other SMs multiply for prefills. `decode`: the part
// that would take the decodes, with its estimate.
bool forward_joins(const PlanPart& decode, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                   int32_t short_len, const ChipLimits& chip);

// The requests of a part, those whose first row tile sees the most keys first, so that what is taken last is short (as
// in Graham's rule of the longest processing time, 1969). In a batch of decodes and prefills decodes come last, the
// longest at the very end, where some blocks begin. Null: lengths are to come, or the order is of no use.
std::shared_ptr<const RequestOrder> order_requests(const PlanPart& part, const AttentionPlanArgs& a,
                                                   const AttentionParams& p, const Bounds& n, int32_t short_len);

}  // namespace sextant::cuda
