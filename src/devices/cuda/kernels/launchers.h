// Every kernel's host entry. Each returns the launch's error and nothing else happens on the host.
#pragma once

#include <array>

#include "devices/cuda/kernels/params.h"
#include "devices/cuda/kernels/shared_room.h"

namespace sextant::cuda {

// Grid bounds of a fixed-split launch.
struct TileGrid {
  int32_t tiles = 0;       // over all requests, at most
  int32_t partitions = 1;  // a request, at most
};

constexpr int32_t kSimtTileRows = 16;
bool simt_serves(const AttentionParams& p);
cudaError_t launch_simt_attention(const AttentionParams& p, TileGrid grid, cudaStream_t stream);

// Merges the partial results of a fixed split. `rows`: tokens x heads that a launch must cover.
cudaError_t launch_reduce_fixed(const AttentionParams& p, int64_t num_slots, bool overlap, cudaStream_t stream);

// Tensor cores, 16-bit operands; head sizes up to 256. Rows of a row tile: 128; in a small room 64 of the widest heads.
int32_t tile_rows(const AttentionParams& p, SharedRoom room);
cudaError_t launch_tile_attention(const AttentionParams& p, TileGrid grid, SharedRoom room, cudaStream_t stream);
bool tile_serves(const AttentionParams& p);
bool tile_copies_keys(const AttentionParams& p);  // by cp.async; else through registers

// Hopper: wgmma, tensor-map copies, persistent blocks; 16-bit operands, head sizes up to 256 in multiples of 8.
constexpr int32_t kForwardRows = 128, kForwardTallRows = 192, kForwardCounters = 3;
// Requests of known lengths in the order in which their row tiles are taken. Row tiles first[i] .. first[i + 1] - 1 of
// the order are those of request[i], its last one first.
struct RequestOrder {
  static constexpr int32_t kMost = 256;
  int32_t count = 0;
  uint8_t request[kMost] = {};
  uint16_t first[kMost + 1] = {};
};
struct ForwardPlan {
  int32_t rows = kForwardRows;        // of a row tile; kForwardTallRows where forward_may_be_tall
  int32_t tiles = 0, partitions = 1;  // as in TileGrid
  int32_t sms = 0;
  int64_t max_keys = 0;                    // of a request
  int32_t front_sms = 0;                   // that begin with the first requests, where the others begin with the last
  int32_t* claimed = nullptr;              // [kForwardCounters], in the workspace
  const RequestOrder* requests = nullptr;  // null: from the batch's last row tile to its first
};
bool forward_serves(const AttentionParams& p);
bool forward_may_be_tall(const AttentionParams& p);  // head sizes up to 96 whose keys come by boxes
cudaError_t launch_forward(const AttentionParams& p, const ForwardPlan& plan, cudaStream_t stream);

// Balanced decode: 16 or 32 query rows, keys of one request over the warps of many blocks.
struct StreamPlan {
  int32_t rows = 16;    // a tile; 16 or 32
  int32_t cluster = 0;  // blocks of a cluster that shares a request's keys and merges on the chip; 0: none
  SharedRoom room = SharedRoom::kLarge;
  dim3 grid;  // balanced: (blocks, 1, 1); fixed split: (row tiles, KV heads, partitions)
};
using StreamLauncher = cudaError_t(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream);
bool stream_serves(const AttentionParams& p);
int stream_blocks_per_sm(const AttentionParams& p, SharedRoom room);
int32_t stream_tile_keys(const AttentionParams& p, SharedRoom room);
int32_t stream_key_align(const AttentionParams& p);  // for AttentionParams::key_align
cudaError_t launch_stream_attention(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream);
// Merges what the blocks of a balanced list left in parts.
struct ListTiles {
  int32_t blocks;      // of the attention kernel
  int32_t rows, keys;  // of a tile
  int32_t query_len;   // of a request at most
};
cudaError_t launch_reduce_balanced(const AttentionParams& p, const ListTiles& list, bool overlap, cudaStream_t stream);

// Whether the dims of a cache's token lie together, 8 after 8.
inline bool cache_has_plain_rows(const AttentionParams& p) {
  return p.k_addr.token_tile == 1 && p.v_addr.token_tile == 1 && p.k_chunk_stride == 8 && p.v_chunk_stride == 8;
}
// Hopper: whether tensor-map boxes can bring a cache's tokens: plain rows, and a power of two of at least 8 tokens, a
// swizzle pattern's rows, divides the block size.
inline bool cache_has_boxes(const AttentionParams& p) { return cache_has_plain_rows(p) && p.block_size % 8 == 0; }

// Hopper: decode in row tiles of 16 query rows a KV head by clusters of blocks; no partial results in memory.
constexpr int32_t kClusterRows = 16;
// Keys of a tile: 16 KiB of K, but 16 to 64 keys for each of four warps.
constexpr int cluster_tile_keys(int element_bytes, int head_dim) {
  const int keys = 16384 / (element_bytes * head_dim);
  return keys < 64 ? 64 : keys > 256 ? 256 : keys;
}
struct ClusterPlan {
  int32_t size = 1;              // blocks that share a request, KV head and row tile
  int32_t row_tiles = 1;         // of kClusterRows, at most, of a request and KV head
  bool one_a_sm = true;          // a block has an SM's shared memory for itself, or half of it
  int32_t known_blocks = 0;      // entries that each row of block_table has
  bool beside_previous = false;  // may start while the kernel before it in the stream runs
  int32_t list_blocks = 0;       // single blocks that share the balanced list; 0: clusters of requests
};
bool cluster_serves(const AttentionParams& p);
bool cluster_reads(const AttentionParams& p);  // the run's tensors, whose strides may be the caller's own
// Clusters of 2, 4, 8 and 16 that run at once on the current device (compute capability 9.0), a block an SM.
constexpr int kMostClusterBlocks = 16;
using ClusterLimits = std::array<int, kMostClusterBlocks + 1>;
ClusterLimits find_cluster_limits();
cudaError_t launch_cluster_decode(const AttentionParams& p, const ClusterPlan& plan, cudaStream_t stream);

// MLA decode over a latent cache of 576 / 512.
constexpr int32_t kMlaTileKeys = 32;
bool mla_serves(const AttentionParams& p);
int32_t mla_most_rows(SharedRoom room);  // of a row tile
cudaError_t launch_mla_attention(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream);
// Hopper: rows of the matrix tile, which for few rows is transposed.
constexpr int32_t kMlaWgmmaRows = 64, kMlaTransposedRows = 16;
constexpr int32_t kMlaWgmmaTileKeys = 64;
bool mla_wgmma_serves(const AttentionParams& p);
cudaError_t launch_mla_wgmma(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream);

}  // namespace sextant::cuda
