// Cache writes, gathers and block copies. Rows of adjacent dims convert with the ISA's kernels, other layouts element
// by element.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "devices/cpu/cpu_ops.h"
#include "devices/cpu/packed_write.h"

namespace sextant::cpu {
namespace {

constexpr int64_t kTokensPerTask = 64;
constexpr int64_t kMaxHeadDim = 2048;

float scale_of(const float* scales, int32_t num_scales, int64_t head, DType cache_dtype) {
  if (scales == nullptr || !is_fp8(cache_dtype)) return 1.0F;
  return scales[num_scales == 1 ? 0 : head];
}

char* element(void* base, DType dtype, int64_t index) {
  return static_cast<char*>(base) + index * static_cast<int64_t>(size_of(dtype));
}
const char* element(const void* base, DType dtype, int64_t index) {
  return static_cast<const char*>(base) + index * static_cast<int64_t>(size_of(dtype));
}

// Where the dims of one token and head lie.
struct TokenPlace {
  const KvAddressing* address;
  int64_t block, head, token;
};

// Calls copy(start of the group in the row, in the cache, elements) for every group of dims that share a tile. Offsets
// in elements, found without a division an element.
template <class Copy>
void for_dim_groups(const KvAddressing& a, int64_t dim, const Copy& copy) {
  const int64_t tile = a.dim_tile, outer = a.dim_outer_stride;
  for (int64_t d = 0, at = 0; d < dim; d += tile, at += outer) copy(d, at, std::min(tile, dim - d));
}

template <class Bytes>
void scatter_typed(const Bytes* from, Bytes* to, const TokenPlace& place, int64_t dim) {
  const KvAddressing& a = *place.address;
  const int64_t inner = a.dim_inner_stride;
  to += a.offset(place.block, place.head, place.token, 0);
  if (inner == 1 && a.dim_tile * sizeof(Bytes) == 16 && dim % a.dim_tile == 0)
    return for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t) { std::memcpy(to + at, from + d, 16); });
  if (inner == 1 && a.dim_tile * sizeof(Bytes) == 4 && dim % a.dim_tile == 0)
    return for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t) { std::memcpy(to + at, from + d, 4); });
  if (inner == 1 && a.dim_tile * sizeof(Bytes) == 2 && dim % a.dim_tile == 0)
    return for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t) { std::memcpy(to + at, from + d, 2); });
  if (a.dim_tile == 1) {
    const int64_t outer = a.dim_outer_stride;
    for (int64_t d = 0; d < dim; ++d) to[d * outer] = from[d];
    return;
  }
  for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[at + i * inner] = from[d + i];
  });
}

template <class Bytes>
void collect_typed(const Bytes* from, Bytes* to, const TokenPlace& place, int64_t dim) {
  const KvAddressing& a = *place.address;
  const int64_t inner = a.dim_inner_stride;
  from += a.offset(place.block, place.head, place.token, 0);
  if (inner == 1 && a.dim_tile * sizeof(Bytes) == 16 && dim % a.dim_tile == 0)
    return for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t) { std::memcpy(to + d, from + at, 16); });
  if (inner == 1 && a.dim_tile * sizeof(Bytes) == 4 && dim % a.dim_tile == 0)
    return for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t) { std::memcpy(to + d, from + at, 4); });
  if (inner == 1 && a.dim_tile * sizeof(Bytes) == 2 && dim % a.dim_tile == 0)
    return for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t) { std::memcpy(to + d, from + at, 2); });
  if (a.dim_tile == 1) {
    const int64_t outer = a.dim_outer_stride;
    for (int64_t d = 0; d < dim; ++d) to[d] = from[d * outer];
    return;
  }
  for_dim_groups(a, dim, [&](int64_t d, int64_t at, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[d + i] = from[at + i * inner];
  });
}

template <class Function>
void with_element_type(DType dtype, Function&& function) {
  switch (size_of(dtype)) {
    case 1:
      function(uint8_t{});
      break;
    case 2:
      function(uint16_t{});
      break;
    default:
      function(uint32_t{});
      break;
  }
}

