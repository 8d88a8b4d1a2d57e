// The cases of the conformance sweep.
#pragma once

#include <vector>

#include "verify/case.h"

namespace sextant::verify {

std::vector<Case> mha_cases(bool reduced);
std::vector<Case> mla_cases(bool reduced);

}  // namespace sextant::verify
