// Decode on Hopper without a balanced list: clusters of blocks, and equal parts of equal requests. The figures behind
// the choices are estimates from bytes, measured on H100 (docs/performance-cuda.md); they decide speed alone.
#pragma once

#include "devices/cuda/plan_splits.h"

namespace sextant::cuda {

// Decode by clusters where its blocks, all about equally long, fill the chip as well as the balanced list does: what it
// saves is the search in that list and the second kernel.
bool choose_cluster(PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                    const ChipLimits& chip);

// Several query tokens of few requests: more rows than one row tile, each of which reads the keys again. Where that
// ends before `best` seconds. The lengths are those of now.
bool choose_cluster_tiles(PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                          double best, const ChipLimits& chip);

// Requests of about equal length need no balanced list when an equal number of parts of each fills the chip: fewer rows
// are then split, or none, and less is written and merged. The number of parts; 0: the list is better.
int32_t equal_parts(const AttentionPlanArgs& a, const Bounds& n, const PlanPart& part, const ChipLimits& chip);

// Clusters for the kernel of few rows: one a request where that fills the chip, else several of eight blocks, whose
// results the reduce kernel merges: fewer than the balanced list leaves.
bool set_mla_clusters(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t equal,
                      const ChipLimits& chip);

}  // namespace sextant::cuda
