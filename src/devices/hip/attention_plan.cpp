// Chooses kernels for the requests of an attention op on HIP and lays out the workspace.
#include "devices/hip/attention_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "devices/gpu/bind.h"
#include "devices/hip/tuned_plan.h"
#include "ops/checks.h"
#include "types/ceil_div.h"

namespace sextant::hip {
namespace {

constexpr int32_t kTileRows = 64, kMlaRows = 16, kMlaTunedRows = 32;
constexpr int32_t kLatentDim = 576, kLatentValueDim = 512;  // of the kernels for latents
constexpr int32_t kDeterministicKeys = 1024;  // keys of a partition when bits must not depend on the machine
constexpr int32_t kGranule = 32;              // keys of a tile

std::string portable_kernel(const AttentionPlanArgs& a) {
  const int32_t k = a.spec.head_dim, v = a.spec.value_head_dim();
  const char* dims = k <= 64 && v <= 64     ? "64_64"
                     : k <= 128 && v <= 128 ? "128_128"
                     : k <= 192 && v <= 128 ? "192_128"
                     : k <= 256 && v <= 256 ? "256_256"
                                            : "512_512";
  return fmt::format("tile_attention_{}_{}", type_name(a.spec.dtype), dims);
}

bool is_latent(const AttentionPlanArgs& a) { return a.op == AttentionOp::kMlaDecode; }
// Wide latents have kernels of their own (mla_attention.h); narrow ones are keys and values like any.
bool runs_as_latent(const AttentionPlanArgs& a) {
  return is_latent(a) && std::max(a.spec.head_dim, a.spec.value_head_dim()) > 256;
}

// Wider than those kernels hold: slices of keys, and of values launch by launch.
bool is_wide(const AttentionPlanArgs& a) {
  return runs_as_latent(a) && (a.spec.head_dim > kLatentDim || a.spec.value_head_dim() > kLatentValueDim);
}

// Bytes of the work list of a part.
size_t list_bytes(const LengthBounds& n) {
  return align_workspace(static_cast<size_t>(2 * n.requests + 1) * sizeof(int32_t));
}

// `partials`: where partial results may lie.
void set_part_split(PlanPart& part, const AttentionPlanArgs& a, const LengthBounds& n, const ChipLimits& chip,
                    size_t partials) {
  using Kind = SplitPolicy::Kind;
  SplitRule& s = part.split;
  s.granule = kGranule;
  const int32_t short_len = std::max(1, std::min(8, kTileRows / a.spec.group_size()));
  const int64_t row_tiles = n.tokens * a.spec.group_size() / part.rows + n.requests;
  const int64_t whole_items = row_tiles * a.spec.num_kv_heads;
  int64_t most = 1;  // partitions of a request
  if (a.split.kind == Kind::kSegments) {
    s.segments = a.split.value;
    s.max_query_len = short_len;
    most = std::min<int64_t>(a.split.value, ceil_div(n.keys, kGranule));
  } else if (a.split.kind == Kind::kPartition || (a.split.kind == Kind::kAuto && a.deterministic)) {
    s.partition = a.split.kind == Kind::kPartition ? a.split.value : kDeterministicKeys;
    s.max_query_len = short_len;
    most = ceil_div(n.keys, ceil_div(s.partition, kGranule) * kGranule);
  } else if (a.split.kind == Kind::kAuto) {
    // Planned on the device from the current lengths: about two workgroups a compute unit.
    const int64_t target = int64_t{2} * chip.compute_units;
    if (whole_items < 2 * target && n.keys > kGranule) {
      s.target_items = static_cast<int32_t>(target);
      s.max_query_len = std::numeric_limits<int32_t>::max();
      most = ceil_div(n.keys, kGranule);
    }
  }
  part.reduces = most > 1;
  part.max_items = whole_items;
  if (part.reduces) {
    const int64_t split_tokens = std::min<int64_t>(n.tokens, n.requests * std::min<int64_t>(s.max_query_len, n.tokens));
    const int64_t split_items =
        (split_tokens * a.spec.group_size() / part.rows + n.requests) * a.spec.num_kv_heads * most;
    part.max_items += s.target_items > 0 ? std::min<int64_t>(split_items, s.target_items + whole_items) : split_items;
  }
  const auto rows = static_cast<size_t>(part.reduces ? part.max_items * part.rows : 0);
  part.partial_out_offset = partials;
  part.partial_lse_offset =
      partials + align_workspace(rows * static_cast<size_t>(a.spec.value_head_dim()) * sizeof(float));
  part.workspace_bytes = part.partial_lse_offset + align_workspace(rows * sizeof(float));
}

PlanPart portable_part(const AttentionPlanArgs& a, const ChipLimits& chip, KernelFamily family, const LengthBounds& n,
                       bool vectors) {
  PlanPart part;
  part.min_query_len = a.filter.min_query_len;
  part.max_query_len = a.filter.max_query_len;
  if (!runs_as_latent(a) || is_wide(a)) {
    part.kernel = is_wide(a) ? fmt::format("tile_attention_{}_wide", type_name(a.spec.dtype)) : portable_kernel(a);
    if (is_wide(a)) part.value_dims = a.spec.dtype == DType::kF32 ? kWideValueDims<4> : kWideValueDims<2>;
    part.rows = kTileRows;
    return part;
  }
  const bool tall = family == KernelFamily::kTuned && a.spec.dtype != DType::kF32 &&
                    int64_t{a.spec.num_heads} * n.query_len > kMlaRows;
  part.rows = tall ? kMlaTunedRows : kMlaRows;
  if (vectors && family == KernelFamily::kTuned && mla_comes_ahead(a, chip)) {
    part.kernel =
        fmt::format("mla_ahead_{}_{}_{}", type_name(a.spec.dtype), part.rows, is_fp8(a.cache.dtype) ? "kv8" : "kv16");
  } else {
    part.kernel = fmt::format("mla_attention_{}_{}", type_name(a.spec.dtype), part.rows);
  }
  return part;
}

std::vector<PlanPart> plan_parts(const AttentionPlanArgs& a, const ChipLimits& chip, KernelFamily family,
                                 const LengthBounds& n, bool vectors) {
  std::vector<PlanPart> parts;
  TunedParts tuned;
  tuned.min_left = a.filter.min_query_len;
  if (vectors) tuned = tuned_parts(a, chip, family, n);
  parts = std::move(tuned.parts);
  if (!tuned.complete) {
    parts.push_back(portable_part(a, chip, family, n, vectors));
    parts.back().min_query_len = tuned.min_left;
  }
  return parts;
}

bool are_alike(const std::vector<PlanPart>& a, const std::vector<PlanPart>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const PlanPart& one, const PlanPart& other) {
    return one.kernel == other.kernel && one.min_query_len == other.min_query_len &&
           one.max_query_len == other.max_query_len;
  });
}

}  // namespace

