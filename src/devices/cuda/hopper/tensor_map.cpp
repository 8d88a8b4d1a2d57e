#include "devices/cuda/hopper/tensor_map.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "sextant/types.h"

namespace sextant::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's entry, found at run time: nothing links against libcuda.
Encode find_encode() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found) !=
          cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return reinterpret_cast<Encode>(entry);
}

// 16-bit elements [outer][head][token][head_dim]; strides in elements.
struct KeyTensor {
  const void* base;
  int64_t head_dim, tokens, heads, outer;
  int64_t token_stride, head_stride, outer_stride;
};

bool make_map(CUtensorMap* map, DType dtype, const KeyTensor& t, int32_t box_tokens) {
  static const Encode encode = find_encode();
  const auto bytes = [](int64_t stride) { return static_cast<cuuint64_t>(stride) * 2; };
  if (encode == nullptr || reinterpret_cast<uintptr_t>(t.base) % 16 != 0) return false;
  for (const int64_t stride : {t.token_stride, t.head_stride, t.outer_stride})
    if (stride <= 0 || stride % 8 != 0 || stride >= int64_t{1} << 39) return false;
  const cuuint64_t dims[4] = {static_cast<cuuint64_t>(t.head_dim), static_cast<cuuint64_t>(t.tokens),
                              static_cast<cuuint64_t>(t.heads), static_cast<cuuint64_t>(t.outer)};
  const cuuint64_t strides[3] = {bytes(t.token_stride), bytes(t.head_stride), bytes(t.outer_stride)};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(box_tokens), 1, 1}, steps[4] = {1, 1, 1, 1};
  const auto type = dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return encode(map, type, 4, const_cast<void*>(t.base), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

KeyTensor cache_tensor(const AttentionParams& p, const void* base, const KvAddressing& a, int32_t head_dim) {
  return {base,          head_dim,      p.block_size, p.num_kv_heads, p.num_blocks, a.token_outer_stride,
          a.head_stride, a.block_stride};
}

// Rows of one token lie together, 8 dims after 8 dims.
bool is_plain(const KvAddressing& a, int32_t chunk_stride) { return a.token_tile == 1 && chunk_stride == 8; }

// What a request's packed rows end at is known on the device only; no kernel reads a box that reaches past them.
constexpr int64_t kManyTokens = int64_t{1} << 31;

}  // namespace

ForwardMaps make_forward_maps(const AttentionParams& p, int32_t tile_keys) {
  ForwardMaps maps{};
  if (p.origin != KeyOrigin::kPacked && p.cache_dtype == p.dtype && is_plain(p.k_addr, p.k_chunk_stride) &&
      is_plain(p.v_addr, p.v_chunk_stride)) {
    const int32_t tokens = std::min(tile_keys, p.block_size & -p.block_size);
    if (tokens >= 8 &&  // a swizzle pattern's rows
        make_map(&maps.cache_k, p.dtype, cache_tensor(p, p.cache_k, p.k_addr, p.head_dim), tokens) &&
        make_map(&maps.cache_v, p.dtype, cache_tensor(p, p.cache_v, p.v_addr, p.head_dim_v), tokens))
      maps.cache_tokens = tokens;
  }
  if (p.origin != KeyOrigin::kCache && p.packed_aligned) {
    const auto packed = [&](const void* base, int32_t head_dim, int64_t token_stride, int64_t head_stride) {
      return KeyTensor{base, head_dim, kManyTokens, p.num_kv_heads, 1, token_stride, head_stride, token_stride};
    };
    maps.packed =
        make_map(&maps.packed_k, p.dtype,
                 packed(p.packed_k, p.head_dim, p.packed_k_token_stride, p.packed_k_head_stride), tile_keys) &&
        make_map(&maps.packed_v, p.dtype,
                 packed(p.packed_v, p.head_dim_v, p.packed_v_token_stride, p.packed_v_head_stride), tile_keys);
  }
  return maps;
}

}  // namespace sextant::cuda
