// Divides a worker's scratch into arrays, each on a cache line of its own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sextant::cpu::SEXTANT_ISA {
namespace {

class ScratchSpace {
 public:
  // With a null base nothing may be touched: only bytes() is asked for. Addresses are integers, since pointers may not
  // be moved from null.
  explicit ScratchSpace(void* base) : begin_(reinterpret_cast<uintptr_t>(base)), next_(begin_) {}

  // 64 bytes more than asked for: arrays of 2^n bytes would share the same few sets of the cache.
  template <class T>
  T* take(int64_t count, size_t element_bytes = sizeof(T)) {
    auto* taken = reinterpret_cast<T*>(next_);
    next_ += (static_cast<uintptr_t>(count) * element_bytes + 63) / 64 * 64 + 64;
    return taken;
  }
  size_t bytes() const { return static_cast<size_t>(next_ - begin_); }

 private:
  uintptr_t begin_, next_;
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