Format to_format(DType dtype) {
  static_assert(static_cast<int>(DType::kF32) == 0 && static_cast<int>(DType::kF8E5M2) == 5);
  return dtype == DType::kI8 ? Format::kI8 : static_cast<Format>(dtype);
}

BlockDivisor block_divisor(int32_t block_size) {
  uint32_t shift = 0;
  while ((int64_t{1} << shift) < block_size) ++shift;
  const uint64_t factor =
      ((uint64_t{1} << (31 + shift)) + static_cast<uint64_t>(block_size) - 1) / static_cast<uint64_t>(block_size);
  return {static_cast<uint32_t>(factor), shift};
}

AttentionParams planned_params(const AttentionPlanArgs& a) {
  AttentionParams p{};
  gpu::bind_plan(p, a);
  p.group_divisor = block_divisor(p.group_size);
  p.reach = gpu::to_reach(a.spec.mask());
  p.format = to_format(a.spec.dtype);
  p.cache_format = p.origin == KeyOrigin::kPacked ? p.format : to_format(a.cache.dtype);
  p.block_divisor = block_divisor(p.block_size);
  return p;
}

Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family) {
  auto plan = std::make_shared<HipAttentionPlan>();
  plan->args = args;
  plan->num_requests = static_cast<int32_t>(args.seq_lens.size());
  plan->num_tokens = args.query_start_loc.empty() ? 0 : args.query_start_loc.back();
  if (plan->num_tokens > 0) {
    const LengthBounds n = find_bounds(args);
    plan->parts = plan_parts(args, chip, family, n, true);
    plan->unaligned_parts = plan_parts(args, chip, family, n, false);
    plan->parts_are_alike = are_alike(plan->parts, plan->unaligned_parts);
    const size_t lists = plan->parts.size() + (plan->parts_are_alike ? 0 : plan->unaligned_parts.size());
    plan->kept = lists * list_bytes(n);
    const auto lay_out = [&](std::vector<PlanPart>& parts, size_t first) {
      for (size_t i = 0; i < parts.size(); ++i) {
        parts[i].list_offset = (first + i) * list_bytes(n);
        set_part_split(parts[i], args, n, chip, plan->kept);
      }
    };
    lay_out(plan->parts, 0);
    lay_out(plan->unaligned_parts, plan->parts_are_alike ? 0 : plan->parts.size());
  }
  for (const auto* parts : {&plan->parts, &plan->unaligned_parts})
    for (const PlanPart& part : *parts) plan->workspace = std::max(plan->workspace, part.workspace_bytes);
  for (const PlanPart& part : plan->parts)
    plan->text += fmt::format("{}{} (up to {} items{})", plan->text.empty() ? "" : "; ", part.kernel, part.max_items,
                              part.reduces ? ", split by keys, + reduce" : "");
  if (plan->text.empty()) plan->text = "nothing to do";
  plan->args.query_start_loc = plan->args.seq_lens = plan->args.key_start_loc = {};
  return AttentionPlanPtr(std::move(plan));
}

}  // namespace sextant::hip
