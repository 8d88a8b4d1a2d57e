// Measures products and memory on all workers at once.
#include "devices/cpu/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "devices/cpu/cpu_isa.h"
#include "devices/cpu/worker_scratch.h"

namespace sextant::cpu {
namespace {

constexpr size_t kReadBytes = size_t{1} << 30;
constexpr size_t kScratchBytes = 1 << 20;
constexpr int kRepeats = 7;

double seconds_of(Executor& executor, const std::function<void(int64_t, int)>& task) {
  const auto start = std::chrono::steady_clock::now();
  executor.parallel_for(executor.concurrency(), task);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Of kRepeats runs: what the machine does steadily, not its best moment.
double median_seconds_of(Executor& executor, const std::function<void(int64_t, int)>& task) {
  std::vector<double> seconds(kRepeats);
  for (double& s : seconds) s = seconds_of(executor, task);
  std::nth_element(seconds.begin(), seconds.begin() + kRepeats / 2, seconds.end());
  return seconds[kRepeats / 2];
}

double peak_tflops(Executor& executor, const AttentionKernels& kernels) {
  const WorkerScratch scratch(executor.workers(), kScratchBytes);
  for (int w = 0; w < executor.workers(); ++w) std::memset(scratch.of(w), 0, kScratchBytes);
  std::vector<double> operations(static_cast<size_t>(executor.concurrency()));
  for (int64_t iterations = 1 << 10;; iterations *= 4) {
    const auto task = [&](int64_t i, int worker) {
      operations[static_cast<size_t>(i)] = kernels.peak(iterations, scratch.of(worker));
    };
    if (seconds_of(executor, task) < 0.02) continue;  // also warms the clocks up
    const double seconds = median_seconds_of(executor, task);
    return std::accumulate(operations.begin(), operations.end(), 0.0) / seconds * 1e-12;
  }
}

double read_gbs(Executor& executor, const IsaKernels& kernels) {
  char* data = static_cast<char*>(allocate_aligned(kReadBytes));
  if (data == nullptr) return 0;
  const int64_t workers = executor.concurrency();
  const size_t share = kReadBytes / static_cast<size_t>(workers) / 4096 * 4096;
  std::memset(data, 1, kReadBytes);
  std::vector<double> sums(static_cast<size_t>(workers));  // kept, so that the reads are
  const double seconds = median_seconds_of(executor, [&](int64_t i, int) {
    sums[static_cast<size_t>(i)] = kernels.read_sum(data + static_cast<size_t>(i) * share, share);
  });
  free_aligned(data);
  return static_cast<double>(share) * static_cast<double>(workers) / seconds * 1e-9;
}

}  // namespace

Ceilings cpu_ceilings(Executor& executor) {
  Ceilings ceilings;
  auto isa = choose_isa("");
  if (!isa) return ceilings;
  ceilings.fma_tflops = peak_tflops(executor, isa->kernels->fp32);
  ceilings.matrix_tflops = isa->bf16 ? peak_tflops(executor, *isa->bf16) : ceilings.fma_tflops;
  ceilings.read_gbs = read_gbs(executor, *isa->kernels);
  return ceilings;
}

}  // namespace sextant::cpu
