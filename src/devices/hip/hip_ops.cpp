// HIP's ops: parameters from tensors, then launches.
#include "devices/hip/hip_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "devices/gpu/strides.h"

namespace sextant::hip {
namespace {

Tensor3 to_tensor(const TensorView& view) {
  Tensor3 t{};
  t.data = view.data;
  t.format = to_format(view.dtype);
  for (size_t i = 0; i < 3; ++i) {
    t.shape[i] = view.shape[i];
    t.stride[i] = view.stride[i];
  }
  return t;
}

// One side of a cache write or a gather: `rows` [tokens, heads, dim] or [tokens, dim].
CachePart to_part(const TensorView& rows, const KvCacheView& cache, bool values, int32_t dim, int32_t dim_begin) {
  const KvAddressing& address = values ? cache.v_addr : cache.k_addr;
  CachePart part{};
  part.rows = rows.data;
  part.token_stride = rows.stride[0];
  part.head_stride = rows.rank == 3 ? rows.stride[1] : 0;
  part.cache = values ? cache.v : cache.k;
  part.address = address;
  part.scale = values ? cache.v_scale : cache.k_scale;
  part.token_scales = token_scales(cache, part.scale);
  part.heads = cache.spec.num_kv_heads;
  part.dim = dim;
  part.dim_begin = dim_begin;
  part.vectors = dim_begin % 8 == 0 && gpu::is_vector_aligned(rows) &&
                         gpu::chunk_stride(address, dim, part.cache, size_of(cache.spec.dtype)) > 0
                     ? 1
                     : 0;
  part.chunks = part.vectors != 0 ? dim / 8 : dim;
  return part;
}

// Kernels divide places by sizes in 32 bits.
Status fits_31_bits(const char* what, int64_t count) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (count <= kMost) return Status::ok();
  return unsupported(fmt::format("{} is {}; the kernels of the HIP device allow up to {}", what, count, kMost));
}

Status write_cache(Launcher& launcher, const CachePart& keys, const CachePart& values, const KvCacheView& cache,
                   const int64_t* slots, int64_t num_tokens, DType row_dtype, Stream stream) {
  SEXTANT_RETURN_IF_ERROR(
      fits_31_bits("cache.num_blocks * cache.block_size", cache.spec.num_blocks * cache.spec.block_size));
  CacheWriteParams a{};
  a.parts[0] = keys;
  a.parts[1] = values;
  a.slot_mapping = slots;
  a.num_tokens = num_tokens;
  a.num_slots = cache.spec.num_blocks * cache.spec.block_size;
  a.block_size = cache.spec.block_size;
  a.num_scales = cache.num_scales;
  a.largest_stored = largest_stored(cache.spec.dtype);
  a.smallest_scale = kSmallestTokenScale;
  a.cache_format = to_format(cache.spec.dtype);
  a.row_format = to_format(row_dtype);
  return launcher.launch("sextant_cache_write", num_tokens, a, stream);
}

}  // namespace

Result<AttentionPlanPtr> HipOps::plan_attention(const AttentionPlanArgs& args) const {
  return hip::plan_attention(args, chip_, family_);
}

Status HipOps::run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const {
  const auto* planned = dynamic_cast<const HipAttentionPlan*>(&plan);
  if (planned == nullptr) return invalid_argument("plan is of another device; allowed: a plan that these ops made");
  return hip::run_attention(*planned, args, chip_, launcher_, stream);
}

Status HipOps::reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const {
  const KvCacheSpec& spec = args.cache.spec;
  return write_cache(launcher_, to_part(args.k, args.cache, false, spec.head_dim, 0),
                     to_part(args.v, args.cache, true, spec.head_dim_v, 0), args.cache, args.slot_mapping,
                     args.num_tokens, args.k.dtype, stream);
}

Status HipOps::concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const {
  const KvCacheSpec& spec = args.cache.spec;
  return write_cache(launcher_, to_part(args.kv_c, args.cache, false, spec.head_dim_v, 0),
                     to_part(args.k_pe, args.cache, false, spec.head_dim - spec.head_dim_v, spec.head_dim_v),
                     args.cache, args.slot_mapping, args.num_tokens, args.kv_c.dtype, stream);
}

Status HipOps::context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const {
  const ChunkOffsetsParams a{args.query_start_loc, args.seq_lens,    args.key_start_loc, args.num_requests,
                             args.filter,          args.chunk_begin, args.chunk_len};
  return launcher_.launch("sextant_chunk_offsets", 1, a, stream);
}

Status HipOps::gather_cache(const GatherCacheArgs& args, Stream stream) const {
  if (args.num_requests == 0) return Status::ok();
  const KvCacheSpec& spec = args.cache.spec;
  GatherParams a{};
  a.parts[0] = to_part(args.k, args.cache, false, spec.head_dim, 0);
  if (!spec.is_latent()) a.parts[1] = to_part(args.v, args.cache, true, spec.head_dim_v, 0);
  a.block_table = args.block_table;
  a.block_table_stride = args.block_table_stride;
  a.key_start_loc = args.key_start_loc;
  a.seq_lens = args.seq_lens;
  a.chunk_begin = args.chunk_begin;
  a.max_rows = args.max_rows;
  a.num_requests = args.num_requests;
  a.num_blocks = static_cast<int32_t>(spec.num_blocks);
  a.block_size = spec.block_size;
  a.num_scales = args.cache.num_scales;
  a.cache_format = to_format(spec.dtype);
  a.row_format = to_format(args.k.dtype);
  return launcher_.launch("sextant_gather_rows", args.max_rows, a, stream);
}

