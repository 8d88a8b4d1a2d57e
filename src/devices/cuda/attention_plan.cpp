// Chooses kernels for the requests of an attention op on CUDA and lays out the workspace.
#include "devices/cuda/attention_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "devices/cuda/kernel_table.h"
#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/plan_clusters.h"
#include "devices/cuda/plan_forward.h"
#include "devices/cuda/plan_staging.h"
#include "devices/cuda/portable/mla_launchers.h"
#include "devices/gpu/bind.h"
#include "ops/query_conversion.h"

namespace sextant::cuda {
namespace {

constexpr int32_t kMaxStreamRows = 32;  // query rows that a decode kernel's matrix tile holds
// Of the chip's SMs in percent, that begin a mixed batch with its first requests: decodes, as serving engines order
// batches. With so many the copies keep the memory busy; more only wait longer.
constexpr int kDecodeShare = 40;

// The first kernel of `choice` that may run and thinks itself the best: its part. The last takes everything it serves.
template <size_t kCount>
PlanPart plan_first(const AttentionKernel* const (&choice)[kCount], const PlanPart& start, const PlanInput& in,
                    KernelFamily family) {
  double estimate = 0;
  for (const AttentionKernel* kernel : choice) {
    if (!may_run(*kernel, in.params, in.chip, family)) continue;
    PlanPart part = start;
    part.kernel = kernel;
    const bool takes = kernel->plan(part, in);
    if (part.seconds > 0) estimate = part.seconds;
    if (!takes) continue;
    part.seconds = estimate;  // of a kernel before it too: it knows what this one would take
    return part;
  }
  return start;
}

bool multiplies_fp8_latents(const AttentionPlanArgs& a, const AttentionParams& p, const ChipLimits& chip,
                            KernelFamily family) {
  return a.spec.query_type() == DType::kF8E4M3FN && may_run(kMlaFp8Kernel, p, chip, family);
}

// 17 to 32 rows over e4m3 latents: a tile takes the kernel of bytes 3.3 us, the one of 64 rows in 8 bits 2, but that
// starts later. In deterministic mode the choice must not depend on how long requests are.
bool fill_eight_bits(const PlanInput& in, const AttentionKernel& many_rows, KernelFamily family) {
  constexpr double kTilesAnSm = 6;
  const AttentionParams& p = in.params;
  const int64_t rows = in.bounds.query_len * in.args.spec.num_heads;
  const bool eight_bits = many_rows.fp8_queries || (p.cache_dtype == DType::kF8E4M3FN && p.dtype == DType::kBF16);
  if (in.args.deterministic || rows <= kMlaBytesRows / 2 || !eight_bits || !may_run(many_rows, p, in.chip, family))
    return false;
  const PartKeys keys = count_keys(in.args, in.bounds, in.args.filter.min_query_len, in.args.filter.max_query_len);
  return keys.sum > kTilesAnSm * kMlaWgmmaTileKeys * in.chip.sms;
}

// Decode over latents: the kernel is chosen by the rows of the longest request. In deterministic mode the kernel that
// reads a request, and so its bits, must not depend on the others: requests for the kernels of few rows are then a part
// of their own.
std::vector<PlanPart> plan_latents(const PlanPart& all, const PlanInput& in, KernelFamily family) {
  const AttentionKernel& many_rows =
      multiplies_fp8_latents(in.args, in.params, in.chip, family) ? kMlaFp8Kernel : kMlaWgmmaKernel;
  const auto plan = [&](const PlanPart& part, const Bounds& bounds) {
    const PlanInput own = {in.args, in.params, bounds, in.short_len, in.chip};
    if (fill_eight_bits(own, many_rows, family)) return plan_first({&many_rows}, part, own, family);
    return plan_first({&kMlaBytesClustersKernel, &kMlaBytesKernel, &kMlaTransposedKernel, &many_rows, &kMlaKernel},
                      part, own, family);
  };
  const int32_t few = may_run(kMlaBytesKernel, in.params, in.chip, family)        ? kMlaBytesRows
                      : may_run(kMlaTransposedKernel, in.params, in.chip, family) ? kMlaTransposedRows
                                                                                  : 0;
  const int32_t few_len = few / in.args.spec.num_heads;
  if (!in.args.deterministic || few_len == 0 || in.bounds.query_len <= few_len) return {plan(all, in.bounds)};
  PlanPart shorter = all, longer = all;
  shorter.max_query_len = std::min(all.max_query_len, few_len);
  longer.min_query_len = std::max(all.min_query_len, few_len + 1);
  Bounds few_rows = in.bounds;
  few_rows.query_len = few_len;
  return {plan(shorter, few_rows), plan(longer, in.bounds)};
}

// `kernel` behind a copy of the keys, where that pays: `plan_copy` decides.
std::optional<PlanPart> plan_staged(const AttentionKernel& kernel, decltype(plan_staging)& plan_copy,
                                    const PlanPart& start, const PlanInput& in, KernelFamily family) {
  if (in.params.origin == KeyOrigin::kPacked) return std::nullopt;
  const AttentionParams copied = staged_params(in.params, {}, nullptr);
  if (!may_run(kernel, copied, in.chip, family)) return std::nullopt;
  PlanPart part = plan_first({&kernel}, start, {in.args, copied, in.bounds, in.short_len, in.chip}, family);
  part.staging = plan_copy(part, in.args, in.params, in.bounds, in.chip);
  if (!part.staging) return std::nullopt;
  part.workspace_bytes = part.staging->end;
  return part;
}

// A few query tokens of each request, more than a row tile of the cluster kernel: several of its row tiles, where that
// ends before the forward kernel does.
std::optional<PlanPart> plan_few_tokens(const PlanPart& start, const PlanInput& in, KernelFamily family) {
  constexpr int32_t kMostTokens = 8;
  const AttentionParams& p = in.params;
  if (in.bounds.open || in.bounds.query_len > kMostTokens || p.group_size * in.bounds.query_len <= kClusterRows ||
      in.args.spec.has_fp8_queries() || !may_run(kClusterKernel, p, in.chip, family))
    return std::nullopt;
  const PartKeys keys = count_keys(in.args, in.bounds, start.min_query_len, start.max_query_len);
  if (keys.requests == 0) return std::nullopt;
  PlanPart part = start;
  part.kernel = &kClusterKernel;
  constexpr double kGain = 0.8;  // estimates are no better than that; each row tile reads the keys again
  const double best = kGain * forward_seconds_of_few(p, keys, in.chip);
  if (!choose_cluster_tiles(part, in.args, p, in.bounds, best, in.chip)) return std::nullopt;
  return part;
}

// `vectors`: tensors are known to be aligned for 16-byte copies.
std::vector<PlanPart> choose_parts(const PlanInput& in, KernelFamily family, bool vectors) {
  const auto& [a, p, n, short_len, chip] = in;
  PlanPart all;
  all.min_query_len = a.filter.min_query_len;
  all.max_query_len = a.filter.max_query_len;
  if (vectors && may_run(kMlaKernel, p, chip, family)) return plan_latents(all, in, family);

  if (vectors)
    if (const std::optional<PlanPart> few = plan_few_tokens(all, in, family)) return {*few};

  // Values by runs of tokens are served at some block sizes only, and deterministic bits must not depend on those.
  const bool streams =
      vectors && may_run(kStreamKernel, p, chip, family) && !(a.deterministic && stream_key_align(p) > 1);
  const bool forward_fp8 = vectors && takes_fp8_queries(a, chip, family);
  const bool forward = vectors && !forward_fp8 && may_run(kForwardKernel, p, chip, family);
  const bool all_forward =
      streams && (forward || forward_fp8) && n.any_short && forward_beats_stream(a, p, n, short_len, forward_fp8, chip);
  std::vector<PlanPart> parts;
  if (streams && n.any_short && !all_forward) {
    PlanPart decodes = all;
    if (n.any_long) decodes.max_query_len = std::min(short_len, all.max_query_len);
    parts.push_back(plan_first({&kClusterKernel, &kStreamKernel}, decodes, in, family));
    // Wide heads leave room for one decode block an SM, whose start and end nothing hides.
    if (forward && !n.any_long && !n.open && !a.deterministic && !a.shared_prefix &&
        a.split.kind == SplitPolicy::Kind::kAuto && p.head_dim > 128 && parts[0].seconds > 0 &&
        forward_seconds_of_few(p, count_keys(a, n, all.min_query_len, all.max_query_len), chip) < parts[0].seconds)
      return {plan_first({&kForwardKernel}, all, in, family)};
  }
  if (!parts.empty() && !n.any_long) return parts;
  PlanPart rest = all;
  if (!parts.empty()) rest.min_query_len = std::max(all.min_query_len, short_len + 1);
  const std::optional<PlanPart> staged =
      vectors && !forward_fp8 ? plan_staged(kForwardKernel, plan_staging, rest, in, family) : std::nullopt;
  if (forward_fp8) {
    rest = plan_first({&kForwardFp8Kernel}, rest, in, family);
    rest.staging = plan_byte_staging(rest, a, p, n, chip);
    if (rest.staging) rest.workspace_bytes = rest.staging->end;
  } else if (staged) {
    rest = *staged;
  } else if (forward) {
    if (!parts.empty() && forward_joins(parts[0], a, p, n, short_len, chip)) {
      PlanPart joined = rest;
      joined.whole = true;
      joined = plan_first({&kForwardKernel}, joined, in, family);
      joined.front_sms = chip.sms * kDecodeShare / 100;
      joined.min_query_len = all.min_query_len;
      if (!joined.reduces) return {joined};
    }
    rest = plan_first({&kForwardKernel}, rest, in, family);
  } else if (const std::optional<PlanPart> copied =
                 vectors ? plan_staged(kTileKernel, plan_tile_staging, rest, in, family) : std::nullopt) {
    rest = *copied;
  } else {
    rest = plan_first({&kTileKernel, &kSimtKernel}, rest, in, family);
  }
  // The cluster kernel may start while the last blocks of the forward kernel run: neither reads what the other writes.
  auto* clusters = parts.empty() ? nullptr : std::get_if<Clusters>(&parts[0].division);
  // (Where it merges in memory, that is the room of a copy.)
  if (clusters != nullptr && rest.kernel->tuned && !rest.reduces && !(rest.staging && parts[0].reduces)) {
    clusters->shape.beside_previous = true;
    parts.insert(parts.begin(), rest);
  } else {
    parts.push_back(rest);
  }
  return parts;
}

std::vector<PlanPart> plan_parts(const AttentionPlanArgs& a, const ChipLimits& chip, KernelFamily family,
                                 bool vectors) {
  const AttentionParams p = planned_params(a);
  const int32_t short_len = std::max(1, std::min(8, kMaxStreamRows / a.spec.group_size()));
  const Bounds n = find_bounds(a, short_len);
  std::vector<PlanPart> parts = choose_parts({a, p, n, short_len, chip}, family, vectors);
  for (PlanPart& part : parts)
    if (part.kernel == &kForwardKernel || part.kernel == &kForwardFp8Kernel)
      part.requests = order_requests(part, a, p, n, short_len);
  return parts;
}

// A kernel that received a way of dividing work that it does not know would read and write the wrong rows.
Status check_parts(const std::vector<PlanPart>& parts) {
  for (const PlanPart& part : parts) {
    if (part.kernel == nullptr) return {StatusCode::kInternal, "no CUDA kernel took a part of the plan"};
    if (!part.kernel->knows(part.division))
      return {StatusCode::kInternal,
              fmt::format("{} was planned with a division of work that it does not know", part.kernel->name)};
  }
  return Status::ok();
}

std::string describe(const PlanPart& part, int32_t num_kv_heads) {
  const char *name = part.kernel->name, *reduce = part.reduces ? " + reduce" : "";
  if (const auto* clusters = std::get_if<Clusters>(&part.division)) {
    const ClusterPlan& shape = clusters->shape;
    if (clusters->count > 0)
      return fmt::format("{} ({} rows, {} clusters of {}, {}-key tiles){}", name, part.rows, clusters->count,
                         shape.size, part.tile_keys, reduce);
    return fmt::format("{} (clusters of {}, {} an SM{})", name, shape.size, shape.one_a_sm ? "one block" : "two blocks",
                       shape.row_tiles > 1 ? fmt::format(", {} row tiles", shape.row_tiles) : "");
  }
  if (const auto* list = std::get_if<BalancedList>(&part.division))
    return fmt::format("{} ({} rows, balanced over {} blocks, {}-key tiles){}", name, part.rows / list->group,
                       list->blocks * list->group, part.tile_keys, reduce);
  const auto& tiles = std::get<RowTiles>(part.division);
  const TileGrid& grid = tiles.grid;
  const std::string copy =
      part.staging ? fmt::format("copy of keys ({} blocks of {}) + ", part.staging->blocks, kStagedTokens) : "";
  return fmt::format("{}{} ({} x {} blocks{}{}{}){}", copy, name, grid.tiles * tiles.group, num_kv_heads,
                     part.rows == kForwardTallRows ? fmt::format(" of {} rows", part.rows) : "",
                     part.front_sms > 0 ? ", decodes beside prefills" : "",
                     grid.partitions > 1 ? fmt::format(" x {} partitions", grid.partitions) : "", reduce);
}

// Tokens up to the last request whose part takes no fp8 queries.
int32_t count_converted_tokens(const std::vector<PlanPart>& parts, const AttentionPlanArgs& a) {
  if (find_bounds(a, 1).open) return a.query_start_loc.back();
  int32_t tokens = 0;
  for (const PlanPart& part : parts)
    for (size_t b = 0; b < a.seq_lens.size(); ++b) {
      const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b];
      if (!part.kernel->fp8_queries && part.takes(query_len)) tokens = std::max(tokens, a.query_start_loc[b + 1]);
    }
  return tokens;
}

// The power of two that a number is; -1: none.
constexpr int32_t find_shift(int32_t x) {
  return std::has_single_bit(static_cast<uint32_t>(x)) ? std::countr_zero(static_cast<uint32_t>(x)) : -1;
}

}  // namespace

