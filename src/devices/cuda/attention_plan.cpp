#include "devices/cuda/attention_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "devices/cuda/hopper/forward_fp8_params.h"
#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/plan_clusters.h"
#include "devices/cuda/plan_forward.h"
#include "devices/cuda/plan_splits.h"
#include "ops/query_conversion.h"

namespace sextant::cuda {
namespace {

constexpr int32_t kMaxStreamRows = 32;  // query rows that a decode kernel's matrix tile holds
// Of the chip's SMs in percent, that begin a mixed batch with its first requests: decodes, as serving engines order
// batches. With so many the copies keep the memory busy; more only wait longer.
constexpr int kDecodeShare = 40;
constexpr int64_t kTileSharedBytes = 132 * 1024, kStreamSharedBytes = 114 * 1024, kWideStreamSharedBytes = 225 * 1024,
                  kMlaSharedBytes = 212 * 1024;

// Row-tile kernels: split only where the rows alone do not fill the chip.
void set_tile_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len, int32_t rows,
                    int64_t wanted_blocks) {
  using Kind = SplitPolicy::Kind;
  constexpr int64_t kLeastKeys = 256;  // a partition's; fewer cost more to merge than they save
  part.grid.tiles = static_cast<int32_t>(n.tokens * a.spec.group_size() / rows + n.requests);
  if (a.split.kind == Kind::kSegments) {
    set_fixed_split(part, a, n, 0, a.split.value, short_len, 1);
  } else if (a.split.kind == Kind::kPartition) {
    set_fixed_split(part, a, n, a.split.value, 1, short_len, 1);
  } else if (a.deterministic && a.split.kind == Kind::kAuto) {
    set_fixed_split(part, a, n, kDeterministicKeys, 1, short_len, 1);
  } else if (a.split.kind == Kind::kAuto) {
    const int64_t blocks = std::max(n.active, ceil_div(n.tokens * a.spec.group_size(), rows)) * a.spec.num_kv_heads;
    const int64_t wanted = std::min(wanted_blocks / blocks, ceil_div(n.keys, kLeastKeys));
    if (wanted > 1)
      set_fixed_split(part, a, n, static_cast<int32_t>(ceil_div(ceil_div(n.keys, wanted), 64) * 64), 1, n.query_len, 1);
  }
}

std::vector<PlanPart> plan_mla(const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n, int32_t short_len,
                               const ChipLimits& chip, KernelFamily family) {
  PlanPart part;
  part.min_query_len = a.filter.min_query_len;
  part.max_query_len = a.filter.max_query_len;
  const int64_t rows = a.spec.num_heads * n.query_len;
  part.kind = KernelKind::kMla;
  part.stream.rows = rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  part.tile_keys = kMlaTileKeys;
  if (family == KernelFamily::kTuned && chip.compute_capability == 90 && mla_wgmma_serves(p)) {
    part.kind = KernelKind::kMlaWgmma;
    part.stream.rows = rows <= kMlaTransposedRows ? kMlaTransposedRows : kMlaWgmmaRows;
    part.tile_keys = kMlaWgmmaTileKeys;
    if (part.stream.rows == kMlaTransposedRows)
      part.max_query_len = std::min(part.max_query_len, kMlaTransposedRows / a.spec.num_heads);
  }
  AttentionPlanArgs args = a;
  if (a.split.kind == SplitPolicy::Kind::kAuto && !a.deterministic) {
    const int32_t parts = equal_parts(a, n, part, chip);
    if (parts != 1 && part.stream.rows == kMlaTransposedRows && set_mla_clusters(part, a, n, parts, chip))
      return {part};
    if (parts == 1) args.split.kind = SplitPolicy::Kind::kNone;
    if (parts > 1) args.split = {SplitPolicy::Kind::kSegments, parts};
  }
  set_decode_split(part, args, n, short_len, 1, chip);
  return {part};
}

// `vectors`: tensors are known to be aligned for 16-byte copies.
std::vector<PlanPart> plan_parts(const AttentionPlanArgs& a, const ChipLimits& chip, KernelFamily family,
                                 bool vectors) {
  AttentionParams p = planned_params(a);
  const int32_t group = a.spec.group_size();
  const int32_t short_len = std::max(1, std::min(8, kMaxStreamRows / group));
  const Bounds n = find_bounds(a, short_len);
  if (vectors && chip.shared_bytes >= kMlaSharedBytes && mla_serves(p))
    return plan_mla(a, p, n, short_len, chip, family);

  const bool wide = std::max(p.head_dim, p.head_dim_v) > 128;
  // Values by runs of tokens are served at some block sizes only, and deterministic bits must not depend on those.
  const bool streams = vectors && stream_serves(p) && !(a.deterministic && stream_key_align(p) > 1) &&
                       chip.shared_bytes >= (wide ? kWideStreamSharedBytes : kStreamSharedBytes);
  const bool hopper = family == KernelFamily::kTuned && chip.compute_capability == 90;
  const bool forward_fp8 = vectors && takes_fp8_queries(a, chip, family);
  const bool forward = vectors && hopper && !forward_fp8 && forward_serves(p);
  const bool all_forward = streams && forward && n.any_short && forward_beats_stream(a, p, n, short_len, chip);
  std::vector<PlanPart> parts;
  if (streams && n.any_short && !all_forward) {
    PlanPart part;
    part.kind = KernelKind::kStream;
    part.min_query_len = a.filter.min_query_len;
    part.max_query_len = n.any_long ? std::min(short_len, a.filter.max_query_len) : a.filter.max_query_len;
    const int64_t rows = group * n.short_query_len;
    part.stream.rows = rows <= 16 || wide ? 16 : 32;
    part.tile_keys = stream_tile_keys(p);
    if (!hopper || !choose_cluster(part, a, p, n, chip))
      set_decode_split(part, a, n, short_len, stream_blocks_per_sm(p, part.stream.rows), chip);
    parts.push_back(part);
  }
  if (!parts.empty() && !n.any_long) return parts;
  const bool joins = !parts.empty() && forward && forward_joins(parts[0], a, p, n, short_len, chip);
  PlanPart part;
  part.min_query_len = parts.empty() ? a.filter.min_query_len : std::max(a.filter.min_query_len, short_len + 1);
  part.max_query_len = a.filter.max_query_len;
  part.max_keys = n.keys;
  part.sms = chip.sms;
  if (forward || forward_fp8) {
    part.kind = forward_fp8 ? KernelKind::kForwardFp8 : KernelKind::kForward;
    set_tile_split(part, a, n, short_len, kForwardRows, chip.sms);
    part.counters_offset = align_workspace(part.workspace_bytes);
    part.workspace_bytes = part.counters_offset + align_workspace(kForwardCounters * sizeof(int32_t));
    if (joins && !part.reduces) {
      part.front_sms = chip.sms * kDecodeShare / 100;
      part.min_query_len = a.filter.min_query_len;
      return {part};
    }
  } else if (tile_serves(p) && chip.shared_bytes >= kTileSharedBytes) {
    part.kind = KernelKind::kTile;
    set_tile_split(part, a, n, short_len, kTileRows, 2 * chip.sms);
  } else {
    part.kind = KernelKind::kSimt;
    set_tile_split(part, a, n, short_len, kSimtTileRows, 2 * chip.sms);
  }
  // The cluster kernel may start while the last blocks of the forward kernel run: neither reads what the other writes.
  if (!parts.empty() && parts[0].kind == KernelKind::kCluster && (forward || forward_fp8) && !part.reduces) {
    parts[0].cluster.beside_previous = true;
    parts.insert(parts.begin(), part);
  } else {
    parts.push_back(part);
  }
  return parts;
}

const char* kernel_name(KernelKind kind) {
  switch (kind) {
    case KernelKind::kStream:
      return "stream_attention";
    case KernelKind::kCluster:
      return "cluster_decode";
    case KernelKind::kMla:
      return "mla_attention";
    case KernelKind::kMlaWgmma:
      return "mla_wgmma";
    case KernelKind::kForward:
      return "forward";
    case KernelKind::kForwardFp8:
      return "forward_fp8";
    case KernelKind::kTile:
      return "tile_attention";
    case KernelKind::kSimt:
      return "simt_attention";
  }
  return "";
}

std::string describe(const PlanPart& part, int32_t num_kv_heads) {
  if (part.kind == KernelKind::kCluster)
    return fmt::format("cluster_decode (clusters of {}, {} an SM)", part.cluster.size,
                       part.cluster.one_a_sm ? "one block" : "two blocks");
  if (part.stream.cluster > 0)
    return fmt::format("{} ({} rows, {} clusters of {}, {}-key tiles){}", kernel_name(part.kind), part.stream.rows,
                       part.stream.grid.z, part.stream.cluster, part.tile_keys, part.reduces ? " + reduce" : "");
  if (part.balanced)
    return fmt::format("{} ({} rows, balanced over {} blocks, {}-key tiles) + reduce", kernel_name(part.kind),
                       part.stream.rows, part.stream.grid.x, part.tile_keys);
  return fmt::format("{} ({} x {} blocks{}{}){}", kernel_name(part.kind), part.grid.tiles, num_kv_heads,
                     part.front_sms > 0 ? ", decodes beside prefills" : "",
                     part.grid.partitions > 1 ? fmt::format(" x {} partitions", part.grid.partitions) : "",
                     part.reduces ? " + reduce" : "");
}

}  // namespace

