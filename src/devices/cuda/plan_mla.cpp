#include "devices/cuda/plan_mla.h"

#include <algorithm>
#include <cmath>

#include "devices/cuda/plan_clusters.h"

namespace sextant::cuda {
namespace {

int64_t rows_of_request(const PlanInput& in) { return in.args.spec.num_heads * in.bounds.query_len; }

// `parts` of each request as equal_parts() gives them: equal parts, or the list where they are worse.
void divide(PlanPart& part, const PlanInput& in, int32_t parts) {
  AttentionPlanArgs args = in.args;
  if (parts == 1) args.split.kind = SplitPolicy::Kind::kNone;
  if (parts > 1) args.split = {SplitPolicy::Kind::kSegments, parts};
  const auto longest = static_cast<int32_t>(in.bounds.query_len);  // all of a request's tokens are rows of its tiles
  set_decode_split(part, args, in.bounds, std::max(in.short_len, longest), 1, in.chip);
}

// Equal parts of every request where that ends sooner than the list, whose many parts of one row are merged one after
// the other; 0: it does not.
int32_t few_parts(const PlanPart& part, const PlanInput& in) {
  const ChipRates::Mla& rates = in.chip.rates.mla;
  constexpr int32_t kMostParts = 32;
  const PartKeys keys = count_keys(in.args, in.bounds, part.min_query_len, part.max_query_len);
  if (!in.knows_lengths() || in.args.shared_prefix || keys.requests == 0) return 0;
  const auto rows = static_cast<double>(ceil_div(rows_of_request(in), part.rows));
  const double tiles = keys.sum / part.tile_keys * rows, longest = std::ceil(keys.longest / part.tile_keys);
  const int sms = in.chip.sms;
  // A block of the list begins anew with each row tile that it comes to.
  double best = rates.start * std::max(1.0, keys.requests * rows / sms) + (std::ceil(tiles / sms) + 1) * rates.tile +
                rates.list_merge + rates.list_part * std::min(longest, longest * sms / std::max(tiles, 1.0));
  int32_t chosen = 0;
  for (int32_t parts = 1; parts <= kMostParts && parts <= longest; parts *= 2) {
    const double blocks = keys.requests * rows * parts, a_block = std::ceil(longest / parts);
    const double waves = std::ceil(blocks / sms);
    const double time =
        waves * (rates.start + a_block * rates.tile) + (parts > 1 ? rates.merge + rates.part * parts : 0);
    if (time >= (parts == 1 ? 1.05 : 1.0) * best) continue;  // nothing to merge: no second launch
    best = time;
    chosen = parts;
  }
  return chosen;
}

int32_t free_parts(const PlanPart& part, const PlanInput& in) {
  return in.free_choice() ? equal_parts(in.args, in.bounds, part, in.chip) : 0;
}

}  // namespace

bool plan_mla_transposed(PlanPart& part, const PlanInput& in) {
  if (rows_of_request(in) > kMlaTransposedRows) return false;
  part.rows = kMlaTransposedRows;
  part.tile_keys = kMlaWgmmaTileKeys;
  part.max_query_len = std::min(part.max_query_len, kMlaTransposedRows / in.args.spec.num_heads);
  const int32_t parts = free_parts(part, in);
  if (in.free_choice() && parts != 1 && set_mla_clusters(part, in.args, in.bounds, parts, in.chip)) return true;
  divide(part, in, parts > 0 ? parts : few_parts(part, in));
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
  const int32_t parts = free_parts(part, grouped);
  divide(part, grouped, parts > 0 ? parts : few_parts(part, grouped));
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
