// What a plan says of its parts, as numbers: tests look at these and not at texts for people.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "devices/cuda/attention_plan.h"
#include "devices/cuda/kernel_table.h"

namespace sextant::cuda {

struct PartFacts {
  std::string kernel;
  int32_t rows = 0, tile_keys = 0;
  int64_t copied_blocks = 0;          // of keys, before the kernel
  bool reduces = false;               // partial results, merged by a second kernel
  bool beside_prefills = false;       // decodes in the forward kernel's launch
  int32_t clusters = 0;               // of `cluster_size` blocks; 0: as many as there is work
  int32_t cluster_size = 0;           // 0: no clusters
  int32_t row_tiles = 0;              // of a cluster
  bool one_an_sm = false;             // blocks of clusters
  int64_t balanced_blocks = 0;        // that share one list of work; 0: no list
  int64_t tiles = 0, partitions = 0;  // of a grid of row tiles
};

inline std::vector<PartFacts> facts_of(const AttentionPlanPtr& plan) {
  const auto made = std::dynamic_pointer_cast<const CudaAttentionPlan>(plan);
  std::vector<PartFacts> all;
  if (made == nullptr) return all;
  for (const PlanPart& part : made->parts) {
    PartFacts facts{.kernel = part.kernel->name, .rows = part.rows, .tile_keys = part.tile_keys};
    facts.copied_blocks = part.staging ? part.staging->blocks : 0;
    facts.reduces = part.reduces;
    facts.beside_prefills = part.front_sms > 0;
    if (const auto* clusters = std::get_if<Clusters>(&part.division)) {
      facts.clusters = clusters->count;
      facts.cluster_size = clusters->shape.size;
      facts.row_tiles = clusters->shape.row_tiles;
      facts.one_an_sm = clusters->shape.one_a_sm;
    } else if (const auto* list = std::get_if<BalancedList>(&part.division)) {
      facts.rows /= list->group;
      facts.balanced_blocks = int64_t{list->blocks} * list->group;
    } else {
      const auto& tiles = std::get<RowTiles>(part.division);
      facts.tiles = int64_t{tiles.grid.tiles} * tiles.group;
      facts.partitions = tiles.grid.partitions;
    }
    all.push_back(facts);
  }
  return all;
}

// The part of a kernel; one without a name where the plan has none.
inline PartFacts part_of(const std::vector<PartFacts>& plan, const std::string& kernel) {
  const auto found =
      std::find_if(plan.begin(), plan.end(), [&](const PartFacts& part) { return part.kernel == kernel; });
  return found == plan.end() ? PartFacts{} : *found;
}
inline bool has_kernel(const std::vector<PartFacts>& plan, const std::string& kernel) {
  return part_of(plan, kernel).kernel == kernel;
}
// Of the keys of any part.
inline int64_t copied_blocks(const std::vector<PartFacts>& plan) {
  int64_t blocks = 0;
  for (const PartFacts& part : plan) blocks += part.copied_blocks;
  return blocks;
}
inline bool is_balanced(const std::vector<PartFacts>& plan) {
  return std::any_of(plan.begin(), plan.end(), [](const PartFacts& part) { return part.balanced_blocks > 0; });
}

}  // namespace sextant::cuda
