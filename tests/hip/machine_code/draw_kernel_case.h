// Random cases that launch a kernel that is asked for by its name.
#pragma once

#include <optional>
#include <string>

#include "verify/random/random_case.h"

namespace sextant::hip::isa {

// Nothing: no case launches it by itself. The same for the same seed.
std::optional<verify::RandomCase> draw_kernel_case(const std::string& kernel, const std::string& architecture,
                                                   uint64_t seed);

// `known` with about a third of its traits taken from `other`; it may be a case that nothing serves.
verify::RandomCase blend(const verify::RandomCase& known, const verify::RandomCase& other, uint64_t seed);

}  // namespace sextant::hip::isa
