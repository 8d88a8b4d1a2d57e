// What planning reckons with: how fast the kernels are, in bytes, products (floating-point operations) and seconds.
// Measured on H100 and H200 (docs/performance-cuda.md; runs in docs/dev/gpu-log.md). A chip that differs gets a table
// of its own here; only the memory's rate is asked of the device.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sextant::cuda {

struct ChipRates {
  double memory = 3.0e12;  // bytes/s that kernels reach; of an H100 where the device does not say

  // Prefill, extend and mixed batches (kForwardKernel).
  struct Forward {
    double memory_part = 0.8;  // of `memory`
    double sm = 6.9e10;        // bytes/s that one SM takes
    double products = 7.1e14;  // a second
    double start = 10e-6;      // a launch
    double item = 1.95e-6;     // what a row tile costs beside its key tiles; with partial results to write:
    double split_item = 4e-6;
    double merge = 6e-6, merge_bytes = 1.8e12;       // of partial results: launch, bytes/s
    double reduce = 5e-6;                            // launch of the merge after a decode
    double tile = 1.5e-6, converted_tile = 2.86e-6;  // 128 keys, of a block that has few; of a cache in 8 bits
    double cold_rows = 4e-6;                         // the same row by row, from memory
    // Of the time of the same products, where row tiles have 192 rows: head sizes up to 64, and above.
    double tall = 0.86, tall_wide = 0.95;
    double tall_part(int32_t head_dim) const { return head_dim <= 64 ? tall : tall_wide; }
    double beside = 0.6;  // of the shorter of decodes and prefills that run at once: they share memory and SMs

    // Long prefills whose keys come by boxes, by head size; the parts of that by the other ways (forward_launchers.h).
    double boxed(int32_t head_dim) const {
      return head_dim <= 64 ? 3.8e14 : head_dim <= 96 ? 5.2e14 : head_dim <= 192 ? 6.6e14 : 6.0e14;
    }
    double fp16(int32_t head_dim) const { return head_dim <= 128 ? 0.75 : 0.68; }
    double convert = 0.26, rows = 0.38, padded_rows = 0.3, exact_rows = 0.6;
    double byte_rows = 0.4;  // of fp8 products
  } forward;

  // Decode by clusters (kClusterKernel).
  struct Cluster {
    double sm = 4.6e10, sm_fp8 = 2.77e10, sm_fp8_narrow = 3.4e10;  // bytes/s that one SM takes by tensor-map copies
    double row_key = 35e-9, row_key_fp8 = 60e-9;                   // row by row: of an SM, a key of a whole tile
    double start = 8e-6, start_alone = 11e-6;  // what does not shrink with the keys; head sizes above 128
    double block = 5.6e-6;                     // of a block that shares its SM, beside its bytes
    double next_block = 0.87e-6,
           next_cluster = 2.95e-6;  // a wave more: two blocks an SM hide each other's start and end
    double next_alone = 11e-6, next_cluster_alone = 10.5e-6;  // one block an SM
    double merge = 10.2e-6, segment = 1.7e-6;                 // by the list: the reduce kernel, a request and head more
    double segment_alone = 14e-6;                             // one block an SM
    double list_memory_part = 0.77;                           // of `memory`
    int32_t overhead = 1;
  } cluster;

  // Decode from the balanced list (kStreamKernel).
  struct List {
    double start = 14e-6;
    double memory_part = 0.96, memory_part_fp8 = 0.8;  // of `memory`, where a row tile is a request's only one
    double segment = 3.9e-6;                           // a request and head more that a block comes to
    double sm = 3.2e10, sm_fp8 = 2.6e10;               // bytes/s that one SM takes by cp.async
    double rows_32 = 2.0e12, wide = 1.5e12;  // bytes/s with 32 rows, and with rows so long that an SM has one block
    double row_tile = 10.3e-6;               // queries, a merge and a new chain of waits at each that a block comes to
    double merge_part = 0.5e-6;              // parts of one row are merged one after the other,
    double parts_in_start = 8;               // but for the first
    int32_t overhead = 2;                    // BalancedList::overhead
  } list;

  // MLA decode in tiles of 64 keys (kMlaTransposedKernel, kMlaWgmmaKernel).
  struct Mla {
    double start = 12e-6, tile = 2.16e-6;   // what a block costs beside its tiles; a tile
    double shared_tile = 0;                 // of a block that shares its SM with another, where two fit
    double merge = 5.4e-6, part = 0.06e-6;  // of partial results: launch; each of a row
    double partial_bytes = 2.5e12;          // a second, written and read
    double cluster = 2e-6;                  // of a cluster's blocks in shared memory
    int32_t overhead = 5;
  } mla;
  Mla mla_bytes = {.start = 7e-6,
                   .tile = 2.3e-6,
                   .shared_tile = 3.2e-6,
                   .merge = 5.7e-6,
                   .cluster = 4.2e-6,
                   .overhead = 2};  // kMlaBytesKernel

  // Copies of keys that a kernel reads better (plan_staging.h).
  struct Copy {
    double converted(int32_t head_dim) const { return converted_item * std::max(1.0, head_dim / 128.0); }
    double start = 3e-6, bytes = 2.7e12;  // launch; a second
    double decode_start = 4e-6;           // launch before a decode, the wait for it included
    double convert_queries = 6.2e-6;      // a row tile's, where the kernel converts them to fp16 before it begins
    double converted_item = 19.6e-6;      // a row tile whose keys are converted, beside the products of its key tiles
    double portable_products = 2e13;      // a second, of the kernel that would read the cache as it is
    double tile_products = 2.2e14,
           tile_converted = 4e13;  // of the portable tile kernel, by copies and through registers
  } copy;
};

}  // namespace sextant::cuda
