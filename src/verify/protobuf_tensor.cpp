// Walks protobuf's wire format for the fields of a tensor.
#include "verify/protobuf_tensor.h"

#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "reference/numbers.h"
#include "verify/extents.h"

namespace sextant::verify {
namespace {

constexpr int kVarint = 0, kLengthDelimited = 2, kFixed32 = 5, kFixed64 = 1;
constexpr int kFieldDims = 1, kFieldDataType = 2, kFieldRawData = 9;
constexpr int kOnnxFloat = 1, kOnnxInt64 = 7, kOnnxBool = 9, kOnnxFloat16 = 10;

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  bool done() const { return at_ >= bytes_.size(); }
  bool ok() const { return ok_; }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (done()) break;
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= uint64_t{byte & 0x7FU} << shift;
      if ((byte & 0x80U) == 0) return value;
    }
    ok_ = false;
    return 0;
  }

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) {
      ok_ = false;
      at_ = bytes_.size();
      return {};
    }
    const std::string_view part = bytes_.substr(at_, count);
    at_ += count;
    return part;
  }

 private:
  std::string_view bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

bool decode_raw(std::string_view raw, int data_type, OnnxTensor& tensor) {
  const auto number = [&](DType dtype) {
    for (size_t i = 0; i < raw.size() / size_of(dtype); ++i)
      tensor.values.push_back(reference::load(dtype, raw.data(), static_cast<int64_t>(i)));
  };
  switch (data_type) {
    case kOnnxFloat:
      number(DType::kF32);
      return true;
    case kOnnxFloat16:
      number(DType::kF16);
      tensor.is_fp16 = true;
      return true;
    case kOnnxInt64:
      number(DType::kI64);
      return true;
    case kOnnxBool:
      for (char c : raw) tensor.values.push_back(c ? 1 : 0);
      tensor.is_bool = true;
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<OnnxTensor> read_onnx_tensor(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Status(StatusCode::kNotFound, fmt::format("{}: cannot be opened", path));
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  Reader reader(bytes);
  OnnxTensor tensor;
  std::string_view raw;
  int data_type = 0;
  while (!reader.done() && reader.ok()) {
    const uint64_t tag = reader.varint();
    const int field = static_cast<int>(tag >> 3), wire = static_cast<int>(tag & 7);
    if (wire == kVarint) {
      const uint64_t value = reader.varint();
      if (field == kFieldDims) tensor.dims.push_back(static_cast<int64_t>(value));
      if (field == kFieldDataType) data_type = static_cast<int>(value);
    } else if (wire == kLengthDelimited) {
      const std::string_view part = reader.take(reader.varint());
      if (field == kFieldRawData) raw = part;
      if (field == kFieldDims)  // packed
        for (Reader dims(part); !dims.done() && dims.ok();) tensor.dims.push_back(static_cast<int64_t>(dims.varint()));
    } else if (wire == kFixed32 || wire == kFixed64) {
      reader.take(wire == kFixed32 ? 4 : 8);
    } else {
      return invalid_argument(fmt::format("{}: wire type {} in field {}; allowed: 0, 1, 2, 5", path, wire, field));
    }
  }
  if (!reader.ok()) return invalid_argument(fmt::format("{}: ends in the middle of a field", path));
  if (!decode_raw(raw, data_type, tensor))
    return invalid_argument(fmt::format("{}: data_type is {}; allowed: 1, 7, 9, 10", path, data_type));
  const auto expected = checked_elements(tensor.dims);
  if (!expected || *expected != static_cast<int64_t>(tensor.values.size()))
    return invalid_argument(fmt::format("{}: has {} values; its dims allow {}", path, tensor.values.size(),
                                        expected ? std::to_string(*expected) : "no tensor"));
  return tensor;
}

}  // namespace sextant::verify
