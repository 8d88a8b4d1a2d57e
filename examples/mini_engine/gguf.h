// Reads a GGUF file: metadata by key, fp32 tensors by name. Just what examples/mini_engine.cpp needs.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "sextant/status.h"

namespace mini_engine {

class GgufFile {
 public:
  static sextant::Result<GgufFile> read(const std::string& path);

  // Metadata. kNotFound without the key, kInvalidArgument where it holds something else.
  sextant::Result<int64_t> integer(const std::string& key) const;
  sextant::Result<double> number(const std::string& key) const;
  sextant::Result<std::string> text(const std::string& key) const;
  sextant::Result<std::vector<std::string>> texts(const std::string& key) const;
  sextant::Result<std::vector<double>> numbers(const std::string& key) const;

  // An fp32 tensor of the given shape, slowest dimension first. Valid as long as the file.
  bool has_tensor(const std::string& name) const { return tensors_.contains(name); }
  sextant::Result<std::span<const float>> tensor(const std::string& name, std::initializer_list<int64_t> shape) const;

 private:
  friend class GgufParser;
  using Value = std::variant<int64_t, double, std::string, std::vector<std::string>, std::vector<double>>;
  struct Tensor {
    std::vector<int64_t> shape;  // slowest dimension first
    std::span<const float> values;
  };

  template <class T>
  sextant::Result<T> get(const std::string& key, const char* kind) const;

  std::string path_;
  std::vector<char> bytes_;  // the whole file; tensors point into it
  std::map<std::string, Value> metadata_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace mini_engine