AttentionParams planned_params(const AttentionPlanArgs& a) {
  AttentionParams p;
  gpu::bind_plan(p, a);
  const AttentionSpec& s = a.spec;
  p.own = gpu::to_reach(s.mask());
  const KeyReach reach = gpu::to_reach(s.mask().widest());
  p.window = reach.window;
  p.causal = reach.causal;
  p.right = reach.right;
  p.has_spans = s.has_spans();
  p.dtype = s.dtype;
  p.num_tokens = a.query_start_loc.empty() ? 0 : a.query_start_loc.back();
  p.has_token_scales = p.origin != KeyOrigin::kPacked && a.cache.has_token_scales();
  p.cache_dtype = p.origin == KeyOrigin::kPacked ? s.dtype : a.cache.dtype;
  p.group_shift = find_shift(p.group_size);
  p.q_aligned = p.packed_aligned = true;
  if (p.origin == KeyOrigin::kPacked) return p;
  p.block_shift = find_shift(p.block_size);
  p.k_addr = k_addressing(a.cache);
  p.v_addr = v_addressing(a.cache);
  const size_t element = size_of(a.cache.dtype);
  p.k_chunk_stride = chunk_stride(p.k_addr, p.head_dim, nullptr, element);
  p.v_chunk_stride = chunk_stride(p.v_addr, p.head_dim_v, nullptr, element);
  return p;
}

