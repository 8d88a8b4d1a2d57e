// The kernels' machine code, built with this binary: one object for each kernel source and architecture.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sextant::hip {

struct CodeObject {
  std::string_view kernels;       // the source: "ops", "portable", ...
  std::string_view architecture;  // "gfx942"
  const void* data;
  size_t bytes;
};

std::span<const CodeObject> code_objects();  // generated; empty when the build had no compiler for AMD GPUs

std::vector<std::string> built_architectures();
// "gfx942:sramecc+:xnack-" is a gfx942.
std::string_view base_architecture(std::string_view gcn_arch_name);

}  // namespace sextant::hip
