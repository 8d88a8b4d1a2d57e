#include "devices/cpu/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include "devices/cpu/cpu_isa.h"
#include "devices/cpu/worker_scratch.h"

namespace sextant::cpu {
namespace {

constexpr size_t kReadBytes = size_t{1} << 30;
constexpr size_t kScratchBytes = 1 << 20;
constexpr int kRepeats = 5;

double seconds_of(Executor& executor, const std::function<void(int64_t, int)>& task) {
  const auto start = std::chrono::steady_clock::now();
  executor.parallel_for(executor.concurrency(), task);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double peak_tflops(Executor& executor, const AttentionKernels& kernels) {
  const WorkerScratch scratch(executor.concurrency(), kScratchBytes);
  for (int w = 0; w < executor.concurrency(); ++w) std::memset(scratch.of(w), 0, kScratchBytes);
  double best = 0;
  for (int64_t iterations = 1 << 10; best == 0;) {
    std::vector<double> operations(static_cast<size_t>(executor.concurrency()));
    const auto task = [&](int64_t i, int worker) {
      operations[static_cast<size_t>(i)] = kernels.peak(iterations, scratch.of(worker));
    };
    double seconds = seconds_of(executor, task);
    if (seconds < 0.02) {
      iterations *= 4;
      continue;
    }
    for (int r = 0; r < kRepeats; ++r) seconds = std::min(seconds, seconds_of(executor, task));
    double total = 0;
    for (double x : operations) total += x;
    best = total / seconds * 1e-12;
  }
  return best;
}

double read_gbs(Executor& executor, const IsaKernels& kernels) {
  char* data = static_cast<char*>(allocate_aligned(kReadBytes));
  if (data == nullptr) return 0;
  const int64_t workers = executor.concurrency();
  const size_t share = kReadBytes / static_cast<size_t>(workers) / 4096 * 4096;
  std::memset(data, 1, kReadBytes);
  double best = 1e9;
  std::vector<double> sums(static_cast<size_t>(workers));  // kept, so that the reads are
  for (int r = 0; r < kRepeats; ++r)
    best = std::min(best, seconds_of(executor, [&](int64_t i, int) {
                      sums[static_cast<size_t>(i)] = kernels.read_sum(data + static_cast<size_t>(i) * share, share);
                    }));
  free_aligned(data);
  return static_cast<double>(share) * static_cast<double>(workers) / best * 1e-9;
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
