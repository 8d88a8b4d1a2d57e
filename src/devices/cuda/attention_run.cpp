// Running a planned attention op: parameters from the caller's tensors, then launches and nothing else.
#include <fmt/format.h>

#include <algorithm>

#include "devices/cuda/attention_plan.h"
#include "devices/cuda/cuda_status.h"
#include "devices/cuda/kernel_table.h"
#include "devices/cuda/kernels/vector_strides.h"
#include "devices/cuda/plan_staging.h"
#include "devices/gpu/bind.h"
#include "ops/query_conversion.h"

namespace sextant::cuda {
namespace {

void set_tensors(AttentionParams& p, const CudaAttentionPlan& plan, const AttentionArgs& a) {
  p.num_requests = plan.num_requests;
  p.num_tokens = plan.num_tokens;
  gpu::bind_tensors(p, plan.args, a);
  if (plan.args.merge_state) {
    p.state_out = static_cast<const float*>(a.state_out.data);
    p.state_token_stride = a.state_out.stride[0];
    p.state_head_stride = a.state_out.stride[1];
    p.state_lse = static_cast<const float*>(a.state_lse.data);
    p.state_lse_head_stride = a.state_lse.stride[0];
    p.state_lse_token_stride = a.state_lse.stride[1];
  }
  if (p.origin != KeyOrigin::kCache) p.packed_rows = std::min(a.k.shape[0], a.v.shape[0]);
  if (p.has_token_scales) {
    p.k_token_scales = a.cache.k_scale;
    p.v_token_scales = a.cache.v_scale;
    p.scale_strides = a.cache.scale_strides;
  }
}

// What the kernels read of a part's division.
void set_division(AttentionParams& p, const PlanPart& part) {
  const auto* list = std::get_if<BalancedList>(&part.division);
  p.balanced = list != nullptr;
  p.list_group = list != nullptr ? list->group : 1;
  p.list_overhead = list != nullptr ? list->overhead : 0;
  p.split = {};
  if (const auto* tiles = std::get_if<RowTiles>(&part.division)) {
    p.split = tiles->split;
    p.list_group = tiles->group;
  }
  if (const auto* clusters = std::get_if<Clusters>(&part.division)) p.split = clusters->split;
}

cudaError_t launch_reduce(const PlanPart& part, const AttentionParams& p, bool overlap, cudaStream_t stream) {
  if (const auto* list = std::get_if<BalancedList>(&part.division))
    return launch_reduce_balanced(p, {list->blocks, part.rows, part.tile_keys, list->query_len}, overlap, stream);
  const auto* tiles = std::get_if<RowTiles>(&part.division);
  const int64_t slots = tiles != nullptr ? tiles->num_slots : std::get<Clusters>(part.division).num_slots;
  return launch_reduce_fixed(p, slots, overlap, stream);
}

// fp8 queries as spec.dtype in the workspace; `p` then reads them there.
Status convert_queries(AttentionParams& p, const CudaAttentionPlan& plan, const AttentionArgs& args, int32_t tokens,
                       cudaStream_t stream) {
  const AttentionSpec& s = plan.args.spec;
  const CopyPadArgs copy = query_conversion(s, tokens, args.q, args.q_scale, args.num_q_scales,
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
  auto* workspace = static_cast<char*>(args.workspace);
  for (const PlanPart& part : plan.parts)
    if (!part.kernel->serves(part.staging ? staged_params(p, *part.staging, workspace) : p, chip))
      parts = &plan.unaligned_parts;
  const AttentionParams as_given = p;
  const Fp8Queries queries = {args.q_scale, args.num_q_scales};
  const bool unaligned = parts == &plan.unaligned_parts;
  if (plan.args.spec.has_fp8_queries() && (plan.converts || unaligned))
    SEXTANT_RETURN_IF_ERROR(
        convert_queries(p, plan, args, unaligned ? plan.num_tokens : plan.converted_tokens, cuda_stream));
  const AttentionParams converted = p;
  for (const PlanPart& part : *parts) {
    p = part.kernel->fp8_queries ? as_given : converted;
    p.filter.min_query_len = part.min_query_len;
    p.filter.max_query_len = part.max_query_len;
    if (part.staging) {
      set_vector_strides(p);
      const cudaError_t error = launch_stage_cache(p, staged_cache(*part.staging, workspace), cuda_stream);
      SEXTANT_RETURN_IF_ERROR(to_status(error, "copy of keys"));
      p = staged_params(p, *part.staging, workspace);
    }
    set_division(p, part);
    p.key_align = part.kernel->key_align != nullptr ? part.kernel->key_align(p) : 1;
    if (part.reduces) {
      p.partial_out = reinterpret_cast<float*>(workspace);
      p.partial_lse = reinterpret_cast<float*>(workspace + part.partial_lse_offset);
      p.tile_starts = reinterpret_cast<int32_t*>(workspace + part.tile_starts_offset);
    }
    cudaError_t error = part.kernel->launch(p, {part, queries, workspace, chip}, cuda_stream);
    if (error == cudaSuccess && part.reduces)
      error = launch_reduce(part, p, /*overlap=*/chip.compute_capability >= 90, cuda_stream);
    SEXTANT_RETURN_IF_ERROR(to_status(error, to_string(plan.args.op)));
  }
  return Status::ok();
}

}  // namespace sextant::cuda
