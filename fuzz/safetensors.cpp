// safetensors files, as `verify --goldens` reads them.
#include "verify/safetensors.h"

#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sextant::fuzz::MemoryFile file;
  const auto tensors = sextant::verify::read_safetensors(file.with(data, size));
  if (!tensors) return 0;
  for (const auto& [name, tensor] : tensors->tensors)
    if (tensor.elements() > 0) (void)tensor.get(tensor.elements() - 1);
  return 0;
}