AttentionParams planned_params(const AttentionPlanArgs& a) {
  AttentionParams p;
  const AttentionSpec& s = a.spec;
  p.num_heads = s.num_heads;
  p.num_kv_heads = s.num_kv_heads;
  p.group_size = s.group_size();
  p.head_dim = s.head_dim;
  p.head_dim_v = s.value_head_dim();
  p.softmax_scale = s.softmax_scale;
  p.soft_cap = s.logits_soft_cap;
  p.window = s.sliding_window;
  p.causal = s.causal;
  p.dtype = s.dtype;
  p.out_f32 = a.out_dtype == DType::kF32;
  p.values_in_keys = a.op == AttentionOp::kMlaDecode;
  p.origin = a.op == AttentionOp::kVarlen          ? KeyOrigin::kPacked
             : a.op == AttentionOp::kPrefixPrefill ? KeyOrigin::kCacheThenPacked
                                                   : KeyOrigin::kCache;
  p.key_begin = a.key_begin;
  p.key_end = a.key_end;
  p.num_requests = static_cast<int32_t>(a.seq_lens.size());
  p.num_tokens = a.query_start_loc.empty() ? 0 : a.query_start_loc.back();
  p.context_filter = static_cast<int8_t>(a.filter.context);
  p.cache_dtype = p.origin == KeyOrigin::kPacked ? s.dtype : a.cache.dtype;
  p.q_aligned = p.packed_aligned = true;
  if (p.origin == KeyOrigin::kPacked) return p;
  p.block_size = a.cache.block_size;
  p.num_blocks = static_cast<int32_t>(a.cache.num_blocks);
  p.block_shift = std::has_single_bit(static_cast<uint32_t>(p.block_size))
                      ? std::countr_zero(static_cast<uint32_t>(p.block_size))
                      : -1;
  p.k_addr = k_addressing(a.cache);
  p.v_addr = v_addressing(a.cache);
  const size_t element = size_of(a.cache.dtype);
  p.k_chunk_stride = chunk_stride(p.k_addr, p.head_dim, nullptr, element);
  p.v_chunk_stride = chunk_stride(p.v_addr, p.head_dim_v, nullptr, element);
  return p;
}

