#include "gguf.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

namespace mini_engine {

using sextant::Result;
using sextant::Status;
using sextant::StatusCode;

namespace {

std::string shown(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

}  // namespace

// Goes through the file once. Every read is checked against its end: a file from somewhere else is not trusted.
class GgufParser {
 public:
  explicit GgufParser(GgufFile& file) : file_(file) {}

  Status parse() {
    char magic[4] = {};
    if (!take(magic) || std::memcmp(magic, "GGUF", 4) != 0)
      return sextant::invalid_argument(file_.path_ + " is not a GGUF file: it does not begin with \"GGUF\"");
    uint32_t version = 0;
    uint64_t num_tensors = 0, num_keys = 0;
    if (!take(version)) return truncated("the version");
    if (version != 2 && version != 3)
      return sextant::invalid_argument(file_.path_ + ": version is " + std::to_string(version) + "; allowed: 2, 3");
    if (!take(num_tensors) || !take(num_keys)) return truncated("the header");
    for (uint64_t i = 0; i < num_keys; ++i) SEXTANT_RETURN_IF_ERROR(metadata(i));
    for (uint64_t i = 0; i < num_tensors; ++i) SEXTANT_RETURN_IF_ERROR(tensor_header(i));
    return tensor_values();
  }

 private:
  enum Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kText, kArray, kU64, kI64, kF64 };
  struct Header {
    std::string name;
    std::vector<int64_t> shape;
    uint32_t type = 0;
    uint64_t offset = 0;
  };

