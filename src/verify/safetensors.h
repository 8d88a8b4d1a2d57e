// Reads a .safetensors file: 8 bytes of header length, a JSON header, the data.
// Format: https://github.com/huggingface/safetensors (README, "Format").
#pragma once

#include <map>
#include <string>

#include "verify/case.h"

namespace sextant::verify {

struct SafetensorsFile {
  std::map<std::string, HostTensor> tensors;
  std::map<std::string, std::string> metadata;
};

Result<SafetensorsFile> read_safetensors(const std::string& path);

}  // namespace sextant::verify
