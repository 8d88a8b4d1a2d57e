// The memory-bound ops: cache writes, gather, offsets, merge, copies. 256 threads a workgroup; a thread moves 8
// elements at a time where the layout keeps 8 dims together, else one.
#pragma once

#include "devices/hip/kernels/work_list.h"

namespace sextant::hip {

constexpr int kCopyThreads = 256;

// Last entry of starts[0, count) that is not after x.
SEXTANT_DEVICE int find_start(const int32_t* starts, int count, int64_t x) {
  int begin = 0, end = count;
  while (end - begin > 1) {
    const int middle = (begin + end) / 2;
    if (starts[middle] <= x) {
      begin = middle;
    } else {
      end = middle;
    }
  }
  return begin;
}

// Eight aligned elements as they are.
SEXTANT_DEVICE void copy_wide8(Format format, void* data, int64_t to, const void* source, int64_t from) {
  if (format == Format::kF32) {
    auto* words = reinterpret_cast<u32x4*>(static_cast<float*>(data) + to);
    const auto* are = reinterpret_cast<const u32x4*>(static_cast<const float*>(source) + from);
    words[0] = are[0];
    words[1] = are[1];
  } else {
    *reinterpret_cast<u32x4*>(static_cast<uint16_t*>(data) + to) =
        *reinterpret_cast<const u32x4*>(static_cast<const uint16_t*>(source) + from);
  }
}

// One chunk of one token: row -> cache. A cache that does not convert holds the type of the rows.
SEXTANT_DEVICE void write_chunk(const CacheWriteParams& a, const CachePart& part, int64_t token_row, int64_t block,
                                int32_t token, int32_t item) {
  const int32_t head = item / part.chunks;
  const int32_t d = (item - head * part.chunks) * (part.vectors != 0 ? 8 : 1);
  const int64_t from = token_row * part.token_stride + head * part.head_stride + d;
  const int64_t to = token_offset(part.address, block, head, token) + dim_offset(part.address, part.dim_begin + d);
  const bool converts = is_8_bit(a.cache_format);
  const float scale = converts && part.scale != nullptr ? part.scale[a.num_scales > 1 ? head : 0] : 1.0f;
  if (part.vectors == 0) {
    const float x = load_wide_element(a.row_format, part.rows, from);
    if (converts) {
      store_byte_element(a.cache_format, part.cache, to, x / scale);
    } else {
      store_wide_element(a.row_format, part.cache, to, x);
    }
  } else if (converts) {
    Floats8 v = load_wide8(a.row_format, part.rows, from);
    SEXTANT_UNROLL
    for (int i = 0; i < 8; ++i) v.x[i] = v.x[i] / scale;
    store_fp8x8(a.cache_format, part.cache, to, v);
  } else {
    copy_wide8(a.row_format, part.cache, to, part.rows, from);
  }
}

// The heads of one token whose scales are found here, a wave a head.
SEXTANT_DEVICE void write_scaled_heads(const CacheWriteParams& a, const CachePart& part, int64_t token_row,
                                       int64_t block, int32_t token) {
  for (int32_t head = wave_index(); head < part.heads; head += kCopyThreads / kWaveSize) {
    const int64_t from = token_row * part.token_stride + head * part.head_stride;
    float largest = 0;
    for (int32_t d = lane_index(); d < part.dim; d += kWaveSize) {
      const float x = load_wide_element(a.row_format, part.rows, from + d);
      largest = max(largest, max(x, -x));
    }
    for (int mask = 1; mask < kWaveSize; mask *= 2) largest = max(largest, shuffle_xor(largest, mask));
    const float scale = max(largest / a.largest_stored, a.smallest_scale);
    const TokenScales& s = part.token_scales;
    if (lane_index() == 0) s.data[block * s.block_stride + token * s.token_stride + head * s.head_stride] = scale;
    const int64_t to = token_offset(part.address, block, head, token);
    for (int32_t d = lane_index(); d < part.dim; d += kWaveSize)
      store_byte_element(a.cache_format, part.cache, to + dim_offset(part.address, d),
                         load_wide_element(a.row_format, part.rows, from + d) / scale);
  }
}

// A workgroup takes one token. Slots outside the cache are skipped: a bad one must not reach other memory.
SEXTANT_DEVICE void cache_write(const CacheWriteParams& a) {
  const int64_t row = block_index();
  const int64_t slot = a.slot_mapping[row];
  if (slot < 0 || slot >= a.num_slots) return;
  const uint32_t block = static_cast<uint32_t>(slot) / static_cast<uint32_t>(a.block_size);  // slots fit 31 bits
  const auto token = static_cast<int32_t>(static_cast<uint32_t>(slot) - block * a.block_size);
  SEXTANT_KEEP_LOOP
  for (int side = 0; side < 2; ++side) {
    const CachePart& part = a.parts[side];
    if (part.token_scales.data != nullptr) {
      write_scaled_heads(a, part, row, block, token);
      continue;
    }
    const int32_t items = part.heads * part.chunks;
    for (int32_t i = thread_index(); i < items; i += kCopyThreads) write_chunk(a, part, row, block, token, i);
  }
}

SEXTANT_DEVICE void read_chunk(const GatherParams& a, const CachePart& part, int64_t row, int64_t block, int32_t token,
                               int32_t item) {
  const int32_t head = item / part.chunks;
  const int32_t d = (item - head * part.chunks) * (part.vectors != 0 ? 8 : 1);
  const int64_t from = token_offset(part.address, block, head, token) + dim_offset(part.address, d);
  const int64_t to = row * part.token_stride + head * part.head_stride + d;
  const bool converts = is_8_bit(a.cache_format);
  const float scale = part.token_scales.data != nullptr   ? token_scale(part.token_scales, block, token, head)
                      : converts && part.scale != nullptr ? part.scale[a.num_scales > 1 ? head : 0]
                                                          : 1.0f;
  if (part.vectors == 0) {
    store_wide_element(a.row_format, part.rows, to, load_element(a.cache_format, part.cache, from) * scale);
  } else if (a.cache_format == a.row_format) {
    copy_wide8(a.row_format, part.rows, to, part.cache, from);
  } else {
    Floats8 v = converts ? load_bytes8(a.cache_format, part.cache, from) : load_wide8(a.cache_format, part.cache, from);
    SEXTANT_UNROLL
    for (int i = 0; i < 8; ++i) v.x[i] *= scale;
    store_wide8(a.row_format, part.rows, to, v);
  }
}

// A workgroup takes one packed row.
SEXTANT_DEVICE void gather_rows(const GatherParams& a) {
  const int64_t row = block_index();
  if (row >= min(a.max_rows, static_cast<int64_t>(a.key_start_loc[a.num_requests]))) return;
  const int b = find_start(a.key_start_loc, a.num_requests, row);
  const int64_t begin =
      a.seq_lens != nullptr ? a.seq_lens[b] - (a.key_start_loc[b + 1] - a.key_start_loc[b]) : a.chunk_begin;
  const int64_t position = begin + row - a.key_start_loc[b];
  if (position < 0) return;
  const uint32_t logical = static_cast<uint32_t>(position) / static_cast<uint32_t>(a.block_size);
  const auto id = static_cast<uint32_t>(a.block_table[b * a.block_table_stride + logical]);
  const int64_t block = min(id, static_cast<uint32_t>(a.num_blocks - 1));
  const auto token = static_cast<int32_t>(static_cast<uint32_t>(position) - logical * a.block_size);
  SEXTANT_KEEP_LOOP
  for (int side = 0; side < 2; ++side) {
    const CachePart& part = a.parts[side];
    const int32_t items = part.heads * part.chunks;
    for (int32_t i = thread_index(); i < items; i += kCopyThreads) read_chunk(a, part, row, block, token, i);
  }
}

// One workgroup: an exclusive prefix sum over the requests, 256 at a time.
SEXTANT_DEVICE void chunk_offsets(const ChunkOffsetsParams& a) {
  auto* sums = reinterpret_cast<int32_t*>(shared_memory<kCopyThreads * 4>());
  int32_t carry = 0;
  for (int first = 0; first < a.num_requests; first += kCopyThreads) {
    const int b = first + thread_index();
    int32_t keys = 0;
    if (b < a.num_requests) {
      const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b], seq_len = a.seq_lens[b];
      const int64_t left = static_cast<int64_t>(seq_len) - query_len - a.chunk_begin;
      if (a.filter.matches(query_len, seq_len))
        keys = static_cast<int32_t>(max(static_cast<int64_t>(0), min(left, a.chunk_len)));
    }
    barrier();
    sums[thread_index()] = keys;
    barrier();
    int32_t below = carry;
    for (int i = 0; i < kCopyThreads; ++i) {
      if (i == thread_index() && b < a.num_requests) a.key_start_loc[b] = below;
      below += sums[i];
    }
    carry = below;
  }
  if (thread_index() == 0) a.key_start_loc[a.num_requests] = carry;
}

