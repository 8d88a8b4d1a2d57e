#include "tokenizer.h"

#include <cstdio>
#include <cstdlib>

namespace mini_engine {

using sextant::Result;

namespace {

constexpr std::string_view kSpace = "\u2581";  // how the vocabulary writes a space
enum TokenType { kUnknown = 2, kControl = 3, kByte = 6 };

// Bytes of the UTF-8 character that begins with `first`.
size_t character_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte >> 5 == 6 ? 2 : byte >> 4 == 14 ? 3 : byte >> 3 == 30 ? 4 : 1;
}

}  // namespace

Result<Tokenizer> Tokenizer::make(const GgufFile& file) {
  const auto model = file.text("tokenizer.ggml.model");
  if (!model) return model.status();
  if (*model != "llama")
    return sextant::unsupported("tokenizer.ggml.model is \"" + *model + "\"; this example reads \"llama\"");
  auto tokens = file.texts("tokenizer.ggml.tokens");
  if (!tokens) return tokens.status();
  auto scores = file.numbers("tokenizer.ggml.scores");
  if (!scores) return scores.status();
  auto types = file.numbers("tokenizer.ggml.token_type");
  if (!types) return types.status();
  const size_t count = tokens->size();
  if (scores->size() != count || types->size() != count)
    return sextant::invalid_argument("tokenizer.ggml: " + std::to_string(count) + " tokens, " +
                                     std::to_string(scores->size()) + " scores and " + std::to_string(types->size()) +
                                     " types; allowed: as many of each");
  Tokenizer tokenizer;
  tokenizer.tokens_ = std::move(*tokens);
  tokenizer.scores_ = std::move(*scores);
  tokenizer.types_ = std::move(*types);
  for (size_t i = 0; i < count; ++i) tokenizer.ids_.emplace(tokenizer.tokens_[i], static_cast<int32_t>(i));
  const auto special = [&](const char* key, int32_t& id) {  // absent: Llama's own
    if (const auto value = file.integer(key)) id = static_cast<int32_t>(*value);
  };
  special("tokenizer.ggml.bos_token_id", tokenizer.bos_);
  special("tokenizer.ggml.eos_token_id", tokenizer.eos_);
  special("tokenizer.ggml.unknown_token_id", tokenizer.unknown_);
  for (const int32_t id : {tokenizer.bos_, tokenizer.eos_, tokenizer.unknown_})
    if (id < 0 || id >= tokenizer.vocab_size())
      return sextant::invalid_argument("a special token of tokenizer.ggml is " + std::to_string(id) + "; allowed: 0.." +
                                       std::to_string(count - 1));
  return tokenizer;
}

// Starts from single characters and joins the two neighbours whose token has the best score until none is left.
std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::string spaced;
  if (!text.empty()) spaced += kSpace;  // words have their space in front, the first one too
  for (const char c : text) c == ' ' ? spaced += kSpace : spaced += c;
  std::vector<std::string> parts;
  for (size_t i = 0; i < spaced.size(); i += parts.back().size())
    parts.push_back(spaced.substr(i, character_length(spaced[i])));
  for (;;) {
    size_t best = parts.size();
    double best_score = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto joined = ids_.find(parts[i] + parts[i + 1]);
      if (joined == ids_.end()) continue;
      const double score = scores_[static_cast<size_t>(joined->second)];
      if (best == parts.size() || score > best_score) best = i, best_score = score;
    }
    if (best == parts.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  std::vector<int32_t> tokens = {bos_};
  for (const std::string& part : parts) {
    if (const auto known = ids_.find(part); known != ids_.end()) {
      tokens.push_back(known->second);
      continue;
    }
    for (const char c : part) {  // a character that the vocabulary lacks goes byte by byte
      char name[8];
      std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned char>(c));
      const auto byte = ids_.find(name);
      tokens.push_back(byte == ids_.end() ? unknown_ : byte->second);
    }
  }
  return tokens;
}

std::string Tokenizer::decode(const std::vector<int32_t>& tokens) const {
  std::string text;
  for (const int32_t token : tokens) {
    std::string piece = tokens_[static_cast<size_t>(token)];
    const auto type = static_cast<int>(types_[static_cast<size_t>(token)]);
    if (type == kUnknown || type == kControl) continue;
    if (type == kByte && piece.size() == 6)
      piece = std::string(1, static_cast<char>(std::strtol(piece.c_str() + 3, nullptr, 16)));
    for (size_t at = 0; (at = piece.find(kSpace, at)) != std::string::npos;) piece.replace(at, kSpace.size(), " ");
    text += piece;
  }
  return text.starts_with(' ') ? text.substr(1) : text;
}

}  // namespace mini_engine
