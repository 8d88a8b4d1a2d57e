// The attention kernels of the CUDA device. All that planning and running know of one stands in its row: which problems
// it serves, which ways of dividing work it knows, how it divides them, how it is launched.
#pragma once

#include "devices/cuda/hopper/forward_fp8_params.h"
#include "devices/cuda/plan_splits.h"

namespace sextant::cuda {

// What a kernel's planner gets.
struct PlanInput {
  const AttentionPlanArgs& args;
  const AttentionParams& params;
  const Bounds& bounds;
  int32_t short_len;  // query tokens of a request that the decode kernels take
  const ChipLimits& chip;

  // Neither the caller nor deterministic mode says how keys are split.
  bool free_choice() const { return args.split.kind == SplitPolicy::Kind::kAuto && !args.deterministic; }
  // ... and the lengths are those of now: of lengths to come nothing is known but their bounds.
  bool knows_lengths() const { return free_choice() && !bounds.open; }
};
// What a launch gets beside the parameters.
struct LaunchInput {
  const PlanPart& part;
  const Fp8Queries& queries;
  char* workspace;
  const ChipLimits& chip;
};

struct AttentionKernel {
  const char* name;
  bool tuned;             // for Hopper: compute capability 9.0 and the tuned family
  bool fp8_queries;       // reads them as they are; the others want them converted
  DivisionSet divisions;  // that it knows
  // Of a problem as planned (no pointers yet), and again of the run's tensors.
  bool (*serves)(const AttentionParams& params, const ChipLimits& chip);
  // Divides the work of `part`, whose query lengths are set. False: another kernel is better.
  bool (*plan)(PlanPart& part, const PlanInput& input);
  cudaError_t (*launch)(const AttentionParams& params, const LaunchInput& input, cudaStream_t stream);
  int32_t (*key_align)(const AttentionParams& params) = nullptr;  // null: 1; for AttentionParams::key_align

  bool knows(const Division& division) const { return (kind_of(division) & divisions) != 0; }
};

extern const AttentionKernel kStreamKernel, kClusterKernel;                      // decode
extern const AttentionKernel kForwardKernel, kForwardFp8Kernel;                  // prefill, extend, mixed
extern const AttentionKernel kTileKernel, kSimtKernel;                           // any query length, portable
extern const AttentionKernel kMlaBytesClustersKernel, kMlaBytesKernel;           // decode over fp8 latents, few rows
extern const AttentionKernel kMlaTransposedKernel, kMlaWgmmaKernel, kMlaKernel;  // decode over latents
extern const AttentionKernel kMlaFp8Kernel;                                      // decode over fp8 latents, many rows

// A kernel that a plan of `family` may use on `chip` for this problem.
bool may_run(const AttentionKernel& kernel, const AttentionParams& params, const ChipLimits& chip, KernelFamily family);

}  // namespace sextant::cuda