SEXTANT_DEVICE float finite_lse(const float* lse, const int64_t (&stride)[2], int64_t head, int64_t token) {
  const float x = lse[head * stride[0] + token * stride[1]];
  return x == -kNegInf ? kNegInf : x;  // +inf counts as nothing
}
struct MergeWeights {
  float prefix, suffix, lse;
};
SEXTANT_DEVICE MergeWeights merge_weights(const MergeParams& a, int64_t head, int64_t token) {
  const float p = finite_lse(a.prefix_lse, a.prefix_lse_stride, head, token);
  const float s = finite_lse(a.suffix_lse, a.suffix_lse_stride, head, token);
  const float top = max(p, s);
  if (top == kNegInf) return {0, 0, kNegInf};
  const float wp = exp2((p - top) * gpu::kLog2E), ws = exp2((s - top) * gpu::kLog2E);
  const float inverse = 1.0f / (wp + ws);
  return {wp * inverse, ws * inverse, log2(wp + ws) * gpu::kLn2 + top};
}

// A workgroup takes one token; a wave one head at a time.
SEXTANT_DEVICE void merge_states(const MergeParams& a) {
  const int64_t token = block_index();
  if (a.query_start_loc != nullptr) {
    if (token < a.query_start_loc[0] || token >= a.query_start_loc[a.num_requests]) return;
    const int b = find_start(a.query_start_loc, a.num_requests, token);
    if (!a.filter.matches(a.query_start_loc[b + 1] - a.query_start_loc[b], a.seq_lens[b])) return;
  }
  for (int64_t head = wave_index(); head < a.out.shape[1]; head += kCopyThreads / kWaveSize) {
    const MergeWeights w = merge_weights(a, head, token);
    const int64_t from_p = token * a.prefix_out.stride[0] + head * a.prefix_out.stride[1];
    const int64_t from_s = token * a.suffix_out.stride[0] + head * a.suffix_out.stride[1];
    const int64_t to = token * a.out.stride[0] + head * a.out.stride[1];
    for (int64_t d = lane_index(); d < a.out.shape[2]; d += kWaveSize) {
      // A state of weight 0 may hold anything; 0 * NaN must not reach the result.
      const float x =
          w.prefix != 0 ? load_wide_element(a.prefix_out.format, a.prefix_out.data, from_p + d) * w.prefix : 0.0f;
      const float y =
          w.suffix != 0 ? load_wide_element(a.suffix_out.format, a.suffix_out.data, from_s + d) * w.suffix : 0.0f;
      store_wide_element(a.out.format, a.out.data, to + d, x + y);
    }
    wave_sync();  // lse may alias an input: all lanes have read it
    if (lane_index() == 0 && a.lse != nullptr) a.lse[head * a.lse_stride[0] + token * a.lse_stride[1]] = w.lse;
  }
}

