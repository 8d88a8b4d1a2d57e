// Request traces of every format. Requests that are accepted have lengths that a scheduler can use.
#include "sextant/trace.h"

#include <cstdlib>

#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sextant::fuzz::MemoryFile file;
  const auto trace = sextant::read_trace(file.with(data, size), 1000);
  if (!trace) return trace.status().message().empty() ? std::abort(), 0 : 0;
  for (const auto& request : trace->requests)
    if (request.input_length < 0 || request.output_length < 0) std::abort();
  return 0;
}