  template <class T>
  bool take(T& value) {
    if (file_.bytes_.size() - position_ < sizeof(T)) return false;
    std::memcpy(&value, file_.bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }
  bool take(std::string& text) {
    uint64_t length = 0;
    if (!take(length) || length > file_.bytes_.size() - position_) return false;
    text.assign(file_.bytes_.data() + position_, length);
    position_ += length;
    return true;
  }
  template <class T, class Into>
  bool take_as(Into& value) {
    T stored{};
    if (!take(stored)) return false;
    value = static_cast<Into>(+stored);  // a number, also where T is a character type
    return true;
  }
  // A number of any stored type; false also for what is none.
  template <class Into>
  bool take_number(uint32_t type, Into& value) {
    switch (type) {
      case kU8:
      case kBool:
        return take_as<uint8_t>(value);
      case kI8:
        return take_as<int8_t>(value);
      case kU16:
        return take_as<uint16_t>(value);
      case kI16:
        return take_as<int16_t>(value);
      case kU32:
        return take_as<uint32_t>(value);
      case kI32:
        return take_as<int32_t>(value);
      case kU64:
        return take_as<uint64_t>(value);
      case kI64:
        return take_as<int64_t>(value);
      case kF32:
        return take_as<float>(value);
      case kF64:
        return take_as<double>(value);
      default:
        return false;
    }
  }

  Status truncated(const std::string& where) const {
    return sextant::invalid_argument(file_.path_ + " is truncated or damaged: it has " +
                                     std::to_string(file_.bytes_.size()) + " bytes and ends within " + where);
  }

  Status metadata(uint64_t index) {
    std::string key;
    uint32_t type = 0;
    if (!take(key) || !take(type)) return truncated("metadata entry " + std::to_string(index));
    GgufFile::Value& value = file_.metadata_[key];
    const bool whole = type == kText                  ? take(value.emplace<std::string>())
                       : type == kArray               ? array(value)
                       : type == kF32 || type == kF64 ? take_number(type, value.emplace<double>())
                                                      : take_number(type, value.emplace<int64_t>());
    return whole ? Status::ok() : truncated("the value of metadata key \"" + key + "\"");
  }

  bool array(GgufFile::Value& value) {
    uint32_t type = 0;
    uint64_t count = 0;
    if (!take(type) || !take(count)) return false;
    if (type == kText) {
      auto& texts = value.emplace<std::vector<std::string>>();
      for (uint64_t i = 0; i < count; ++i)
        if (!take(texts.emplace_back())) return false;
    } else {
      auto& numbers = value.emplace<std::vector<double>>();
      for (uint64_t i = 0; i < count; ++i)
        if (!take_number(type, numbers.emplace_back())) return false;
    }
    return true;
  }

  Status tensor_header(uint64_t index) {
    Header& header = headers_.emplace_back();
    uint32_t rank = 0;
    const std::string where = "the header of tensor " + std::to_string(index);
    if (!take(header.name) || !take(rank)) return truncated(where);
    if (rank > 4)
      return sextant::invalid_argument(file_.path_ + ": tensor \"" + header.name + "\" has " + std::to_string(rank) +
                                       " dimensions; allowed: 0..4");
    header.shape.resize(rank);
    for (uint32_t i = 0; i < rank; ++i)  // GGUF names the fastest dimension first
      if (!take(header.shape[rank - 1 - i])) return truncated(where);
    return take(header.type) && take(header.offset) ? Status::ok() : truncated(where);
  }

  Status tensor_values() {
    const int64_t alignment = file_.integer("general.alignment").is_ok() ? *file_.integer("general.alignment") : 32;
    if (alignment < 8 || alignment > 1 << 20 || alignment % 8 != 0)
      return sextant::invalid_argument(file_.path_ + ": general.alignment is " + std::to_string(alignment) +
                                       "; allowed: multiples of 8 up to 1048576");
    const uint64_t step = static_cast<uint64_t>(alignment), size = file_.bytes_.size();
    const uint64_t begin = (position_ + step - 1) / step * step;
    for (const Header& header : headers_) {
      if (header.type != 0)
        return sextant::unsupported(file_.path_ + ": tensor \"" + header.name + "\" has GGML type " +
                                    std::to_string(header.type) + "; this example reads type 0 (F32)");
      uint64_t elements = 1;
      for (const int64_t n : header.shape) {  // the product stays below the file's size, so that it cannot overflow
        if (n <= 0 || static_cast<uint64_t>(n) > size / elements) return truncated("tensor \"" + header.name + "\"");
        elements *= static_cast<uint64_t>(n);
      }
      if (begin > size || header.offset > size - begin || elements > (size - begin - header.offset) / sizeof(float))
        return truncated("tensor \"" + header.name + "\"");
      if (header.offset % step != 0)
        return sextant::invalid_argument(file_.path_ + ": tensor \"" + header.name + "\" begins at " +
                                         std::to_string(header.offset) + "; allowed: multiples of " +
                                         std::to_string(alignment));
      const auto* values = reinterpret_cast<const float*>(file_.bytes_.data() + begin + header.offset);
      file_.tensors_[header.name] = {header.shape, {values, elements}};
    }
    return Status::ok();
  }

  GgufFile& file_;
  std::vector<Header> headers_;
  uint64_t position_ = 0;
};

Result<GgufFile> GgufFile::read(const std::string& path) {
  std::error_code ignored;
  std::ifstream stream(path, std::ios::binary);
  if (!stream || std::filesystem::is_directory(path, ignored))
    return Status(StatusCode::kNotFound, "no file \"" + path + "\" that can be read");
  GgufFile file;
  file.path_ = path;
  file.bytes_.assign(std::istreambuf_iterator<char>(stream), {});
  SEXTANT_RETURN_IF_ERROR(GgufParser(file).parse());
  return file;
}

template <class T>
Result<T> GgufFile::get(const std::string& key, const char* kind) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return Status(StatusCode::kNotFound, path_ + " has no metadata key \"" + key + "\"");
  if (const T* value = std::get_if<T>(&found->second)) return *value;
  return sextant::invalid_argument(path_ + ": metadata key \"" + key + "\" does not hold " + kind);
}

Result<int64_t> GgufFile::integer(const std::string& key) const { return get<int64_t>(key, "an integer"); }
Result<double> GgufFile::number(const std::string& key) const { return get<double>(key, "a number"); }
Result<std::string> GgufFile::text(const std::string& key) const { return get<std::string>(key, "a text"); }
Result<std::vector<std::string>> GgufFile::texts(const std::string& key) const {
  return get<std::vector<std::string>>(key, "texts");
}
Result<std::vector<double>> GgufFile::numbers(const std::string& key) const {
  return get<std::vector<double>>(key, "numbers");
}

Result<std::span<const float>> GgufFile::tensor(const std::string& name, std::initializer_list<int64_t> shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return Status(StatusCode::kNotFound, path_ + " has no tensor \"" + name + "\"");
  if (!std::equal(shape.begin(), shape.end(), found->second.shape.begin(), found->second.shape.end()))
    return sextant::invalid_argument(path_ + ": tensor \"" + name + "\" is " + shown(found->second.shape) +
                                     "; the metadata asks for " + shown({shape.begin(), shape.size()}));
  return found->second.values;
}

}  // namespace mini_engine
