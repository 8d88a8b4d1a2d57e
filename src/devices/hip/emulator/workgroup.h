// A workgroup of waves of 64 lanes on the CPU, in lock step where lanes meet.
//
// Each lane is a fiber with its own stack. A lane runs until it meets the others: at a cross-lane operation or an MFMA
// (the wave) or at a barrier (the workgroup). The last lane of a wave to arrive does the operation for all. Between two
// meetings lanes run one after the other, in an order that the caller picks: a kernel whose result depends on it lacks
// a barrier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "devices/hip/emulator/lane_api.h"

namespace sextant::hip::emulator {

enum class LaneOrder : uint8_t { kForward, kBackward };

using KernelFunction = void (*)(const void* params);

class Workgroup {
 public:
  Workgroup();
  ~Workgroup();
  Workgroup(const Workgroup&) = delete;
  Workgroup& operator=(const Workgroup&) = delete;

  // Empty when every lane came to its end; else what went wrong.
  std::string run(KernelFunction kernel, const void* params, int block, int threads, LaneOrder order,
                  const EmulatedChip& chip);

 private:
  friend struct Scheduler;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sextant::hip::emulator
