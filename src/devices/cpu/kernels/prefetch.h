// Memory brought closer while something else is computed. The core has 16 fill buffers, and each holds a line for as
// long as memory takes to bring it: bandwidth is had by keeping them in use all the time. So requests are spread evenly
// over the work, at the pace that the work sets by its steps, and never pile up in front of the loads that it waits
// for.
#pragma once

#include <stdint.h>

namespace sextant::cpu::SEXTANT_ISA {
namespace {

class Prefetcher {
 public:
  static constexpr int64_t kBytesAtOnce = 512;
  static constexpr int64_t kPage = 4096;

  // Adds part `part` of `parts` of the `count` runs of `run_bytes` at rows[i] + offset. Up to two such lists are
  // fetched in turns: two pages being read at a time give the machine's own prefetcher more to do.
  void add(const char* const* rows, int64_t count, int64_t offset, int64_t run_bytes, int64_t part, int64_t parts) {
    const int64_t pieces_a_run = (run_bytes + kBytesAtOnce - 1) / kBytesAtOnce, pieces = count * pieces_a_run;
    const int64_t first = pieces * part / parts, last = pieces * (part + 1) / parts;
    if (first == last) return;
    if (lists_[0].left > 0) lists_[1] = lists_[0];
    lists_[0] = {rows + first / pieces_a_run, last - first, offset, run_bytes, first % pieces_a_run * kBytesAtOnce};
    left_ += last - first;
  }
  // What was added is spread over about `steps` steps.
  void start(int64_t steps) { pace_ = steps > 0 ? ((left_ << kFraction) + steps - 1) / steps : left_ << kFraction; }

  // Work as long as `count` steps begins. Always inlined: a call would spill the sums that a product keeps in
  // registers.
  __attribute__((always_inline)) void step(int64_t count = 1) {
    due_ += pace_ * count;
    for (; due_ >= kOne && left_ > 0; due_ -= kOne) piece();
  }
  bool idle() const { return left_ == 0; }
  void finish() {
    while (left_ > 0) piece();
    *this = {};
  }

 private:
  static constexpr int kFraction = 12;
  static constexpr int64_t kOne = int64_t{1} << kFraction;
  struct List {
    const char* const* rows = nullptr;
    int64_t left = 0, offset = 0, run_bytes = 0, at = 0;
  };

  __attribute__((always_inline)) void piece() {
    List& list = lists_[lists_[1].left > lists_[0].left];
    const char* p = *list.rows + list.offset + list.at;
    const int64_t left = list.run_bytes - list.at, bytes = left < kBytesAtOnce ? left : kBytesAtOnce;
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(p + b, 0, 2);  // into the second-level cache
    // The machine's own prefetcher follows reads through a page of 4 KiB, but comes to know each page only by its first
    // lines.
    if (list.run_bytes >= kPage && reinterpret_cast<uintptr_t>(p) % kPage < kBytesAtOnce) {
      __builtin_prefetch(p + kPage, 0, 2);
      __builtin_prefetch(p + kPage + 64, 0, 2);
    }
    --left_;
    --list.left;
    list.at += kBytesAtOnce;
    if (list.at < list.run_bytes) return;
    list.at = 0;
    ++list.rows;
  }

  List lists_[2];
  int64_t left_ = 0, pace_ = 0, due_ = 0;
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
