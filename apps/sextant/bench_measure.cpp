// Checks one backend on one batch against the oracle, then times it.
#include "bench_measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "sextant/model.h"

namespace sextant::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kLeastSamples = 5, kLeastSlowSamples = 3, kMostSamples = 200;
constexpr double kSlowMs = 2000;           // runs this long are steady: fewer of them do
constexpr double kShortestSampleMs = 0.2;  // shorter runs are timed several at once

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double quantile(const std::vector<double>& sorted, double at) {
  const double position = at * static_cast<double>(sorted.size() - 1);
  const size_t low = static_cast<size_t>(position);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (position - static_cast<double>(low));
}

// A backend with everything bound: run() may be called again and again.
struct Prepared {
  PlanPtr plan;
  PagedCache cache;
  BatchOnDevice batch;
  DeviceBuffer out, workspace;
  RunTensors tensors;
  double plan_ms = 0;
};

Status take(Result<DeviceBuffer> made, DeviceBuffer& buffer) {
  if (!made) return made.status();
  buffer = std::move(*made);
  return Status::ok();
}

Status prepare(Device& device, const Backend& backend, const BenchCase& bench, const AttentionInputs& inputs,
               uint64_t seed, Prepared& p) {
  PlanRequest request;
  request.spec = bench.spec;
  request.cache = with_layout(kv_cache_for(bench.spec, bench.kv_format, bench.block_size, bench.num_blocks), backend,
                              device.info());
  request.batch = bench.batch.metadata();
  const auto start = Clock::now();
  auto plan = backend.plan(device, request);
  if (!plan) return plan.status();
  p.plan_ms = milliseconds_since(start);
  p.plan = *plan;
  auto cache = PagedCache::make(device, request.cache, /*random=*/true, seed + 10);
  if (!cache) return cache.status();
  p.cache = std::move(*cache);
  SEXTANT_RETURN_IF_ERROR(p.batch.upload(device, bench.batch));
  const int64_t tokens = bench.batch.query_start_loc.back();
  const int64_t out_elements = tokens * bench.spec.num_heads * bench.spec.value_head_dim();
  SEXTANT_RETURN_IF_ERROR(
      take(DeviceBuffer::make(device, static_cast<size_t>(out_elements) * size_of(bench.spec.dtype)), p.out));
  SEXTANT_RETURN_IF_ERROR(take(DeviceBuffer::make(device, p.plan->workspace_bytes()), p.workspace));
  inputs.bind(0, tokens, p.tensors);
  p.tensors.out =
      make_view(p.out.data(), bench.spec.dtype, {tokens, bench.spec.num_heads, bench.spec.value_head_dim()});
  p.batch.bind(p.tensors);
  p.tensors.cache = p.cache.view();
  p.tensors.workspace = p.workspace.data();
  p.tensors.workspace_bytes = p.workspace.bytes();
  return Status::ok();
}

Result<double> run_ms(Device& device, const Prepared& p, int times) {
  const auto start = Clock::now();
  for (int i = 0; i < times; ++i) SEXTANT_RETURN_IF_ERROR(p.plan->run(p.tensors, {}));
  SEXTANT_RETURN_IF_ERROR(device.synchronize({}));
  return milliseconds_since(start) / times;
}

Result<Timing> time_runs(Device& device, const Prepared& p, const MeasureOptions& options) {
  double warm_ms = 0;
  // The run that was checked has warmed up as well.
  for (int i = options.check ? 1 : 0; i < std::max(options.warm_up, 2); ++i) {
    auto ms = run_ms(device, p, 1);
    if (!ms) return ms.status();
    warm_ms = *ms;
  }
  const int times = std::clamp(static_cast<int>(kShortestSampleMs / std::max(warm_ms, 1e-4)), 1, 1000);
  const int least = warm_ms > kSlowMs ? kLeastSlowSamples : kLeastSamples;
  std::vector<double> samples;
  const auto start = Clock::now();
  const auto enough = [&] {
    const int n = static_cast<int>(samples.size());
    if (options.repeats > 0) return n >= options.repeats;
    return n >= kMostSamples || (n >= least && milliseconds_since(start) > options.seconds * 1000);
  };
  while (!enough()) {
    auto ms = run_ms(device, p, times);
    if (!ms) return ms.status();
    samples.push_back(*ms);
  }
  std::sort(samples.begin(), samples.end());
  return Timing{static_cast<int>(samples.size()), quantile(samples, 0.5), samples.front(), quantile(samples, 0.1),
                quantile(samples, 0.9)};
}

}  // namespace

double bytes_needed(const AttentionSpec& spec, KvFormat kv_format, int32_t block_size,
                    const std::vector<RequestLengths>& requests) {
  double tokens = 0;
  for (const RequestLengths& request : requests) tokens += request.query_len;
  const double slots = static_cast<double>(blocks_needed(requests, block_size)) * block_size;
  const int64_t wide = spec.head_dim + spec.value_head_dim();
  return slots * static_cast<double>(token_bytes(kv_cache_for(spec, kv_format, block_size, 1))) +
         tokens * static_cast<double>(spec.num_heads * wide * static_cast<int64_t>(size_of(spec.dtype)));
}

Result<BenchCase> make_bench_case(const AttentionSpec& spec, KvFormat kv_format, int32_t block_size,
                                  const std::vector<RequestLengths>& requests) {
  BenchCase bench{spec, kv_format, block_size, requests, {}, 0};
  bench.num_blocks = blocks_needed(requests, block_size);
  auto batch = lay_out_batch(requests, block_size, bench.num_blocks);
  if (!batch) return batch.status();
  bench.batch = std::move(*batch);
  return bench;
}

Result<Measurement> measure(Device& device, const Backend& backend, const BenchCase& bench,
                            const AttentionInputs& inputs, const MeasureOptions& options) {
  Prepared prepared;
  SEXTANT_RETURN_IF_ERROR(prepare(device, backend, bench, inputs, options.seed, prepared));
  Measurement m;
  m.plan_ms = prepared.plan_ms;
  m.workspace_bytes = prepared.plan->workspace_bytes();
  m.steps = prepared.plan->steps();
  if (options.check) {
    SEXTANT_RETURN_IF_ERROR(run_ms(device, prepared, 1).status());
    auto check =
        check_against_oracle(bench, inputs, prepared.cache, prepared.tensors, prepared.out, device, options.seed);
    if (!check) return check.status();
    m.check = *check;
    if (!m.check.passed()) return m;
  }
  auto timing = time_runs(device, prepared, options);
  if (!timing) return timing.status();
  m.timing = *timing;
  return m;
}

}  // namespace sextant::cli
