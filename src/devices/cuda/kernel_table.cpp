// The rows of the table of CUDA's attention kernels.
#include "devices/cuda/kernel_table.h"

#include <algorithm>

#include "devices/cuda/hopper/cluster_launchers.h"
#include "devices/cuda/hopper/mla_fp8_launchers.h"
#include "devices/cuda/plan_clusters.h"
#include "devices/cuda/plan_forward.h"
#include "devices/cuda/plan_mla.h"
#include "devices/cuda/portable/mla_launchers.h"

namespace sextant::cuda {
namespace {

constexpr int64_t kClusterSharedBytes = 226 * 1024;

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool stream_runs(const AttentionParams& p, const ChipLimits& chip) {
  return chip.shared_bytes >= kSmallSharedBytes && p.q_aligned && stream_serves(p) && is_aligned(p.cache_k) &&
         is_aligned(p.cache_v);
}
bool plan_stream(PlanPart& part, const PlanInput& in) {
  const bool wide = std::max(in.params.head_dim, in.params.head_dim_v) > 128;
  part.rows = in.params.group_size * in.bounds.short_query_len <= 16 || wide ? 16 : 32;
  part.tile_keys = stream_tile_keys(in.params, in.chip.room());
  set_decode_split(part, in.args, in.bounds, in.short_len, stream_blocks_per_sm(in.params, in.chip.room()),
                   in.chip.rates.list.overhead, in.chip);
  return true;
}
// The grid of a kernel that knows row tiles and the balanced list.
StreamPlan stream_plan(const LaunchInput& in, int32_t num_kv_heads) {
  const PlanPart& part = in.part;
  StreamPlan plan;
  plan.rows = part.rows;
  plan.room = in.chip.room();
  if (const auto* list = std::get_if<BalancedList>(&part.division))
    plan.grid = dim3(static_cast<unsigned>(list->blocks * list->group));
  if (const auto* tiles = std::get_if<RowTiles>(&part.division))
    plan.grid = dim3(static_cast<unsigned>(tiles->grid.tiles * tiles->group), static_cast<unsigned>(num_kv_heads),
                     static_cast<unsigned>(tiles->grid.partitions));
  if (const auto* clusters = std::get_if<Clusters>(&part.division)) {
    plan.cluster = clusters->shape.size;
    plan.grid = dim3(static_cast<unsigned>(clusters->shape.size), 1, static_cast<unsigned>(clusters->count));
  }
  return plan;
}
cudaError_t run_stream(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_stream_attention(p, stream_plan(in, p.num_kv_heads), stream);
}

bool cluster_runs(const AttentionParams& p, const ChipLimits& chip) {
  // As planned there are no tensors to make maps of.
  return chip.shared_bytes >= kClusterSharedBytes && cluster_serves(p) && (p.cache_k == nullptr || cluster_reads(p));
}
bool plan_cluster(PlanPart& part, const PlanInput& in) {
  return choose_cluster(part, in.args, in.params, in.bounds, in.chip);
}
// Boxes are whole parts of pages.
int32_t cluster_key_align(const AttentionParams& p) { return cluster_tile_keys(p); }
cudaError_t run_cluster(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  if (const auto* clusters = std::get_if<Clusters>(&in.part.division))
    return launch_cluster_decode(p, clusters->shape, stream);
  const ClusterPlan shares = {.one_a_sm = p.head_dim > 128,
                              .list_blocks = std::get<BalancedList>(in.part.division).blocks};
  return launch_cluster_decode(p, shares, stream);
}

bool forward_runs(const AttentionParams& p, const ChipLimits&) { return forward_serves(p); }
bool forward_fp8_runs(const AttentionParams& p, const ChipLimits&) { return forward_fp8_serves(p); }
bool plan_forward(PlanPart& part, const PlanInput& in) {
  part.max_keys = in.bounds.keys;
  part.sms = in.chip.sms;
  const bool known = in.knows_lengths();
  part.rows =
      part.kernel->fp8_queries ? kForwardRows : choose_forward_rows(part, in.args, in.params, in.bounds, in.chip);
  set_row_tiles(part, in.args, in.bounds, in.short_len, known || part.whole ? 0 : in.chip.sms);
  const int32_t partition = known && !part.whole ? choose_forward_partition(part, in.args, in.params, in.chip) : 0;
  if (partition > 0) split_row_tiles(part, in.args, in.bounds, partition, in.bounds.query_len);
  part.counters_offset = align_workspace(part.workspace_bytes);
  part.workspace_bytes = part.counters_offset + align_workspace(kForwardCounters * sizeof(int32_t));
  return true;
}
ForwardPlan forward_plan(const LaunchInput& in) {
  const auto& grid = std::get<RowTiles>(in.part.division).grid;
  return {in.part.rows,
          grid.tiles,
          grid.partitions,
          in.part.sms,
          in.part.max_keys,
          in.part.front_sms,
          reinterpret_cast<int32_t*>(in.workspace + in.part.counters_offset),
          in.part.requests.get()};
}
cudaError_t run_forward(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_forward(p, forward_plan(in), stream);
}
cudaError_t run_forward_fp8(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_forward_fp8(p, in.queries, forward_plan(in), stream);
}

bool tile_runs(const AttentionParams& p, const ChipLimits& chip) {
  return chip.shared_bytes >= kSmallSharedBytes && tile_serves(p);
}
bool plan_tile(PlanPart& part, const PlanInput& in) {
  part.rows = tile_rows(in.params, in.chip.room());
  set_row_tiles(part, in.args, in.bounds, in.short_len, 2 * in.chip.sms);
  return true;
}
cudaError_t run_tile(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_tile_attention(p, std::get<RowTiles>(in.part.division).grid, in.chip.room(), stream);
}

bool simt_runs(const AttentionParams& p, const ChipLimits&) { return simt_serves(p); }
bool plan_simt(PlanPart& part, const PlanInput& in) {
  part.rows = kSimtTileRows;
  set_row_tiles(part, in.args, in.bounds, in.short_len, 2 * in.chip.sms);
  return true;
}
cudaError_t run_simt(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_simt_attention(p, std::get<RowTiles>(in.part.division).grid, stream);
}

bool mla_runs(const AttentionParams& p, const ChipLimits& chip) {
  return chip.shared_bytes >= kSmallSharedBytes && mla_serves(p);
}
bool mla_bytes_runs(const AttentionParams& p, const ChipLimits& chip) {
  return chip.shared_bytes >= kMlaBytesFewSharedBytes && mla_bytes_serves(p);
}
bool mla_wgmma_runs(const AttentionParams& p, const ChipLimits& chip) {
  return mla_runs(p, chip) && mla_wgmma_serves(p);
}
bool mla_fp8_runs(const AttentionParams& p, const ChipLimits& chip) { return mla_runs(p, chip) && mla_fp8_serves(p); }
cudaError_t run_mla(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_mla_attention(p, stream_plan(in, 1), stream);
}
cudaError_t run_mla_bytes(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_mla_bytes(p, stream_plan(in, 1), stream);
}
cudaError_t run_mla_wgmma(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_mla_wgmma(p, stream_plan(in, 1), stream);
}
cudaError_t run_mla_fp8(const AttentionParams& p, const LaunchInput& in, cudaStream_t stream) {
  return launch_mla_fp8(p, in.queries, stream_plan(in, 1), stream);
}

constexpr bool kTuned = true, kPortable = false, kTakesFp8 = true, kNoFp8 = false;

}  // namespace

const AttentionKernel kStreamKernel = {"stream_attention", kPortable,   kNoFp8,     kRowTiles | kBalancedList,
                                       stream_runs,        plan_stream, run_stream, stream_key_align};
const AttentionKernel kClusterKernel = {"cluster_decode", kTuned,       kNoFp8,      kClusters | kBalancedList,
                                        cluster_runs,     plan_cluster, run_cluster, cluster_key_align};
const AttentionKernel kForwardKernel = {"forward", kTuned, kNoFp8, kRowTiles, forward_runs, plan_forward, run_forward};
const AttentionKernel kForwardFp8Kernel = {"forward_fp8",    kTuned,       kTakesFp8,      kRowTiles,
                                           forward_fp8_runs, plan_forward, run_forward_fp8};
const AttentionKernel kTileKernel = {"tile_attention", kPortable, kNoFp8, kRowTiles, tile_runs, plan_tile, run_tile};
const AttentionKernel kSimtKernel = {"simt_attention", kPortable, kNoFp8, kRowTiles, simt_runs, plan_simt, run_simt};
const AttentionKernel kMlaBytesClustersKernel = {
    "mla_bytes", kTuned, kNoFp8, kClusters, mla_bytes_runs, plan_mla_bytes_clusters, run_mla_bytes};
const AttentionKernel kMlaBytesKernel = {"mla_bytes",    kPortable,      kNoFp8,       kRowTiles | kBalancedList,
                                         mla_bytes_runs, plan_mla_bytes, run_mla_bytes};
const AttentionKernel kMlaTransposedKernel = {
    "mla_transposed",    kTuned,       kNoFp8, kRowTiles | kBalancedList | kClusters, mla_wgmma_runs,
    plan_mla_transposed, run_mla_wgmma};
const AttentionKernel kMlaWgmmaKernel = {"mla_wgmma",    kTuned,         kNoFp8,       kRowTiles | kBalancedList,
                                         mla_wgmma_runs, plan_mla_wgmma, run_mla_wgmma};
const AttentionKernel kMlaFp8Kernel = {"mla_fp8",    kTuned,         kTakesFp8,  kRowTiles | kBalancedList,
                                       mla_fp8_runs, plan_mla_wgmma, run_mla_fp8};
const AttentionKernel kMlaKernel = {"mla_attention", kPortable, kNoFp8, kRowTiles | kBalancedList,
                                    mla_runs,        plan_mla,  run_mla};

bool may_run(const AttentionKernel& kernel, const AttentionParams& params, const ChipLimits& chip,
             KernelFamily family) {
  // The one that reads scales of tokens and knows chunks and spans.
  if ((params.has_token_scales || params.own.chunk > 0 || params.has_spans) && &kernel != &kSimtKernel) return false;
  if (kernel.tuned && (family != KernelFamily::kTuned || chip.compute_capability != 90)) return false;
  return kernel.serves(params, chip);
}

}  // namespace sextant::cuda