void store_row(const IsaKernels& kernels, const void* row, DType row_dtype, int64_t dim, void* memory, DType dtype,
               const TokenPlace& place, float scale) {
  alignas(64) char buffer[kMaxHeadDim * 4];
  const bool dense = place.address->dims_contiguous();
  void* target =
      dense ? element(memory, dtype, place.address->offset(place.block, place.head, place.token, 0)) : buffer;
  if (row_dtype == dtype)
    std::memcpy(target, row, static_cast<size_t>(dim) * size_of(dtype));
  else
    kernels.convert_div(row, row_dtype, target, dtype, dim, scale);
  if (!dense)
    with_element_type(dtype, [&](auto type) {
      using Bytes = decltype(type);
      scatter_typed(reinterpret_cast<const Bytes*>(buffer), static_cast<Bytes*>(memory), place, dim);
    });
}

void load_row(const IsaKernels& kernels, const void* memory, DType dtype, const TokenPlace& place, float scale,
              void* row, DType row_dtype, int64_t dim) {
  alignas(64) char buffer[kMaxHeadDim * 4];
  const void* source = buffer;
  if (place.address->dims_contiguous())
    source = element(memory, dtype, place.address->offset(place.block, place.head, place.token, 0));
  else
    with_element_type(dtype, [&](auto type) {
      using Bytes = decltype(type);
      collect_typed(static_cast<const Bytes*>(memory), reinterpret_cast<Bytes*>(buffer), place, dim);
    });
  if (row_dtype == dtype)
    std::memcpy(row, source, static_cast<size_t>(dim) * size_of(dtype));
  else
    kernels.convert_mul(source, dtype, row, row_dtype, dim, scale);
}

// A row in codes of a scale of its own, which is found here: its largest magnitude becomes the largest number stored.
void quantize_row(const IsaKernels& kernels, const void* row, DType row_dtype, int64_t dim, DType dtype, float* scale,
                  char* codes) {
  alignas(64) float values[kMaxHeadDim];
  kernels.convert_mul(row, row_dtype, values, DType::kF32, dim, 1.0F);
  float largest = 0;
  for (int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(values[d]));
  *scale = std::max(largest / largest_stored(dtype), kSmallestTokenScale);
  if (is_fp8(dtype)) return kernels.convert_div(values, DType::kF32, codes, dtype, dim, *scale);
  for (int64_t d = 0; d < dim; ++d)
    codes[d] = static_cast<char>(std::clamp(std::nearbyint(values[d] / *scale), -128.0F, 127.0F));
}

void store_scaled_row(const IsaKernels& kernels, const void* row, DType row_dtype, int64_t dim, void* memory,
                      DType dtype, const TokenPlace& place, float* scale) {
  alignas(64) char codes[kMaxHeadDim];
  quantize_row(kernels, row, row_dtype, dim, dtype, scale, codes);
  store_row(kernels, codes, dtype, dim, memory, dtype, place, 1.0F);
}

void load_scaled_row(const IsaKernels& kernels, const void* memory, DType dtype, const TokenPlace& place, float scale,
                     void* row, DType row_dtype, int64_t dim) {
  if (is_fp8(dtype)) return load_row(kernels, memory, dtype, place, scale, row, row_dtype, dim);
  alignas(64) int8_t codes[kMaxHeadDim];
  alignas(64) float values[kMaxHeadDim];
  load_row(kernels, memory, dtype, place, 1.0F, codes, dtype, dim);
  for (int64_t d = 0; d < dim; ++d) values[d] = static_cast<float>(codes[d]) * scale;
  kernels.convert_mul(values, DType::kF32, row, row_dtype, dim, 1.0F);
}

const char* row_of(const TensorView& view, int64_t i, int64_t h) {
  return element(view.data, view.dtype, i * view.stride[0] + (view.rank > 2 ? h * view.stride[1] : 0));
}

void clear_row(const TensorView& view, int64_t i, int64_t h, int64_t dim) {
  std::memset(const_cast<char*>(row_of(view, i, h)), 0, static_cast<size_t>(dim) * size_of(view.dtype));
}

