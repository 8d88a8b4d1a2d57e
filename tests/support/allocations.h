// How often memory was allocated with operator new, by any thread, while counting. Zero in builds with sanitizers,
// which bring an operator of their own.
#pragma once

#include <cstdint>

namespace sextant::testing {

class CountAllocations {
 public:
  CountAllocations();
  ~CountAllocations();
  CountAllocations(const CountAllocations&) = delete;
  CountAllocations& operator=(const CountAllocations&) = delete;
  int64_t count() const;
};

}  // namespace sextant::testing
