// What one ISA's translation unit offers to the rest of the CPU device: plain structs and function pointers. Kernels
// neither allocate nor schedule; they get scratch memory and one piece of work.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "sextant/kv_cache.h"
#include "sextant/types.h"

namespace sextant::cpu {

// Where the keys and values of one request and one KV head lie, for positions in [begin, end).
struct KeySource {
  int64_t begin = 0;
  int64_t end = 0;
  const void* k = nullptr;  // of the item's first KV head
  const void* v = nullptr;
  DType dtype = DType::kF32;
  // Paged: block_table != nullptr, elements found by the addressing rules.
  const int32_t* block_table = nullptr;
  int32_t block_size = 1;
  KvAddressing k_addr;
  KvAddressing v_addr;
  bool packed_layout = false;  // KvLayout::kPacked
  // Packed rows: row = position - first_position.
  int64_t k_row_stride = 0;
  int64_t v_row_stride = 0;
  int64_t first_position = 0;
  // A scale a token, of the item's KV head; null: none. Block b, token t: at b * scale_block_stride + t *
  // scale_token_stride.
  const float* k_row_scales = nullptr;
  const float* v_row_scales = nullptr;
  int64_t scale_block_stride = 0;
  int64_t scale_token_stride = 0;
  int64_t scale_head_stride = 0;
  float k_scale = 1.0f;  // of the item's first KV head
  float v_scale = 1.0f;
  // From one KV head to the next, for items of several heads. Scales: null without, step 0 when one serves all heads.
  int64_t k_head_stride = 0;
  int64_t v_head_stride = 0;
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  int32_t scale_step = 0;
};

// One item of the work list: query rows (tokens x heads) against the keys [key_begin, key_end). attend() takes the
// heads of one KV head, stream() those of num_kv_heads, num_heads / num_kv_heads each.
struct AttentionItem {
  // q[token * q_token_stride + head * q_head_stride + dim], the first token and head of the item
  const void* q = nullptr;
  DType dtype = DType::kF32;  // of q
  int64_t q_token_stride = 0;
  int64_t q_head_stride = 0;
  int64_t num_tokens = 0;
  int64_t num_heads = 0;
  int32_t num_kv_heads = 1;
  int32_t head_dim = 0;
  int32_t head_dim_v = 0;
  // Visible keys of each token: [key_lo, key_hi), clipped to the item's own [key_begin, key_end).
  const int32_t* key_lo = nullptr;       // [num_tokens]
  const int32_t* key_hi = nullptr;       // [num_tokens]
  const int32_t* context_len = nullptr;  // [num_tokens], origin of ALiBi
  int64_t key_begin = 0;
  int64_t key_end = 0;
  float scale = 1.0f;
  float soft_cap = 0.0f;
  const float* alibi_slopes = nullptr;  // [num_heads] of the item
  const float* sinks = nullptr;         // [num_heads] of the item; null for partial results
  KeySource sources[2];                 // ascending, adjacent positions
  int32_t num_sources = 0;
  int32_t tile_keys = 0;  // keys a tile, a multiple of 64; tiles start at its multiples
  // Final result...
  void* out = nullptr;
  DType out_dtype = DType::kF32;
  int64_t out_token_stride = 0;
  int64_t out_head_stride = 0;
  bool stream_output = false;  // more than the caches hold: it goes around them
  float* lse = nullptr;
  int64_t lse_token_stride = 0;
  int64_t lse_head_stride = 0;
  // ... or a partial one, rows token-major: out [rows, Dv] not normalised, max and sum [rows] in base 2.
  float* partial_out = nullptr;
  float* partial_max = nullptr;
  float* partial_sum = nullptr;
  void* scratch = nullptr;  // at least scratch_bytes() or stream_scratch_bytes()
};

// Merges the partial results of rows that were split. Uses the output fields of AttentionItem.
struct ReduceItem {
  int64_t num_tokens = 0;
  int64_t num_heads = 0;
  int32_t head_dim_v = 0;
  int32_t num_partials = 0;
  // Part i lies at partials + offsets[i]: out [rows, Dv], max [rows], sum [rows]; this item begins at its first_row.
  const float* partials = nullptr;
  const int64_t* offsets = nullptr;
  int64_t rows = 0, first_row = 0;
  const float* sinks = nullptr;
  void* out = nullptr;
  DType out_dtype = DType::kF32;
  int64_t out_token_stride = 0;
  int64_t out_head_stride = 0;
  float* lse = nullptr;
  int64_t lse_token_stride = 0;
  int64_t lse_head_stride = 0;
};

// A block of c = a * b. Strides in elements.
struct GemmItem {
  const void* a = nullptr;  // [m, k]
  const void* b = nullptr;  // [k, n]
  void* c = nullptr;        // [m, n], last stride 1
  DType dtype = DType::kF32;
  DType c_dtype = DType::kF32;
  int64_t m = 0, n = 0, k = 0;
  int64_t a_row_stride = 0, a_col_stride = 0;
  int64_t b_row_stride = 0, b_col_stride = 0;
  int64_t c_row_stride = 0;
  // gemm_in_place alone: so many products, whose matrices lie so far apart.
  int64_t batch = 1, a_batch_stride = 0, b_batch_stride = 0, c_batch_stride = 0;
  void* scratch = nullptr;  // at least gemm_scratch_bytes
};

// Two rows of attention states.
struct MergeRow {
  const void* a = nullptr;
  const void* b = nullptr;
  void* out = nullptr;
  DType a_dtype = DType::kF32, b_dtype = DType::kF32, out_dtype = DType::kF32;
  float a_weight = 0, b_weight = 0;  // of a weight 0 nothing is read
  int64_t dim = 0;
};

// Kernels of one element type of the matrix products.
struct AttentionKernels {
  size_t (*scratch_bytes)(int64_t rows, int64_t head_dim, int64_t head_dim_v, int64_t tile_keys);
  void (*attend)(const AttentionItem& item);
  // The same for few rows a KV head and keys of one source: memory decides, so K and V are read once and not packed.
  size_t (*stream_scratch_bytes)(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t head_dim_v);
  void (*stream)(const AttentionItem& item);
  size_t (*gemm_scratch_bytes)();
  void (*gemm)(const GemmItem& item);
  int32_t gemm_rows, gemm_columns;  // extents of a GemmItem at most
  // Query rows an item should have at most, and bytes of their Q and O: they share each tile of keys, and stay in L2
  // with it.
  int64_t item_rows;
  int64_t item_bytes;
  int64_t tile_bytes;  // of K and V of a tile, packed
  // Rows of a KV head up to which stream() is the faster one.
  int64_t stream_rows;
  int64_t latent_stream_rows;  // ... where keys are latents
  int64_t code_stream_rows;    // ... where they are 8-bit codes in the packed layout
  // The ceiling of the unit that multiplies: products alone, operands in registers (AMX) or in the first-level cache.
  // Returns operations done.
  double (*peak)(int64_t iterations, void* scratch);
  // Products of a batch with matrices b that are read once and not packed; any m. null: none.
  bool (*takes_in_place)(const GemmItem& item);
  void (*gemm_in_place)(const GemmItem& item);
};

struct IsaKernels {
  const char* name;
  AttentionKernels fp32;  // any inputs, products in fp32
  AttentionKernels bf16;  // bf16 q, bf16 or fp8 keys, products of bf16 pairs; attend == nullptr: none
  AttentionKernels fp16;  // attention alone, fp16 q, products of numbers in parts of bf16; attend == nullptr: none
  void (*reduce)(const ReduceItem& item);
  void (*merge_row)(const MergeRow& row);
  // dst[i] = convert(src[i] * scale), or of src[i] / scale.
  void (*convert_mul)(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t n, float scale);
  void (*convert_div)(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t n, float scale);
  double (*read_sum)(const void* data, size_t bytes);  // reads every byte once
};

const IsaKernels& scalar_kernels();
#if defined(SEXTANT_CPU_X86)
const IsaKernels& avx2_kernels();
const IsaKernels& avx512_kernels();
const IsaKernels& avx512_bf16_kernels();
const IsaKernels& amx_kernels();
const IsaKernels& amx_emulated_kernels();
#endif

}  // namespace sextant::cpu
