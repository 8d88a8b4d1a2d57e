// What the MLA decode kernels of 64 rows share: Q comes, scores are adjusted, O goes.
//
// A block of a short request does each of these once, with nothing to hide it: so there is as little code as possible
// (it comes from memory), one wait for all of Q, and rows are written whole.
#pragma once

#include "devices/cuda/hopper/mla_blocks.cuh"
#include "devices/cuda/kernels/softmax.cuh"
#include "devices/cuda/kernels/visible_keys.cuh"

namespace sextant::cuda {

// 64 rows of 16-bit queries to `q_tile`, blocks of 64 columns, by all consumers. Ends when this thread's have landed.
template <class T>
__device__ __forceinline__ void mla_copy_queries(const AttentionParams& p, const Request& r, int row0, char* q_tile) {
  using S = MlaBlocks;
  constexpr int kRowsAPass = S::kConsumers / 8, kPasses = 64 / kRowsAPass;
  const int num_rows = r.query_len * p.group_size, sub = static_cast<int>(threadIdx.x) % 8;
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int tile_row = static_cast<int>(threadIdx.x) / 8 + i * kRowsAPass, row = row0 + tile_row;
    const int32_t query = row / p.group_size;
    const bool valid = row < num_rows;
    const T* from =
        static_cast<const T*>(p.q) + sub * 8 +
        (valid ? (r.query_start + query) * p.q_token_stride + (row - query * p.group_size) * p.q_head_stride : 0);
    const uint32_t to = shared_address(q_tile) + block_chunk(tile_row, sub);
#pragma unroll
    for (int block = 0; block < S::kBlocks; ++block) cp_async_16(to + block * S::kBlockBytes, from + block * 64, valid);
  }
  cp_async_commit();
  cp_async_wait<0>();
}

// Scores of two rows a thread, as wgmma leaves 64 x 64: softcap and ALiBi, after which they are in log2 units, and the
// mask. `positions`: of the rows; `scales`: what their dots are multiplied by first.
__device__ __forceinline__ void mla_adjust_scores(const AttentionParams& p, const ScoreRule& rule,
                                                  const int32_t (&positions)[2], const float (&slopes)[2],
                                                  const float (&scales)[2], int32_t context_len, int32_t key_hi,
                                                  bool masked, int32_t key0, float (&s)[32]) {
  const int32_t first = key0 + (static_cast<int>(threadIdx.x) & 3) * 2;
  if (rule.has_cap) {
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i] = score_log2(rule, s[i] * scales[(i / 2) % 2]);
  } else if (p.alibi_slopes != nullptr) {
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i] *= rule.scale_log2 * scales[(i / 2) % 2];
  }
  if (p.alibi_slopes != nullptr) {
#pragma unroll
    for (int i = 0; i < 32; ++i)
      s[i] += slopes[(i / 2) % 2] * static_cast<float>(first + i / 4 * 8 + (i & 1) - context_len);
  }
  if (!masked) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const VisibleKeys visible = visible_keys(p, key_hi, positions[half]);
#pragma unroll
    for (int j = 0; j < 16; ++j)
      if (!visible.has(first + j / 2 * 8 + (j & 1))) s[j / 2 * 4 + half * 2 + (j & 1)] = -INFINITY;
  }
}

// Where a row goes, and what it is multiplied by.
struct MlaRowTarget {
  void* row = nullptr;  // null: nowhere
  float weight = 0;
  bool is_f32 = false;
};

