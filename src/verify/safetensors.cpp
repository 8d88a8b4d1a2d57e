// Reads the header and the tensors of a .safetensors file.
#include "verify/safetensors.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "verify/extents.h"

namespace sextant::verify {
namespace {

Result<HostTensor> read_tensor(const std::string& path, const std::string& name, const nlohmann::json& entry,
                               std::string_view data) {
  const std::string type = entry.value("dtype", "");
  HostTensor tensor;
  if (type == "F32")
    tensor.dtype = DType::kF32;
  else if (type == "F16")
    tensor.dtype = DType::kF16;
  else if (type == "BF16")
    tensor.dtype = DType::kBF16;
  else
    return invalid_argument(fmt::format("{}: tensor {} has dtype {}; allowed: F32, F16, BF16", path, name, type));
  for (const char* field : {"shape", "data_offsets"})
    for (const nlohmann::json& number : entry.at(field))
      if (!number.is_number_unsigned() || number.get<uint64_t>() > INT64_MAX)
        return invalid_argument(fmt::format("{}: tensor {} has {} {}; allowed: numbers from 0 to {}", path, name, field,
                                            entry.at(field).dump(), INT64_MAX));
  tensor.shape = entry.at("shape").get<std::vector<int64_t>>();
  const auto offsets = entry.at("data_offsets").get<std::vector<uint64_t>>();
  const auto elements = checked_elements(tensor.shape);
  const uint64_t expected = static_cast<uint64_t>(elements.value_or(0)) * size_of(tensor.dtype);
  if (!elements || offsets.size() != 2 || offsets[1] < offsets[0] || offsets[1] > data.size() ||
      offsets[1] - offsets[0] != expected)
    return invalid_argument(
        fmt::format("{}: tensor {} lies outside the file or has the wrong size (is the file truncated?)", path, name));
  const auto* begin = reinterpret_cast<const uint8_t*>(data.data());
  tensor.bytes.assign(begin + offsets[0], begin + offsets[1]);
  return tensor;
}

}  // namespace

Result<SafetensorsFile> read_safetensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Status(StatusCode::kNotFound, fmt::format("{}: cannot be opened", path));
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  uint64_t header_size = 0;
  if (bytes.size() >= 8) std::memcpy(&header_size, bytes.data(), 8);
  if (bytes.size() < 8 || header_size > bytes.size() - 8)
    return invalid_argument(fmt::format("{}: {} bytes hold no header of {} bytes (is the file truncated?)", path,
                                        bytes.size(), header_size));
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size), nullptr, false);
  if (!header.is_object()) return invalid_argument(fmt::format("{}: the header is not a JSON object", path));
  SafetensorsFile result;
  const std::string_view data = std::string_view(bytes).substr(8 + header_size);
  size_t taken = 0;  // tensors lie beside one another: a small header asks for no more memory than the file has
  try {
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        for (const auto& [key, value] : entry.items()) result.metadata[key] = value.get<std::string>();
        continue;
      }
      auto tensor = read_tensor(path, name, entry, data);
      if (!tensor) return tensor.status();
      taken += tensor->bytes.size();
      if (taken > data.size()) return invalid_argument(fmt::format("{}: tensor {} lies where others lie", path, name));
      result.tensors[name] = std::move(tensor).value();
    }
  } catch (const nlohmann::json::exception& error) {
    return invalid_argument(fmt::format("{}: {}", path, error.what()));
  }
  return result;
}

}  // namespace sextant::verify
