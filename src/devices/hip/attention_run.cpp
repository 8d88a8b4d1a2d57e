// Running a planned attention op: parameters from the caller's tensors, then launches and nothing else.
#include "devices/gpu/bind.h"
#include "devices/hip/attention_plan.h"
#include "devices/hip/tuned_plan.h"

namespace sextant::hip {
namespace {

void set_tensors(AttentionParams& p, const HipAttentionPlan& plan, const AttentionArgs& a) {
  p.num_requests = plan.num_requests;
  gpu::bind_tensors(p, plan.args, a);
  p.out_aligned = gpu::is_vector_aligned(a.out) ? 1 : 0;
  if (p.origin == KeyOrigin::kPacked) return;
  const size_t element = size_of(a.cache.spec.dtype);
  const gpu::DimTiles tiles = gpu::dim_tiles(a.cache.k_addr, p.head_dim, a.cache.k, element);
  p.k_tile_stride = tiles.stride;
  p.k_tile_shift = tiles.shift;
  if (a.cache.spec.has_token_scales()) {
    p.k_token_scales = token_scales(a.cache, a.cache.k_scale);
    p.v_token_scales = token_scales(a.cache, a.cache.v_scale);
  }
}

PlanWorkParams::Part list_of(const PlanPart& part, const AttentionParams& p, char* kept, const ChipLimits& chip) {
  PlanWorkParams::Part list{part.min_query_len, part.max_query_len, part.split, {}};
  list.work.first_item = reinterpret_cast<int32_t*>(kept + part.list_offset);
  list.work.partition = list.work.first_item + p.num_requests + 1;
  list.work.rows = part.rows;
  list.work.max_items = static_cast<int32_t>(part.max_items);
  list.work.num_xcds = chip.num_xcds;
  return list;
}

// The lists of all parts, of both kinds: the next layer's tensors may be of the other.
Status plan_lists(const HipAttentionPlan& plan, const AttentionParams& p, char* kept, const ChipLimits& chip,
                  Launcher& launcher, Stream stream) {
  PlanWorkParams lists{};
  lists.attention = p;
  int64_t count = 0;
  for (const PlanPart& part : plan.parts) lists.parts[count++] = list_of(part, p, kept, chip);
  if (!plan.parts_are_alike)
    for (const PlanPart& part : plan.unaligned_parts) lists.parts[count++] = list_of(part, p, kept, chip);
  return launcher.launch("sextant_plan_work", count, lists, stream);
}

}  // namespace

Status run_attention(const HipAttentionPlan& plan, const AttentionArgs& args, const ChipLimits& chip,
                     Launcher& launcher, Stream stream) {
  if (plan.parts.empty()) return Status::ok();
  AttentionParams p = planned_params(plan.args);
  const KvAddressing& k_addr = args.cache.k_addr;
  if (p.values_in_keys != 0 && (k_addr.token_tile != 1 || k_addr.dim_tile != 1))
    return unsupported("cache.k_addr has tiles; the HIP device allows latents with one stride of tokens, one of dims");
  set_tensors(p, plan, args);
  const std::vector<PlanPart>* parts = &plan.parts;
  for (const PlanPart& part : plan.parts)
    if (!suits_tuned(part, p)) parts = &plan.unaligned_parts;
  auto* workspace = static_cast<char*>(args.workspace);
  char* kept = args.kept != nullptr ? static_cast<char*>(args.kept) : workspace;
  if (!args.next_layer) SEXTANT_RETURN_IF_ERROR(plan_lists(plan, p, kept, chip, launcher, stream));
  for (const PlanPart& part : *parts) {
    p.filter.min_query_len = part.min_query_len;
    p.filter.max_query_len = part.max_query_len;
    p.split = part.split;
    p.work = list_of(part, p, kept, chip).work;
    p.partial_out = reinterpret_cast<float*>(workspace + part.partial_out_offset);
    p.partial_lse = reinterpret_cast<float*>(workspace + part.partial_lse_offset);
    const int32_t value_dims = part.value_dims > 0 ? part.value_dims : p.head_dim_v;
    for (p.value_begin = 0; p.value_begin < p.head_dim_v; p.value_begin += value_dims)
      SEXTANT_RETURN_IF_ERROR(launcher.launch(part.kernel, part.max_items, p, stream, part.threads));
    if (part.reduces) SEXTANT_RETURN_IF_ERROR(launcher.launch("sextant_reduce_partials", part.max_items, p, stream));
  }
  return Status::ok();
}

}  // namespace sextant::hip
