// Runs a step over a range of indices where the device's memory is: loops on the host's cores, or a kernel.
#pragma once

#include "sextant/device.h"
#include "verify/random/steps.h"

namespace sextant::verify {

// Every step that exists, for the instantiations.
#define SEXTANT_FOR_EACH_STEP(DO) \
  DO(FillRows)                    \
  DO(FillCache)                   \
  DO(CompareBytes)                \
  DO(LoadQueries)                 \
  DO(AbsorbQueries) DO(Scores) DO(RowMax) DO(Weights) DO(RowSum) DO(Outputs<1>) DO(Outputs<8>) DO(ProjectOutputs)

template <class Step>
Status launch_on_host(int64_t count, const Step& step);
#if defined(SEXTANT_HAS_CUDA)
template <class Step>
Status launch_on_cuda(int64_t count, const Step& step);  // waits for it
#endif

// Whether the steps can touch this device's memory.
inline bool can_judge(DeviceKind kind) { return kind != DeviceKind::kHip; }

template <class Step>
Status launch(const Device& device, int64_t count, const Step& step) {
  if (count == 0) return Status::ok();
#if defined(SEXTANT_HAS_CUDA)
  if (device.info().kind == DeviceKind::kCuda) return launch_on_cuda(count, step);
#endif
  return launch_on_host(count, step);
}

}  // namespace sextant::verify
