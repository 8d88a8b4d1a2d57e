// The HIP device: AMD GPUs of the architectures that kernels were built for.
#pragma once

#include <memory>

#include "devices/hip/runtime/hip_library.h"
#include "sextant/device.h"

namespace sextant::hip {

// `runtime`: what load_hip_library gave, or a stand-in.
DeviceReport report(const Result<HipLibraryPtr>& runtime);
Result<std::shared_ptr<Device>> open(int index, const Result<HipLibraryPtr>& runtime);

// XCDs (chiplets with an L2 each) that workgroups are dealt to in turns. The runtime does not tell; the number of
// compute units does.
int count_xcds(std::string_view architecture, int compute_units);

}  // namespace sextant::hip
