// ONNX TensorProto files, as `verify --onnx` reads them.
#include "memory_file.h"
#include "verify/protobuf_tensor.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sextant::fuzz::MemoryFile file;
  (void)sextant::verify::read_onnx_tensor(file.with(data, size));
  return 0;
}