// A run of tokens of one head as it is stored: as it comes, or in codes.
class StoredRows {
 public:
  StoredRows(const IsaKernels& kernels, DType dtype) : kernels_(kernels), dtype_(dtype) {}

  void take(const TensorView& view, int64_t first, int64_t count, int64_t head, int64_t dim) {
    rows = row_of(view, first, head);
    stride = view.stride[0] * static_cast<int64_t>(size_of(view.dtype));
    count_ = count;
    dim_ = dim;
    source_ = view.dtype;
  }
  void convert(float scale) {
    if (source_ == dtype_) return;
    for (int64_t i = 0; i < count_; ++i)
      kernels_.convert_div(rows + i * stride, source_, codes_[i], dtype_, dim_, scale);
    take_codes();
  }
  // scales: of the run's first token, others `step` further on.
  void quantize(float* scales, int64_t step) {
    for (int64_t i = 0; i < count_; ++i)
      quantize_row(kernels_, rows + i * stride, source_, dim_, dtype_, scales + i * step, codes_[i]);
    take_codes();
  }

  const char* rows = nullptr;
  int64_t stride = 0;  // in bytes

 private:
  static constexpr int64_t kMostTokens = 16;  // of run_of_slots
  void take_codes() {
    rows = codes_[0];
    stride = kMaxHeadDim;
  }

  const IsaKernels& kernels_;
  const DType dtype_;
  DType source_ = DType::kF32;
  int64_t count_ = 0, dim_ = 0;
  alignas(64) char codes_[kMostTokens][kMaxHeadDim];
};

// A task's tokens into the packed layout, by runs of slots.
void write_packed_runs(const IsaKernels& kernels, const ReshapeAndCacheArgs& a, int64_t first, int64_t last) {
  const KvCacheSpec& c = a.cache.spec;
  const size_t bytes = size_of(c.dtype);
  StoredRows stored(kernels, c.dtype);
  for (int64_t t = first; t < last;) {
    if (a.slot_mapping[t] < 0) {
      ++t;
      continue;
    }
    const int64_t count = run_of_slots(a.slot_mapping, t, last, c.block_size);
    const int64_t block = a.slot_mapping[t] / c.block_size, token = a.slot_mapping[t] % c.block_size;
    const auto store = [&](const TensorView& view, int64_t h, int64_t dim, const float* scales) {
      stored.take(view, t, count, h, dim);
      if (c.has_token_scales())
        stored.quantize(const_cast<float*>(scales) + a.cache.scale_strides.offset(block, h, token),
                        a.cache.scale_strides.token);
      else
        stored.convert(scale_of(scales, a.cache.num_scales, h, c.dtype));
    };
    for (int64_t h = 0; h < c.num_kv_heads; ++h) {
      store(a.k, h, c.head_dim, a.cache.k_scale);
      write_key_run(stored.rows, stored.stride, count, c.head_dim, bytes, a.cache.k_addr,
                    element(a.cache.k, c.dtype, a.cache.k_addr.offset(block, h, 0, 0)), token);
      store(a.v, h, c.head_dim_v, a.cache.v_scale);
      write_value_run(stored.rows, stored.stride, count, c.head_dim_v, bytes, a.cache.v_addr,
                      element(a.cache.v, c.dtype, a.cache.v_addr.offset(block, h, 0, 0)), token);
    }
    t += count;
  }
}

}  // namespace