bool takes_fp8_queries(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family) {
  return family == KernelFamily::kTuned && chip.compute_capability == 90 &&
         args.spec.query_type() == DType::kF8E4M3FN && forward_fp8_serves(planned_params(args));
}

Status supports_attention(const AttentionPlanArgs& args, const ChipLimits& chip) {
  const AttentionParams p = planned_params(args);
  const bool mla = mla_serves(p) && chip.shared_bytes >= kMlaSharedBytes;
  const bool tile = tile_serves(p) && chip.shared_bytes >= kTileSharedBytes;
  if (mla || tile || simt_serves(p)) return Status::ok();
  return unsupported(fmt::format("head_dim {} and head_dim_v {} in {} do not fit the shared memory of a CUDA block",
                                 p.head_dim, p.head_dim_v, to_string(p.dtype)));
}

Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family) {
  SEXTANT_RETURN_IF_ERROR(supports_attention(args, chip));
  auto plan = std::make_shared<CudaAttentionPlan>();
  plan->args = args;
  plan->num_requests = static_cast<int32_t>(args.seq_lens.size());
  plan->num_tokens = args.query_start_loc.empty() ? 0 : args.query_start_loc.back();
  if (plan->num_tokens > 0) {
    plan->parts = plan_parts(args, chip, family, true);
    plan->unaligned_parts = plan_parts(args, chip, family, false);
  }
  for (const auto* parts : {&plan->parts, &plan->unaligned_parts})
    for (const PlanPart& part : *parts) plan->workspace = std::max(plan->workspace, part.workspace_bytes);
  if (args.spec.has_fp8_queries()) {  // unaligned tensors may want them converted when `parts` do not
    const auto takes = [](const PlanPart& part) { return part.kind == KernelKind::kForwardFp8; };
    plan->converts = !std::all_of(plan->parts.begin(), plan->parts.end(), takes);
    plan->queries_offset = align_workspace(plan->workspace);
    plan->workspace = plan->queries_offset + converted_query_bytes(args.spec, plan->num_tokens);
    if (plan->converts) plan->text = fmt::format("queries to {}", to_string(args.spec.dtype));
  }
  for (const PlanPart& part : plan->parts)
    plan->text += (plan->text.empty() ? "" : "; ") + describe(part, args.spec.num_kv_heads);
  if (plan->text.empty()) plan->text = "nothing to do";
  plan->args.query_start_loc = plan->args.seq_lens = plan->args.key_start_loc = {};
  return AttentionPlanPtr(std::move(plan));
}

}  // namespace sextant::cuda
