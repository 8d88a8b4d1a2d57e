// The batch grammar of the CLI, and the text of random cases.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "sextant/workload.h"
#include "verify/random/random_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto batch = sextant::parse_batch(text);
  if (batch) {
    // Slots are 8 bytes a token. A block table is as wide as its longest request: many short requests beside a long one
    // are a table of gigabytes.
    int64_t blocks = 0, widest = 0;
    for (const auto& r : *batch) {
      blocks += r.seq_len / 16 + 1;
      widest = std::max<int64_t>(widest, r.seq_len / 16 + 1);
    }
    const auto requests = static_cast<int64_t>(batch->size());
    if (blocks < 100000 && requests < 1000 && requests * widest < 1 << 22)
      (void)sextant::lay_out_batch(*batch, 16, blocks);
  }
  const auto requests = sextant::verify::parse_batch_text(text);
  if (requests && sextant::verify::batch_text(*sextant::verify::parse_batch_text(
                      sextant::verify::batch_text(*requests))) != sextant::verify::batch_text(*requests))
    std::abort();
  const auto test = sextant::verify::parse_random_case(text);
  if (test && !sextant::verify::parse_random_case(sextant::verify::to_text(*test))) std::abort();
  return 0;
}
