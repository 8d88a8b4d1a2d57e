#include "devices/cuda/plan_mla.h"

#include <algorithm>

#include "devices/cuda/plan_clusters.h"

namespace sextant::cuda {
namespace {

int64_t rows_of_request(const PlanInput& in) { return in.args.spec.num_heads * in.bounds.query_len; }

// `parts` of each request as equal_parts() gives them: equal parts, or the list where they are worse.
void divide(PlanPart& part, const PlanInput& in, int32_t parts) {
  AttentionPlanArgs args = in.args;
  if (parts == 1) args.split.kind = SplitPolicy::Kind::kNone;
  if (parts > 1) args.split = {SplitPolicy::Kind::kSegments, parts};
  set_decode_split(part, args, in.bounds, in.short_len, 1, in.chip);
}

int32_t free_parts(const PlanPart& part, const PlanInput& in) {
  const bool free_choice = in.args.split.kind == SplitPolicy::Kind::kAuto && !in.args.deterministic;
  return free_choice ? equal_parts(in.args, in.bounds, part, in.chip) : 0;
}

}  // namespace

bool plan_mla_transposed(PlanPart& part, const PlanInput& in) {
  if (rows_of_request(in) > kMlaTransposedRows) return false;
  part.rows = kMlaTransposedRows;
  part.tile_keys = kMlaWgmmaTileKeys;
  part.max_query_len = std::min(part.max_query_len, kMlaTransposedRows / in.args.spec.num_heads);
  const bool free_choice = in.args.split.kind == SplitPolicy::Kind::kAuto && !in.args.deterministic;
  const int32_t parts = free_parts(part, in);
  if (free_choice && parts != 1 && set_mla_clusters(part, in.args, in.bounds, parts, in.chip)) return true;
  divide(part, in, parts);
  return true;
}

bool plan_mla_wgmma(PlanPart& part, const PlanInput& in) {
  // Two row tiles of the same keys, side by side: those keys are then read once. Half as many shares of twice the rows.
  const int32_t group = in.args.spec.num_heads % (2 * kMlaWgmmaRows) == 0 ? 2 : 1;
  ChipLimits shares = in.chip;
  shares.sms /= group;
  const PlanInput grouped = {in.args, in.params, in.bounds, in.short_len, shares};
  part.rows = group * kMlaWgmmaRows;
  part.tile_keys = kMlaWgmmaTileKeys;
  divide(part, grouped, free_parts(part, grouped));
  if (auto* list = std::get_if<BalancedList>(&part.division)) list->group = group;
  if (auto* tiles = std::get_if<RowTiles>(&part.division)) tiles->group = group;
  return true;
}

bool plan_mla(PlanPart& part, const PlanInput& in) {
  const int64_t rows = rows_of_request(in);
  part.rows = rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  part.tile_keys = kMlaTileKeys;
  divide(part, in, free_parts(part, in));
  return true;
}

}  // namespace sextant::cuda