// Row `tile_row` of this block, of which consumer `group` has half of the columns.
template <class T>
__device__ __forceinline__ MlaRowTarget mla_end_row(const AttentionParams& p, const BlockWork& work,
                                                    const MlaPlace& place, const TileCursor& c, int first_tile,
                                                    bool ends, int tile_row, float max, float sum, bool writes_lse) {
  const Request& r = c.request;
  const int in_entry = place.sub * 64 + tile_row, at = c.row_tile * place.list_rows + in_entry;
  MlaRowTarget target;
  if (at >= r.query_len * p.group_size) return target;
  const int32_t query = at / p.group_size, token = r.query_start + query, head = at - query * p.group_size;
  const bool whole = is_whole(work, first_tile, ends);
  const RowEnd end = finish_row(max, sum, value_scale(p, 0), whole ? p.sinks : nullptr, head);
  target.weight = end.weight;
  if (whole) {
    const RowSink<T> sink = output_row<T>(p, token, head);
    target.is_f32 = p.out_f32;
    target.row = p.out_f32 ? static_cast<void*>(sink.out_f32) : sink.out;
    if (writes_lse) store_lse(p, token, head, end.lse);
  } else {
    const int64_t partial = partial_index(p, work, r, first_tile, place.list_rows, in_entry, query, head, place.block);
    target.is_f32 = true;
    target.row = p.partial_out + partial * MlaTile::DV;
    if (writes_lse) p.partial_lse[partial] = end.lse;
  }
  return target;
}

template <class T>
__device__ __forceinline__ void mla_store_columns(const MlaRowTarget& target, int column, const float4& x) {
  if (target.is_f32) {
    float* to = static_cast<float*>(target.row) + column;
    if ((reinterpret_cast<uintptr_t>(to) & 15) == 0) {
      *reinterpret_cast<float4*>(to) = x;
    } else {
      to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
    }
  } else {
    T* to = static_cast<T*>(target.row) + column;
    if ((reinterpret_cast<uintptr_t>(to) & 7) == 0) {
      *reinterpret_cast<uint2*>(to) = make_uint2(pack_pair<T>(x.x, x.y), pack_pair<T>(x.z, x.w));
    } else {
      to[0] = from_float<T>(x.x), to[1] = from_float<T>(x.y), to[2] = from_float<T>(x.z), to[3] = from_float<T>(x.w);
    }
  }
}

// What lane `lane` has.
__device__ __forceinline__ MlaRowTarget mla_target_of(const MlaRowTarget& target, int lane) {
  MlaRowTarget to;
  to.row = reinterpret_cast<void*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(target.row), lane));
  to.weight = __shfl_sync(0xffffffffu, target.weight, lane);
  to.is_f32 = __shfl_sync(0xffffffffu, static_cast<int>(target.is_f32), lane) != 0;
  return to;
}

// A warp's 16 rows x 256 columns of O, rows from registers through `room`, 16 x 136 floats of the warp's own, so that
// each row is written in runs of 512 bytes. `target`: of row lane % 16; column0: of this consumer's half.
constexpr int kMlaRoomStride = 136, kMlaRoomBytes = 16 * kMlaRoomStride * 4;  // so that lanes hit different banks
template <class T>
__device__ __forceinline__ void mla_write_rows(const MlaRowTarget& target, int column0, const float (&o)[128],
                                               float* room) {
  const int lane = threadIdx.x & 31;
  float weight[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) weight[half] = __shfl_sync(0xffffffffu, target.weight, half * 8 + lane / 4);
#pragma unroll
  for (int part = 0; part < 2; ++part) {  // of 128 columns
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 16; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = (part * 16 + j) * 4 + half * 2;
        *reinterpret_cast<float2*>(room + (half * 8 + lane / 4) * kMlaRoomStride + j * 8 + (lane & 3) * 2) =
            make_float2(o[i] * weight[half], o[i + 1] * weight[half]);
      }
    __syncwarp();
#pragma unroll 2
    for (int row = 0; row < 16; ++row) {
      const MlaRowTarget to = mla_target_of(target, row);
      const float4 x = *reinterpret_cast<const float4*>(room + row * kMlaRoomStride + lane * 4);
      if (to.row != nullptr) mla_store_columns<T>(to, column0 + part * 128 + lane * 4, x);
    }
  }
}

}  // namespace sextant::cuda