bool takes_fp8_queries(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family) {
  const AttentionParams p = planned_params(args);
  if (args.op != AttentionOp::kMlaDecode)
    return args.spec.query_type() == DType::kF8E4M3FN && may_run(kForwardFp8Kernel, p, chip, family);
  // Fewer rows are never multiplied in fp8. (Asked without a batch: none.)
  return multiplies_fp8_latents(args, p, chip, family) && args.query_start_loc.size() > args.seq_lens.size() &&
         find_bounds(args, 1).query_len * args.spec.num_heads > kMlaBytesRows / 2;
}

Status supports_attention(const AttentionPlanArgs& args, const ChipLimits& chip) {
  const AttentionParams p = planned_params(args);
  for (const AttentionKernel* kernel :
       {&kMlaKernel, &kTileKernel, &kSimtKernel})  // one of these takes what others leave
    if (may_run(*kernel, p, chip, KernelFamily::kPortable)) return Status::ok();
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
    SEXTANT_RETURN_IF_ERROR(check_parts(plan->parts));
    SEXTANT_RETURN_IF_ERROR(check_parts(plan->unaligned_parts));
  }
  for (const auto* parts : {&plan->parts, &plan->unaligned_parts})
    for (const PlanPart& part : *parts) plan->workspace = std::max(plan->workspace, part.workspace_bytes);
  if (args.spec.has_fp8_queries()) {  // unaligned tensors may want them converted when `parts` do not
    const auto takes = [](const PlanPart& part) { return part.kernel->fp8_queries; };
    plan->converts = !std::all_of(plan->parts.begin(), plan->parts.end(), takes);
    plan->converted_tokens = count_converted_tokens(plan->parts, args);
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