Status CpuOps::reshape_and_cache(const ReshapeAndCacheArgs& a, Stream) const {
  const KvCacheSpec& c = a.cache.spec;
  const bool as_it_comes = a.k.dtype == c.dtype && a.v.dtype == c.dtype;
  const bool packed = (as_it_comes || size_of(c.dtype) == 1) && packs_keys(a.cache.k_addr, c.dtype) &&
                      packs_values(a.cache.v_addr, c.dtype);
  for_ranges(a.num_tokens, kTokensPerTask, [&](int64_t first, int64_t last) {
    if (packed) return write_packed_runs(kernels_, a, first, last);
    for (int64_t t = first; t < last; ++t) {
      if (a.slot_mapping[t] < 0) continue;
      const int64_t block = a.slot_mapping[t] / c.block_size, token = a.slot_mapping[t] % c.block_size;
      for (int64_t h = 0; h < c.num_kv_heads; ++h) {
        if (c.has_token_scales()) {
          const int64_t at = a.cache.scale_strides.offset(block, h, token);
          store_scaled_row(kernels_, row_of(a.k, t, h), a.k.dtype, c.head_dim, a.cache.k, c.dtype,
                           {&a.cache.k_addr, block, h, token}, const_cast<float*>(a.cache.k_scale) + at);
          store_scaled_row(kernels_, row_of(a.v, t, h), a.v.dtype, c.head_dim_v, a.cache.v, c.dtype,
                           {&a.cache.v_addr, block, h, token}, const_cast<float*>(a.cache.v_scale) + at);
          continue;
        }
        store_row(kernels_, row_of(a.k, t, h), a.k.dtype, c.head_dim, a.cache.k, c.dtype,
                  {&a.cache.k_addr, block, h, token}, scale_of(a.cache.k_scale, a.cache.num_scales, h, c.dtype));
        store_row(kernels_, row_of(a.v, t, h), a.v.dtype, c.head_dim_v, a.cache.v, c.dtype,
                  {&a.cache.v_addr, block, h, token}, scale_of(a.cache.v_scale, a.cache.num_scales, h, c.dtype));
      }
    }
  });
  return Status::ok();
}

Status CpuOps::concat_and_cache_mla(const ConcatAndCacheMlaArgs& a, Stream) const {
  const KvCacheSpec& c = a.cache.spec;
  const float scale = scale_of(a.cache.k_scale, 1, 0, c.dtype);
  KvAddressing rope = a.cache.k_addr;  // the same rows, kv_lora_rank dims further on
  for_ranges(a.num_tokens, kTokensPerTask, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      if (a.slot_mapping[t] < 0) continue;
      const int64_t block = a.slot_mapping[t] / c.block_size, token = a.slot_mapping[t] % c.block_size;
      store_row(kernels_, row_of(a.kv_c, t, 0), a.kv_c.dtype, c.head_dim_v, a.cache.k, c.dtype,
                {&a.cache.k_addr, block, 0, token}, scale);
      store_row(kernels_, row_of(a.k_pe, t, 0), a.k_pe.dtype, c.head_dim - c.head_dim_v,
                element(a.cache.k, c.dtype, c.head_dim_v), c.dtype, {&rope, block, 0, token}, scale);
    }
  });
  return Status::ok();
}

Status CpuOps::context_chunk_offsets(const ContextChunkOffsetsArgs& a, Stream) const {
  int64_t rows = 0;
  for (int32_t b = 0; b < a.num_requests; ++b) {
    a.key_start_loc[b] = static_cast<int32_t>(rows);
    const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b];
    if (a.filter.matches(query_len, a.seq_lens[b]))
      rows += std::clamp<int64_t>(a.seq_lens[b] - query_len - a.chunk_begin, 0, a.chunk_len);
  }
  a.key_start_loc[a.num_requests] = static_cast<int32_t>(rows);
  return Status::ok();
}

