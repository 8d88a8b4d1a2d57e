// Running a planned attention op: parameters from the caller's tensors, then launches and nothing else.
#include <fmt/format.h>

#include "devices/cuda/attention_plan.h"
#include "devices/cuda/cuda_status.h"
#include "devices/cuda/hopper/forward_fp8_params.h"
#include "devices/cuda/kernels/cache_kernels.h"
#include "ops/query_conversion.h"

namespace sextant::cuda {
namespace {

void set_tensors(AttentionParams& p, const CudaAttentionPlan& plan, const AttentionArgs& a) {
  p.num_requests = plan.num_requests;
  p.num_tokens = plan.num_tokens;
  p.q = a.q.data;
  p.q_token_stride = a.q.stride[0];
  p.q_head_stride = a.q.stride[1];
  p.q_aligned = is_vector_aligned(a.q);
  p.out = a.out.data;
  p.out_token_stride = a.out.stride[0];
  p.out_head_stride = a.out.stride[1];
  if (plan.args.lse_out) {
    p.lse = static_cast<float*>(a.lse.data);
    p.lse_head_stride = a.lse.stride[0];
    p.lse_token_stride = a.lse.stride[1];
  }
  if (plan.args.merge_state) {
    p.state_out = static_cast<const float*>(a.state_out.data);
    p.state_token_stride = a.state_out.stride[0];
    p.state_head_stride = a.state_out.stride[1];
    p.state_lse = static_cast<const float*>(a.state_lse.data);
    p.state_lse_head_stride = a.state_lse.stride[0];
    p.state_lse_token_stride = a.state_lse.stride[1];
  }
  p.query_start_loc = a.query_start_loc;
  p.seq_lens = a.seq_lens;
  p.key_start_loc = a.key_start_loc;
  p.sinks = plan.args.spec.has_sinks ? a.sinks : nullptr;
  p.alibi_slopes = plan.args.spec.has_alibi ? a.alibi_slopes : nullptr;
  if (p.origin != KeyOrigin::kCache) {
    p.packed_k = a.k.data;
    p.packed_v = a.v.data;
    p.packed_k_token_stride = a.k.stride[0];
    p.packed_k_head_stride = a.k.stride[1];
    p.packed_v_token_stride = a.v.stride[0];
    p.packed_v_head_stride = a.v.stride[1];
    p.packed_aligned = is_vector_aligned(a.k) && is_vector_aligned(a.v);
  }
  if (p.origin == KeyOrigin::kPacked) return;
  p.block_table = a.block_table;
  p.block_table_stride = plan.args.shared_prefix ? 0 : a.block_table_stride;
  p.cache_k = a.cache.k;
  p.cache_v = p.values_in_keys ? a.cache.k : a.cache.v;
  p.k_addr = a.cache.k_addr;
  p.v_addr = p.values_in_keys ? a.cache.k_addr : a.cache.v_addr;
  p.num_blocks = static_cast<int32_t>(a.cache.spec.num_blocks);
  const size_t element = size_of(p.cache_dtype);
  p.k_chunk_stride = chunk_stride(p.k_addr, p.head_dim, p.cache_k, element);
  p.v_chunk_stride = chunk_stride(p.v_addr, p.head_dim_v, p.cache_v, element);
  if (is_fp8(p.cache_dtype)) {
    p.k_scale = a.cache.k_scale;
    p.v_scale = a.cache.v_scale;
    p.num_scales = a.cache.num_scales;
  }
}

bool serves(KernelKind kind, const AttentionParams& p) {
  switch (kind) {
    case KernelKind::kStream:
      return p.q_aligned && stream_serves(p) && reinterpret_cast<uintptr_t>(p.cache_k) % 16 == 0 &&
             reinterpret_cast<uintptr_t>(p.cache_v) % 16 == 0;
    case KernelKind::kCluster:
      return cluster_serves(p) && cluster_has_maps(p);
    case KernelKind::kMla:
      return mla_serves(p);
    case KernelKind::kMlaWgmma:
      return mla_wgmma_serves(p);
    case KernelKind::kForward:
      return forward_serves(p);
    case KernelKind::kForwardFp8:
      return forward_fp8_serves(p);
    default:
      return true;
  }
}

cudaError_t launch(const PlanPart& part, const AttentionParams& p, const Fp8Queries& queries, const ChipLimits& chip,
                   char* workspace, cudaStream_t stream) {
  const bool overlap = chip.compute_capability >= 90;
  cudaError_t error = cudaSuccess;
  const ForwardPlan forward = {part.grid.tiles, part.grid.partitions,
                               part.sms,        part.max_keys,
                               part.front_sms,  reinterpret_cast<int32_t*>(workspace + part.counters_offset)};
  switch (part.kind) {
    case KernelKind::kStream:
      error = launch_stream_attention(p, part.stream, stream);
      break;
    case KernelKind::kCluster:
      error = launch_cluster_decode(p, part.cluster, stream);
      break;
    case KernelKind::kMla:
      error = launch_mla_attention(p, part.stream, stream);
      break;
    case KernelKind::kMlaWgmma:
      error = launch_mla_wgmma(p, part.stream, stream);
      break;
    case KernelKind::kForward:
      error = launch_forward(p, forward, stream);
      break;
    case KernelKind::kForwardFp8:
      error = launch_forward_fp8(p, queries, forward, stream);
      break;
    case KernelKind::kTile:
      error = launch_tile_attention(p, part.grid, stream);
      break;
    case KernelKind::kSimt:
      error = launch_simt_attention(p, part.grid, stream);
      break;
  }
  if (error != cudaSuccess || !part.reduces) return error;
  return part.balanced ? launch_reduce_balanced(p, part.stream, part.tile_keys, overlap, stream)
                       : launch_reduce_fixed(p, part.num_slots, overlap, stream);
}

// fp8 queries as spec.dtype in the workspace; `p` then reads them there.
Status convert_queries(AttentionParams& p, const CudaAttentionPlan& plan, const AttentionArgs& args,
                       cudaStream_t stream) {
  const AttentionSpec& s = plan.args.spec;
  const CopyPadArgs copy = query_conversion(s, plan.num_tokens, args.q, args.q_scale, args.num_q_scales,
                                            static_cast<char*>(args.workspace) + plan.queries_offset);
  p.q = copy.dst.data;
  p.q_token_stride = copy.dst.stride[0];
  p.q_head_stride = copy.dst.stride[1];
  p.q_aligned = is_vector_aligned(copy.dst);
  return to_status(launch_copy_pad(copy, stream), "conversion of queries");
}

}  // namespace

Status run_attention(const CudaAttentionPlan& plan, const AttentionArgs& args, const ChipLimits& chip, Stream stream) {
  if (plan.parts.empty()) return Status::ok();
  AttentionParams p = planned_params(plan.args);
  set_tensors(p, plan, args);
  const auto cuda_stream = static_cast<cudaStream_t>(stream.handle);
  const std::vector<PlanPart>* parts = &plan.parts;
  for (const PlanPart& part : plan.parts)
    if (!serves(part.kind, p)) parts = &plan.unaligned_parts;
  const AttentionParams as_given = p;
  const Fp8Queries queries = {args.q_scale, args.num_q_scales};
  if (plan.args.spec.has_fp8_queries() && (plan.converts || parts == &plan.unaligned_parts))
    SEXTANT_RETURN_IF_ERROR(convert_queries(p, plan, args, cuda_stream));
  const AttentionParams converted = p;
  for (const PlanPart& part : *parts) {
    p = part.kind == KernelKind::kForwardFp8 ? as_given : converted;
    p.min_query_len = part.min_query_len;
    p.max_query_len = part.max_query_len;
    p.balanced = part.balanced;
    p.split = part.split;
    p.key_align = part.kind == KernelKind::kStream ? stream_key_align(p) : 1;
    auto* workspace = static_cast<char*>(args.workspace);
    if (part.reduces) {
      p.partial_out = reinterpret_cast<float*>(workspace);
      p.partial_lse = reinterpret_cast<float*>(workspace + part.partial_lse_offset);
      p.tile_starts = reinterpret_cast<int32_t*>(workspace + part.tile_starts_offset);
    }
    SEXTANT_RETURN_IF_ERROR(to_status(launch(part, p, queries, chip, workspace, cuda_stream), to_string(plan.args.op)));
  }
  return Status::ok();
}

}  // namespace sextant::cuda
