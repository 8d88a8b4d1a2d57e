// Memory brought closer while something else is computed: a few lines at every step of a loop, so that requests to
// memory never pile up in front of the loads that the loop itself waits for.
#pragma once

#include <stdint.h>

namespace sextant::cpu::SEXTANT_ISA {
namespace {

class Prefetcher {
 public:
  static constexpr int64_t kBytesAtOnce = 256;
  static constexpr uintptr_t kPage = 4096;

  // Part `part` of `parts` of the `count` runs of `run_bytes` at rows[i] + offset, spread over about `steps` steps.
  void begin(const char* const* rows, int64_t count, int64_t offset, int64_t run_bytes, int64_t part, int64_t parts,
             int64_t steps) {
    const int64_t pieces_a_run = (run_bytes + kBytesAtOnce - 1) / kBytesAtOnce, pieces = count * pieces_a_run;
    const int64_t first = pieces * part / parts;
    left_ = pieces * (part + 1) / parts - first;
    if (left_ == 0) return;
    rows_ = rows + first / pieces_a_run;
    at_ = first % pieces_a_run * kBytesAtOnce;
    offset_ = offset;
    run_bytes_ = run_bytes;
    pieces_a_step_ = steps > 0 ? (left_ + steps - 1) / steps : left_;
  }
  void step() {
    for (int64_t i = 0; i < pieces_a_step_ && left_ > 0; ++i) piece();
  }
  void finish() {
    while (left_ > 0) piece();
  }

 private:
  void piece() {
    const char* p = *rows_ + offset_ + at_;
    for (int64_t b = 0; b < kBytesAtOnce; b += 64) __builtin_prefetch(p + b, 0, 2);  // into the second-level cache
    // The machine's own prefetcher follows reads through a page of 4 KiB, but comes to know each page only by its first
    // lines.
    if (reinterpret_cast<uintptr_t>(p) % kPage < kBytesAtOnce) {
      __builtin_prefetch(p + kPage, 0, 2);
      __builtin_prefetch(p + kPage + 64, 0, 2);
    }
    --left_;
    at_ += kBytesAtOnce;
    if (at_ < run_bytes_) return;
    at_ = 0;
    ++rows_;
  }

  const char* const* rows_ = nullptr;
  int64_t left_ = 0, offset_ = 0, run_bytes_ = 0, at_ = 0, pieces_a_step_ = 0;
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