Status HipOps::merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const {
  if (args.out.num_elements() == 0) return Status::ok();
  MergeParams a{};
  a.prefix_out = to_tensor(args.prefix_out);
  a.suffix_out = to_tensor(args.suffix_out);
  a.out = to_tensor(args.out);
  a.prefix_lse = static_cast<const float*>(args.prefix_lse.data);
  a.suffix_lse = static_cast<const float*>(args.suffix_lse.data);
  a.lse = static_cast<float*>(args.lse.data);
  for (size_t i = 0; i < 2; ++i) {
    a.prefix_lse_stride[i] = args.prefix_lse.stride[i];
    a.suffix_lse_stride[i] = args.suffix_lse.stride[i];
    a.lse_stride[i] = args.lse.stride[i];
  }
  a.query_start_loc = args.query_start_loc;
  a.seq_lens = args.seq_lens;
  a.num_requests = args.num_requests;
  a.filter = args.filter;
  return launcher_.launch("sextant_merge_states", args.out.shape[0], a, stream);
}

Status HipOps::copy_blocks(const CopyBlocksArgs& args, Stream stream) const {
  const KvCacheSpec& spec = args.cache.spec;
  SEXTANT_RETURN_IF_ERROR(
      fits_31_bits("a block of cache.k, in elements,", int64_t{spec.block_size} * spec.num_kv_heads * spec.head_dim));
  SEXTANT_RETURN_IF_ERROR(
      fits_31_bits("a block of cache.v, in elements,", int64_t{spec.block_size} * spec.num_kv_heads * spec.head_dim_v));
  CopyBlocksParams a{};
  a.k = args.cache.k;
  a.v = spec.is_latent() ? nullptr : args.cache.v;
  a.k_addr = args.cache.k_addr;
  a.v_addr = args.cache.v_addr;
  a.mapping = args.mapping;
  a.num_blocks = spec.num_blocks;
  a.element_bytes = static_cast<int32_t>(size_of(spec.dtype));
  a.block_size = spec.block_size;
  a.num_kv_heads = spec.num_kv_heads;
  a.head_dim = spec.head_dim;
  a.head_dim_v = spec.head_dim_v;
  a.groups_a_pair = 4;
  SEXTANT_RETURN_IF_ERROR(launcher_.launch("sextant_copy_blocks", args.num_pairs * a.groups_a_pair, a, stream));
  if (!spec.has_token_scales()) return Status::ok();
  // Scales are a cache of one dim a token and head.
  const KvScaleStrides& s = args.cache.scale_strides;
  a.k = const_cast<float*>(args.cache.k_scale);
  a.v = const_cast<float*>(args.cache.v_scale);
  a.k_addr = a.v_addr = {s.block, s.head, s.token, 0, 1, 0, 1, 1};
  a.element_bytes = sizeof(float);
  a.head_dim = a.head_dim_v = 1;
  return launcher_.launch("sextant_copy_blocks", args.num_pairs * a.groups_a_pair, a, stream);
}

Status HipOps::copy_pad(const CopyPadArgs& args, Stream stream) const {
  if (args.dst.num_elements() == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(fits_31_bits("a row of dst, in elements,", args.dst.shape[1] * args.dst.shape[2]));
  const CopyPadParams a{to_tensor(args.src), to_tensor(args.dst), args.src_scale,
                        static_cast<int32_t>(args.src.shape[1] / args.num_src_scales)};
  return launcher_.launch("sextant_copy_pad", args.src.shape[0], a, stream);
}

Status HipOps::gemm(const GemmArgs& args, Stream stream) const {
  if (args.c.num_elements() == 0) return Status::ok();
  if (products_ != nullptr) {
    auto served = products_->multiply(args, stream);
    if (!served || *served) return served.status();
  }
  constexpr int64_t kTile = 64;
  GemmParams g{};
  g.a = to_tensor(args.a);
  g.b = to_tensor(args.b);
  g.c = to_tensor(args.c);
  // Vector loads go along whichever of the last two strides is 1.
  for (auto [tensor, view] : {std::pair{&g.a, args.a}, std::pair{&g.b, args.b}}) {
    if (view.stride[2] != 1) {
      std::swap(view.stride[1], view.stride[2]);
      std::swap(view.shape[1], view.shape[2]);
    }
    tensor->aligned = gpu::is_vector_aligned(view) ? 1 : 0;
  }
  g.m_tiles = static_cast<int32_t>((args.c.shape[1] + kTile - 1) / kTile);
  g.n_tiles = static_cast<int32_t>((args.c.shape[2] + kTile - 1) / kTile);
  const char* kernel = args.a.dtype == DType::kF32   ? "sextant_gemm_f32"
                       : args.a.dtype == DType::kF16 ? "sextant_gemm_f16"
                                                     : "sextant_gemm_bf16";
  return launcher_.launch(kernel, args.c.shape[0] * g.m_tiles * g.n_tiles, g, stream);
}

}  // namespace sextant::hip
