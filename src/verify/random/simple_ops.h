// Random cases of the ops that are no attention: cache writes, gathers, copies, merges, matrix products. A case is its
// op, its seed and its size; everything else is drawn from the seed, and the reference is a loop on the host.
#pragma once

#include <span>
#include <string>

#include "verify/random/random_case.h"

namespace sextant::verify {

std::span<const char* const> simple_op_names();
bool is_simple_op(std::string_view name);

// Empty when right, else what is wrong; kUnsupported where the device does not serve it.
Result<std::string> run_simple_op(Device& device, const RandomCase& test);

}  // namespace sextant::verify
