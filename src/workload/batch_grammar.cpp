// Parses batches such as 2q2k_32q1s1k.
#include <fmt/format.h>

#include <limits>

#include "sextant/workload.h"

namespace sextant {
namespace {

constexpr int64_t kMaxLength = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxRequests = 1 << 20;
constexpr int64_t kKibi = 1024;

// Reads the text from left to right; the first error ends it.
class BatchParser {
 public:
  explicit BatchParser(std::string_view text) : text_(text) {}

  Result<std::vector<RequestLengths>> parse() {
    std::vector<RequestLengths> requests;
    do {
      SEXTANT_RETURN_IF_ERROR(segment(requests));
    } while (accept('_'));
    if (position_ != text_.size()) return error(position_, "\"_\" or the end");
    return requests;
  }

 private:
  bool at_digit() const { return position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9'; }
  bool accept(char c) {
    if (position_ >= text_.size() || text_[position_] != c) return false;
    ++position_;
    return true;
  }

  Status error(size_t position, std::string_view allowed) const {
    const std::string found = position < text_.size() ? fmt::format("\"{}\"", text_[position]) : "the end";
    return invalid_argument(
        fmt::format("batch \"{}\": found {} at position {}; allowed: {}", text_, found, position + 1, allowed));
  }

  // Digits, with an optional k when `lengths`.
  Status number(const char* field, bool length, int64_t max, int64_t& value) {
    const size_t begin = position_;
    if (!at_digit()) return error(position_, fmt::format("a digit ({})", field));
    value = 0;
    while (at_digit()) {
      value = value * 10 + (text_[position_++] - '0');
      if (value > max) return out_of_range(field, begin, max);
    }
    if (length && accept('k')) value *= kKibi;
    if (value < 1 || value > max) return out_of_range(field, begin, max);
    return Status::ok();
  }

  Status out_of_range(const char* field, size_t begin, int64_t max) const {
    size_t end = begin;
    while (end < text_.size() && text_[end] >= '0' && text_[end] <= '9') ++end;
    if (end < text_.size() && text_[end] == 'k') ++end;
    return invalid_argument(fmt::format("batch \"{}\": {} at position {} is {}; allowed: 1..{}", text_, field,
                                        begin + 1, text_.substr(begin, end - begin), max));
  }

  Status segment(std::vector<RequestLengths>& requests) {
    int64_t count = 1, query_len = 0;
    if (at_digit()) SEXTANT_RETURN_IF_ERROR(number("count", false, kMaxRequests, count));
    if (!accept('q')) return error(position_, "\"q\" (a segment is [count]q<len>[k][s<kvlen>[k]])");
    SEXTANT_RETURN_IF_ERROR(number("query length", true, kMaxLength, query_len));
    int64_t seq_len = query_len;
    if (accept('s')) {
      const size_t begin = position_;
      SEXTANT_RETURN_IF_ERROR(number("KV length", true, kMaxLength, seq_len));
      if (seq_len < query_len)
        return invalid_argument(
            fmt::format("batch \"{}\": KV length at position {} is {}; allowed: >= {} (the query length)", text_,
                        begin + 1, seq_len, query_len));
    }
    if (static_cast<int64_t>(requests.size()) + count > kMaxRequests)
      return invalid_argument(fmt::format("batch \"{}\": {} requests; allowed: <= {}", text_,
                                          static_cast<int64_t>(requests.size()) + count, kMaxRequests));
    requests.insert(requests.end(), static_cast<size_t>(count),
                    {static_cast<int32_t>(query_len), static_cast<int32_t>(seq_len)});
    return Status::ok();
  }

  std::string_view text_;
  size_t position_ = 0;
};

}  // namespace

Result<std::vector<RequestLengths>> parse_batch(std::string_view text) { return BatchParser(text).parse(); }

}  // namespace sextant