Status CpuOps::gather_cache(const GatherCacheArgs& a, Stream) const {
  const KvCacheSpec& c = a.cache.spec;
  const int64_t rows = std::min<int64_t>(a.key_start_loc[a.num_requests], a.max_rows);
  for_ranges(rows, kTokensPerTask, [&](int64_t first, int64_t last) {
    const int32_t* loc =
        std::upper_bound(a.key_start_loc, a.key_start_loc + a.num_requests + 1, static_cast<int32_t>(first)) - 1;
    for (int64_t row = first; row < last; ++row) {
      while (row >= loc[1]) ++loc;
      const auto b = loc - a.key_start_loc;
      const int64_t begin = a.seq_lens != nullptr ? int64_t{a.seq_lens[b]} - (loc[1] - loc[0]) : a.chunk_begin;
      const int64_t position = begin + row - *loc;
      if (position < 0) continue;
      const int64_t block = a.block_table[b * a.block_table_stride + position / c.block_size];
      const bool freed = block < 0 || block >= c.num_blocks;  // no query sees it; its rows become 0
      for (int64_t h = 0; h < c.num_kv_heads; ++h) {
        if (freed) {
          clear_row(a.k, row, h, c.head_dim);
          if (!c.is_latent()) clear_row(a.v, row, h, c.head_dim_v);
          continue;
        }
        const TokenPlace k_place{&a.cache.k_addr, block, h, position % c.block_size};
        if (c.has_token_scales()) {
          const int64_t at = a.cache.scale_strides.offset(block, h, position % c.block_size);
          load_scaled_row(kernels_, a.cache.k, c.dtype, k_place, a.cache.k_scale[at],
                          const_cast<char*>(row_of(a.k, row, h)), a.k.dtype, c.head_dim);
          load_scaled_row(kernels_, a.cache.v, c.dtype, {&a.cache.v_addr, block, h, position % c.block_size},
                          a.cache.v_scale[at], const_cast<char*>(row_of(a.v, row, h)), a.v.dtype, c.head_dim_v);
          continue;
        }
        load_row(kernels_, a.cache.k, c.dtype, k_place, scale_of(a.cache.k_scale, a.cache.num_scales, h, c.dtype),
                 const_cast<char*>(row_of(a.k, row, h)), a.k.dtype, c.head_dim);
        if (c.is_latent()) continue;
        const TokenPlace v_place{&a.cache.v_addr, block, h, position % c.block_size};
        load_row(kernels_, a.cache.v, c.dtype, v_place, scale_of(a.cache.v_scale, a.cache.num_scales, h, c.dtype),
                 const_cast<char*>(row_of(a.v, row, h)), a.v.dtype, c.head_dim_v);
      }
    }
  });
  return Status::ok();
}

namespace {

// Elements alone: a caller's own strides may have other memory between those of a block.
void copy_block_elements(const CopyBlocksArgs& a, void* memory, const KvAddressing& rule, int32_t dim, int64_t from,
                         int64_t to) {
  const KvCacheSpec& s = a.cache.spec;
  const int32_t run = rule.dims_contiguous() ? dim : 1;
  for (int64_t h = 0; h < s.num_kv_heads; ++h)
    for (int64_t t = 0; t < s.block_size; ++t)
      for (int64_t d = 0; d < dim; d += run)
        std::memcpy(element(memory, s.dtype, rule.offset(to, h, t, d)),
                    element(memory, s.dtype, rule.offset(from, h, t, d)), static_cast<size_t>(run) * size_of(s.dtype));
}

}  // namespace

Status CpuOps::copy_blocks(const CopyBlocksArgs& a, Stream) const {
  const auto copy = [&](void* memory, const KvAddressing& rule, int32_t dim, int64_t from, int64_t to) {
    if (a.cache.spec.layout == KvLayout::kStrided) return copy_block_elements(a, memory, rule, dim, from, to);
    const int64_t stride = rule.block_stride;
    std::memcpy(element(memory, a.cache.spec.dtype, to * stride), element(memory, a.cache.spec.dtype, from * stride),
                static_cast<size_t>(stride) * size_of(a.cache.spec.dtype));
  };
  for_ranges(a.num_pairs, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t from = a.mapping[2 * i], to = a.mapping[2 * i + 1];
      copy(a.cache.k, a.cache.k_addr, a.cache.spec.head_dim, from, to);
      if (!a.cache.spec.is_latent() && a.cache.v != nullptr)
        copy(a.cache.v, a.cache.v_addr, a.cache.spec.head_dim_v, from, to);
      if (!a.cache.spec.has_token_scales()) continue;
      for (float* scales : {const_cast<float*>(a.cache.k_scale), const_cast<float*>(a.cache.v_scale)})
        for (int32_t h = 0; h < a.cache.spec.num_kv_heads; ++h)
          for (int32_t t = 0; t < a.cache.spec.block_size; ++t)
            scales[a.cache.scale_strides.offset(a.mapping[2 * i + 1], h, t)] =
                scales[a.cache.scale_strides.offset(a.mapping[2 * i], h, t)];
    }
  });
  return Status::ok();
}

}  // namespace sextant::cpu
