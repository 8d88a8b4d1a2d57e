// The ways of dividing a part's work over blocks. A kernel knows some of them (kernel_table.h); its planner chooses
// among those, and nobody else sets them.
#pragma once

#include <cstdint>
#include <variant>

#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

// A block a row tile and KV head, times the partitions of a fixed split.
struct RowTiles {
  TileGrid grid;
  FixedSplit split;
  int64_t num_slots = 0;  // of partial rows
  int32_t group = 1;      // blocks of the grid a row tile, each with its own rows of it
};
// Every key tile of the batch in one list, cut into equal shares (kernels/work_list.cuh).
struct BalancedList {
  int32_t blocks = 0;     // shares
  int32_t group = 1;      // blocks of the grid a share, each with its own rows of the entry
  int32_t overhead = 0;   // tiles that a request more costs a share
  int32_t query_len = 1;  // of a request at most
};
// A cluster of blocks a request and KV head, or several a request where `split` has partitions.
struct Clusters {
  ClusterPlan shape;
  int32_t count = 0;  // of the grid; 0: the kernel counts them from the batch
  FixedSplit split;
  int64_t num_slots = 0;
};
using Division = std::variant<RowTiles, BalancedList, Clusters>;

// Sets of ways, as a kernel states them.
using DivisionSet = uint8_t;
constexpr DivisionSet kRowTiles = 1, kBalancedList = 2, kClusters = 4;
inline DivisionSet kind_of(const Division& division) { return static_cast<DivisionSet>(1u << division.index()); }

}  // namespace sextant::cuda