SEXTANT_DEVICE void copy_element(int bytes, void* data, int64_t to, int64_t from) {
  if (bytes == 4) {
    static_cast<uint32_t*>(data)[to] = static_cast<const uint32_t*>(data)[from];
  } else if (bytes == 2) {
    static_cast<uint16_t*>(data)[to] = static_cast<const uint16_t*>(data)[from];
  } else {
    static_cast<uint8_t*>(data)[to] = static_cast<const uint8_t*>(data)[from];
  }
}
SEXTANT_DEVICE void copy_block_part(const CopyBlocksParams& a, void* data, const KvAddressing& rule, int32_t dim,
                                    int64_t from, int64_t to, int32_t group) {
  // A block's elements fit 31 bits.
  const uint32_t rows = static_cast<uint32_t>(a.block_size) * a.num_kv_heads, elements = rows * dim;
  const uint32_t step = a.groups_a_pair * kCopyThreads;
  for (uint32_t i = group * kCopyThreads + thread_index(); i < elements; i += step) {
    const uint32_t rest = i / static_cast<uint32_t>(dim), token = rest / static_cast<uint32_t>(a.num_kv_heads);
    const auto d = static_cast<int32_t>(i - rest * dim), head = static_cast<int32_t>(rest - token * a.num_kv_heads);
    const int64_t inside = dim_offset(rule, d);
    copy_element(a.element_bytes, data, token_offset(rule, to, head, token) + inside,
                 token_offset(rule, from, head, token) + inside);
  }
}
SEXTANT_DEVICE void copy_blocks(const CopyBlocksParams& a) {
  const int32_t pair = block_index() / a.groups_a_pair, group = block_index() % a.groups_a_pair;
  const int64_t from = a.mapping[2 * pair], to = a.mapping[2 * pair + 1];
  if (from < 0 || to < 0 || from >= a.num_blocks || to >= a.num_blocks) return;
  copy_block_part(a, a.k, a.k_addr, a.head_dim, from, to, group);
  if (a.v != nullptr) copy_block_part(a, a.v, a.v_addr, a.head_dim_v, from, to, group);
}

// A workgroup takes one row.
SEXTANT_DEVICE void copy_pad(const CopyPadParams& a) {
  const int64_t row = block_index();
  const auto padded = static_cast<uint32_t>(a.dst.shape[2]);  // a row's elements fit 31 bits
  for (uint32_t i = thread_index(); i < static_cast<uint32_t>(a.src.shape[1]) * padded; i += kCopyThreads) {
    const uint32_t head = i / padded, d = i - head * padded;
    float x = 0;
    if (d < a.src.shape[2])
      x = load_element(a.src.format, a.src.data, row * a.src.stride[0] + head * a.src.stride[1] + d * a.src.stride[2]);
    if (a.src_scale != nullptr) x *= a.src_scale[head / static_cast<uint32_t>(a.heads_per_scale)];
    store_wide_element(a.dst.format, a.dst.data, row * a.dst.stride[0] + head * a.dst.stride[1] + d * a.dst.stride[2],
                       x);
  }
}

}  // namespace sextant::hip
