// Other people's data: ONNX node tests and transformers recordings, when they are there.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "support/matchers.h"
#include "verify/protobuf_tensor.h"
#include "verify/safetensors.h"
#include "verify/verify.h"

namespace sextant::verify {
namespace {

const std::string kData = SEXTANT_SHARED_DATA;

void expect_clean(const Result<SuiteResult>& suite, int at_least) {
  ASSERT_OK(suite);
  EXPECT_GE(suite->passed, at_least);
  EXPECT_EQ(suite->failed, 0);
  for (const std::string& message : suite->messages)
    if (message.rfind("FAILED", 0) == 0) ADD_FAILURE() << message;
}

TEST(Recorded, OnnxAttention) {
  if (!std::filesystem::exists(kData + "/onnx-attention")) GTEST_SKIP() << "no ONNX node tests at " << kData;
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  expect_clean(run_onnx_suite(**device, kData + "/onnx-attention", {}), 4 * 60);
}

TEST(Recorded, TransformersGoldens) {
  if (!std::filesystem::exists(kData + "/goldens")) GTEST_SKIP() << "no golden tensors at " << kData;
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  expect_clean(run_goldens_suite(**device, kData + "/goldens", {}), 100);
}

std::string temporary_file(const std::string& name, const std::string& bytes) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

TEST(Safetensors, TruncatedAndBrokenFiles) {
  EXPECT_ERROR(read_safetensors("/nowhere.safetensors"), StatusCode::kNotFound,
               "/nowhere.safetensors: cannot be opened");
  EXPECT_ERROR(read_safetensors(temporary_file("short.safetensors", "abc")), StatusCode::kInvalidArgument,
               "is the file truncated?");
  std::string header = R"({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  EXPECT_ERROR(read_safetensors(temporary_file("cut.safetensors", bytes + header + "1234")),
               StatusCode::kInvalidArgument, "tensor x");
  EXPECT_ERROR(read_safetensors(temporary_file("json.safetensors", bytes + std::string(header.size(), '{'))),
               StatusCode::kInvalidArgument, "not a JSON object");
}

TEST(Safetensors, TensorsThatShareTheirBytesAreRefused) {
  const std::string entry = R"({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})";
  const std::string header = R"({"x": )" + entry + R"(, "y": )" + entry + "}";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  EXPECT_ERROR(read_safetensors(temporary_file("shared.safetensors", bytes + header + "12345678")),
               StatusCode::kInvalidArgument, "tensor y lies where others lie");
}

TEST(OnnxTensor, TruncatedFile) {
  EXPECT_ERROR(read_onnx_tensor(temporary_file("cut.pb", std::string("\x08\x04\x10\x01\x4a\x10zz", 8))),
               StatusCode::kInvalidArgument, "ends in the middle of a field");
}

}  // namespace
}  // namespace sextant::verify
