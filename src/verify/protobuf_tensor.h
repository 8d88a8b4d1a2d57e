// Reads ONNX TensorProto files: the four fields that the node tests use, from protobuf's wire format.
// Format: https://protobuf.dev/programming-guides/encoding and onnx.proto (TensorProto: dims 1, data_type 2, raw_data
// 9).
#pragma once

#include <string>
#include <vector>

#include "sextant/status.h"

namespace sextant::verify {

struct OnnxTensor {
  std::vector<int64_t> dims;
  std::vector<double> values;  // bool as 0 / 1
  bool is_bool = false;
  bool is_fp16 = false;
  int64_t dim(size_t i) const { return dims[i]; }
};

Result<OnnxTensor> read_onnx_tensor(const std::string& path);

}  // namespace sextant::verify
