// A stand-in for the HIP runtime: memory is the host's, modules are checked as ELF files for AMD GPUs, and launches run
// the emulator's version of the kernel, at once or, while a stream is captured, when the graph is replayed.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "devices/hip/runtime/code_objects.h"
#include "devices/hip/runtime/hip_library.h"

namespace sextant::hip {

struct EmulatedKernel;

struct FakeLaunch {
  const EmulatedKernel* kernel = nullptr;
  unsigned grid = 0;
  std::vector<char> arguments;  // as they were when the launch was captured
};

struct FakeGpu {
  std::string architecture = "gfx942:sramecc+:xnack-";
  int count = 1;
  int wave_size = 64;
  std::set<const void*> modules;
  std::set<std::string> launched;
  int64_t launches = 0;
  // Stream capture, as hipStreamBeginCapture does it: launches on this stream are recorded, not run, and calls that a
  // capture does not allow fail.
  HipStream capturing = nullptr;
  std::vector<FakeLaunch> graph;
  std::vector<std::string> refused;
  HipError replay() const;  // hipGraphLaunch
};
FakeGpu& fake_gpu();

const CodeObject* object_of(const void* data);
HipLibraryPtr fake_runtime();

}  // namespace sextant::hip
