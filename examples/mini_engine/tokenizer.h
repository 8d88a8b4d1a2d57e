// The tokenizer of Llama models (SentencePiece), from a GGUF file. Just what examples/mini_engine.cpp needs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gguf.h"

namespace mini_engine {

class Tokenizer {
 public:
  static sextant::Result<Tokenizer> make(const GgufFile& file);

  std::vector<int32_t> encode(std::string_view text) const;  // begins with the token that begins a text
  std::string decode(const std::vector<int32_t>& tokens) const;
  bool ends_text(int32_t token) const { return token == eos_ || token == bos_; }
  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }

 private:
  std::vector<std::string> tokens_;
  std::vector<double> scores_;
  std::vector<double> types_;
  std::unordered_map<std::string, int32_t> ids_;
  int32_t bos_ = 1, eos_ = 2, unknown_ = 0;
};

}  // namespace mini_engine
