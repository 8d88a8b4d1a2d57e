// Attention by mma.sync over tiles of 128 query rows, for prefill, extend and everything that decode kernels do not
// take.
//
//   rows    queries x heads of one KV head: row r is query r / G, head r % G, so that G heads share each key that is
//   loaded block   kWarps warps of 16 * kRowTiles rows; a loop over key tiles of kKeys memory  Q [128][DK], K
//   [2][kKeys][DK], V [2][kKeys][DV] in shared memory, 16-byte chunks XOR-swizzled by row
//
//   iteration i:  wait for tile i | barrier | start copies of tile i+1 | look up rows of tile i+2 | S = QK^T | softmax
//   | O += PV
//                 one barrier an iteration: it frees buffers of tile i-1 and publishes row addresses of tile i+1
//
// Head sizes are padded inside the tile with zeros; keys past the end are zero-filled, so that what lies in the tail of
// a cache block (NaN, say) is never read. S keeps its registers and becomes the A operand of the second product.
#pragma once

#include "devices/cuda/kernels/key_rows.cuh"
#include "devices/cuda/kernels/shared_room.h"
#include "devices/cuda/kernels/softmax_tile.cuh"

namespace sextant::cuda {

template <class T_, int kDk, int kDv, int kRowTiles_, int kWarps_, int kKeys_, bool kAsync_, SharedRoom kRoom_>
struct TileShape {
  using T = T_;
  static constexpr int DK = kDk, DV = kDv, kRowTiles = kRowTiles_, kWarps = kWarps_, kKeys = kKeys_;
  static constexpr SharedRoom kRoom = kRoom_;  // kSmall: for chips with no more; kLarge: for the others, or for all
  static constexpr bool kAsync = kAsync_;      // keys arrive by cp.async; otherwise through registers, converted
  static constexpr int kThreads = kWarps * 32, kRows = kWarps * 16 * kRowTiles;
  static constexpr int kQBytes = kRows * DK * 2, kKBytes = kKeys * DK * 2, kVBytes = kKeys * DV * 2;
  static constexpr int kSharedBytes = kQBytes + 2 * (kKBytes + kVBytes) + 4 * kKeys * 8;
  static constexpr bool kIsForAll = kDk <= 128;
  static_assert(kSharedBytes <= (kRoom == SharedRoom::kSmall || kIsForAll ? kSmallSharedBytes : kMiddleSharedBytes));
};

// Where the row of a key begins: its address with kAsync, else its offset from the base of its origin.
template <class S>
__device__ __forceinline__ KeyRow find_tile_row(const AttentionParams& p, const Request& r, int32_t kv_head,
                                                int32_t position, int32_t end) {
  KeyRow row = find_key_row(p, r, kv_head, position, end);
  if constexpr (S::kAsync) {
    using T = typename S::T;
    const bool packed = is_packed(p, r, position);
    row.k = reinterpret_cast<int64_t>(static_cast<const T*>(packed ? p.packed_k : p.cache_k) + row.k);
    row.v = reinterpret_cast<int64_t>(static_cast<const T*>(packed ? p.packed_v : p.cache_v) + row.v);
  }
  return row;
}

// Brings one tile of keys or values to shared memory. With kAsync the caller commits and waits.
template <class S, bool kValues>
__device__ __forceinline__ void load_tile(const AttentionParams& p, const Request& r, char* tile, const int64_t* rows,
                                          int32_t key0, int32_t end, float packed_scale, float cache_scale) {
  constexpr int kDim = kValues ? S::DV : S::DK, kChunks = kDim / 8;
  const int dim = kValues ? p.head_dim_v : p.head_dim;
  if constexpr (S::kAsync) {
    // Eight threads a row. All rows of a thread are swizzled alike, so its places differ by constants.
    using T = typename S::T;
    constexpr int kLanes = 8, kRowsAPass = S::kThreads / kLanes;
    static_assert(kDim % 64 == 0 && kRowsAPass % 8 == 0 && S::kKeys % kRowsAPass == 0);
    const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
    const uint32_t to = shared_address(tile) + swizzled<kDim>(first, lane);
#pragma unroll
    for (int pass = 0; pass < S::kKeys / kRowsAPass; ++pass) {
      const int row = first + pass * kRowsAPass;
      const bool valid = key0 + row < end;
      const int stride = is_packed(p, r, key0 + row) ? 8 : kValues ? p.v_chunk_stride : p.k_chunk_stride;
      const T* from = reinterpret_cast<const T*>(rows[row]) + lane * stride;
#pragma unroll
      for (int j = 0; j < kDim / 64; ++j)
        cp_async_16(to + pass * kRowsAPass * kDim * 2 + j * 128, from + j * kLanes * stride,
                    valid && (lane + j * kLanes) * 8 < dim);
    }
  } else {
#pragma unroll
    for (int i = threadIdx.x; i < S::kKeys * kChunks; i += S::kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      const bool packed = is_packed(p, r, key0 + row);
      uint4 x = make_uint4(0, 0, 0, 0);
      if (key0 + row < end && chunk * 8 < dim)
        x = read_chunk<typename S::T>(p, packed, kValues, rows[row], chunk, packed ? packed_scale : cache_scale);
      *reinterpret_cast<uint4*>(tile + swizzled<kDim>(row, chunk)) = x;
    }
  }
}

template <class S>
__device__ __forceinline__ void load_queries(const AttentionParams& p, const Request& r, int32_t kv_head, int row0,
                                             int num_rows, char* tile) {
  using T = typename S::T;
  constexpr int kChunks = S::DK / 8;
  for (int i = threadIdx.x; i < S::kRows * kChunks; i += S::kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = row0 + row < num_rows && chunk * 8 < p.head_dim;
    const int packed_row = valid ? row0 + row : 0;
    const int64_t token = r.query_start + packed_row / p.group_size;
    const int head = kv_head * p.group_size + packed_row % p.group_size;
    const T* source =
        static_cast<const T*>(p.q) + token * p.q_token_stride + head * p.q_head_stride + (valid ? chunk * 8 : 0);
    if (p.q_aligned) {
      cp_async_16(shared_address(tile) + swizzled<S::DK>(row, chunk), source, valid);
    } else {
      T x[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) x[e] = valid ? source[e] : from_float<T>(0.0f);
      *reinterpret_cast<uint4*>(tile + swizzled<S::DK>(row, chunk)) = *reinterpret_cast<const uint4*>(x);
    }
  }
}

// `steps` pairs of chunks behind a place of a swizzled tile that lies in the first pair of its row.
__device__ __forceinline__ uint32_t move_chunks(uint32_t place, int steps) {
  return (place ^ static_cast<uint32_t>(steps % 4 * 32)) + steps / 4 * 128;
}

// S = Q K^T of the warp's rows against one key tile.
template <class S>
__device__ __forceinline__ void multiply_keys(uint32_t q_tile, uint32_t k_tile,
                                              float (&s)[S::kRowTiles][S::kKeys / 8][4]) {
  const int lane = threadIdx.x & 31, warp_row = (threadIdx.x / 32) * 16 * S::kRowTiles;
  const uint32_t query_at = q_tile + swizzled<S::DK>(warp_row + (lane & 15), lane >> 4);
  const uint32_t key_at = k_tile + swizzled<S::DK>((lane >> 4) * 8 + (lane & 7), (lane >> 3) & 1);
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0.0f;
#pragma unroll
  for (int k = 0; k < S::DK / 16; ++k) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) ldmatrix_x4(a[m], move_chunks(query_at, k) + m * 16 * S::DK * 2);
#pragma unroll
    for (int n = 0; n < S::kKeys / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4(b, move_chunks(key_at, k) + n * 16 * S::DK * 2);
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        mma_16816<typename S::T>(s[m][2 * n], a[m], b[0], b[1]);
        mma_16816<typename S::T>(s[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// O += P V.
template <class S>
__device__ __forceinline__ void multiply_values(const float (&s)[S::kRowTiles][S::kKeys / 8][4], uint32_t v_tile,
                                                float (&o)[S::kRowTiles][S::DV / 8][4]) {
  using T = typename S::T;
  const int lane = threadIdx.x & 31;
  const uint32_t value_at = v_tile + swizzled<S::DV>(((lane >> 3) & 1) * 8 + (lane & 7), lane >> 4);
#pragma unroll
  for (int k = 0; k < S::kKeys / 16; ++k) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
      a[m][0] = pack_pair<T>(s[m][2 * k][0], s[m][2 * k][1]);
      a[m][1] = pack_pair<T>(s[m][2 * k][2], s[m][2 * k][3]);
      a[m][2] = pack_pair<T>(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
      a[m][3] = pack_pair<T>(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
    }
#pragma unroll
    for (int d = 0; d < S::DV / 16; ++d) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, move_chunks(value_at, d) + k * 16 * S::DV * 2);
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        mma_16816<T>(o[m][2 * d], a[m], b[0], b[1]);
        mma_16816<T>(o[m][2 * d + 1], a[m], b[2], b[3]);
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kThreads == 128 ? 2 : 1) tile_attention(const AttentionParams p) {
  if constexpr (kOnlyLargeRoom && S::kRoom != SharedRoom::kLarge) return;
  using T = typename S::T;
  extern __shared__ __align__(128) char shared_bytes[];
  const int tile = gridDim.x - 1 - blockIdx.x, kv_head = blockIdx.y;  // the longest rows first
  const Request r = load_request(p, find_request(p, tile, S::kRows));
  const int first_tile = static_cast<int>(static_cast<int64_t>(r.query_start) * p.group_size / S::kRows) + r.index;
  const int row0 = (tile - first_tile) * S::kRows, num_rows = r.query_len * p.group_size;
  if (!r.active || row0 >= num_rows) return;
  const Partition part = find_partition(p, r, blockIdx.z);
  if (static_cast<int>(blockIdx.z) >= part.count) return;

  char* q_tile = shared_bytes;                                               // [kRows][DK]
  char* k_tiles = q_tile + S::kQBytes;                                       // [2][kKeys][DK]
  char* v_tiles = k_tiles + 2 * S::kKBytes;                                  // [2][kKeys][DV]
  int64_t* key_rows = reinterpret_cast<int64_t*>(v_tiles + 2 * S::kVBytes);  // [2][2][kKeys]: K and V rows of two tiles

  const int lane = threadIdx.x & 31, warp_row = row0 + (threadIdx.x / 32) * 16 * S::kRowTiles;
  RowState<S::kRowTiles> rows;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + m * 16 + half * 8 + lane / 4;
      rows.position[m][half] = r.context_len + row / p.group_size;
      rows.slope[m][half] = 0;
      if (p.alibi_slopes != nullptr && row < num_rows)
        rows.slope[m][half] = p.alibi_slopes[kv_head * p.group_size + row % p.group_size] * kLog2E;
      rows.max[m][half] = -INFINITY;
      rows.sum[m][half] = 0;
    }
  const int32_t first_position = r.context_len + row0 / p.group_size;
  const int32_t last_position = r.context_len + (min(row0 + S::kRows, num_rows) - 1) / p.group_size;
  int32_t begin = part.begin, end = part.end;
  if (p.causal) end = min(end, last_position + 1 + p.right);
  if (p.window > 0) begin = max(begin, first_position - p.window + 1);
  // Scales of a pure cache fold into the softmax scale and the row's weight; mixed origins are dequantised on the way
  // in.
  const bool fold = p.origin == KeyOrigin::kCache;
  const float k_scale = p.origin == KeyOrigin::kPacked ? 1.0f : key_scale(p, kv_head);
  const float v_scale = p.origin == KeyOrigin::kPacked ? 1.0f : value_scale(p, kv_head);
  const ScoreRule rule = make_score_rule(p, fold ? k_scale : 1.0f);

  const int num_tiles = end > begin ? ceil_div(end - begin, S::kKeys) : 0;
  auto look_up = [&](int t) {
    return find_tile_row<S>(p, r, kv_head, begin + t * S::kKeys + static_cast<int>(threadIdx.x), end);
  };
  auto publish = [&](int t, const KeyRow& row) {
    key_rows[(t & 1) * 2 * S::kKeys + threadIdx.x] = row.k;
    key_rows[(t & 1) * 2 * S::kKeys + S::kKeys + threadIdx.x] = row.v;
  };
  auto load = [&](int t) {
    const int64_t* found = key_rows + (t & 1) * 2 * S::kKeys;
    const int32_t key0 = begin + t * S::kKeys;
    load_tile<S, false>(p, r, k_tiles + (t & 1) * S::kKBytes, found, key0, end, 1.0f, fold ? 1.0f : k_scale);
    load_tile<S, true>(p, r, v_tiles + (t & 1) * S::kVBytes, found + S::kKeys, key0, end, 1.0f, fold ? 1.0f : v_scale);
    cp_async_commit();
  };

  float o[S::kRowTiles][S::DV / 8][4] = {};
  const bool looks_up = threadIdx.x < S::kKeys;
  if (looks_up && num_tiles > 0) publish(0, look_up(0));
  if (looks_up && num_tiles > 1) publish(1, look_up(1));
  load_queries<S>(p, r, kv_head, row0, num_rows, q_tile);
  __syncthreads();
  if (num_tiles > 0) load(0);
  for (int t = 0; t < num_tiles; ++t) {
    cp_async_wait<0>();
    __syncthreads();
    KeyRow next{};
    if (t + 1 < num_tiles) load(t + 1);
    if (looks_up && t + 2 < num_tiles) next = look_up(t + 2);
    const int32_t key0 = begin + t * S::kKeys;
    float s[S::kRowTiles][S::kKeys / 8][4];
    multiply_keys<S>(shared_address(q_tile), shared_address(k_tiles + (t & 1) * S::kKBytes), s);
    const bool masked = key0 + S::kKeys > end ||
                        (p.causal && key0 + S::kKeys - 1 > r.context_len + warp_row / p.group_size + p.right) ||
                        (p.window > 0 && key0 <= last_position - p.window);
    softmax_tile<S>(p, r, rule, key0, end, masked, s, rows, o);
    multiply_values<S>(s, shared_address(v_tiles + (t & 1) * S::kVBytes), o);
    if (looks_up && t + 2 < num_tiles) publish(t + 2, next);
  }
  cp_async_wait<0>();

#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = rows.sum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int row = warp_row + m * 16 + half * 8 + lane / 4;
      if (row >= num_rows) continue;
      const int32_t query = row / p.group_size, head = kv_head * p.group_size + row % p.group_size;
      float weight;
      const RowSink<T> sink = end_row<T>(p, r, part, blockIdx.z, query, head, rows.max[m][half], sum,
                                         fold ? v_scale : 1.0f, (lane & 3) == 0, &weight);
#pragma unroll
      for (int d = 0; d < S::DV / 8; ++d) {
        const int column = d * 8 + (lane & 3) * 2;
        if (column < p.head_dim_v) sink.store_pair(column, o[m][d][2 * half] * weight, o[m][d][2 * half + 1] * weight);
      }
    }
}

template <class S>
cudaError_t launch_tile(const AttentionParams& p, int tiles, int partitions, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(tile_attention<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  tile_attention<S><<<dim3(tiles, p.num_kv_heads, partitions), S::kThreads, S::kSharedBytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace sextant::cuda
