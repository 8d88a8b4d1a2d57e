// Makes a failing case small: fewer requests, shorter ones, fewer features, for as long as it still fails.
#pragma once

#include <chrono>
#include <functional>

#include "verify/random/random_case.h"

namespace sextant::verify {

RandomCase shrink(const RandomCase& failing, const std::function<bool(const RandomCase&)>& fails,
                  std::chrono::steady_clock::time_point until);

}  // namespace sextant::verify
