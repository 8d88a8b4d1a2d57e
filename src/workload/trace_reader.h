// What the readers of the trace formats share. Each format is a file; trace_formats.cpp lists them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>

#include "sextant/trace.h"

namespace sextant {

inline constexpr int64_t kMaxTraceTokens = 1 << 30;  // a request longer than that is a broken line

// `where` is "file:line". `last` says that no line follows, so a broken one may be a cut one.
struct TraceLine {
  std::string_view text;
  std::string where;
  bool last = false;
};

// "file:line: field is value; allowed: ...".
Status trace_error(const TraceLine& line, std::string_view field, std::string_view value, std::string_view allowed);

// Reads the lines of one file in order. arrival_ms is absolute here; the caller subtracts the first one.
class LineReader {
 public:
  virtual ~LineReader() = default;
  // The first line that is not blank, where it is a header.
  virtual Status header(const TraceLine& line) = 0;
  virtual Result<TraceRequest> request(const TraceLine& line) = 0;
  virtual bool has_header() const = 0;
  // What there is to say after the last line.
  virtual void finish(Trace& trace) { (void)trace; }
};

// Which columns of a CSV file hold what. An empty name: the format has none.
struct CsvColumns {
  std::string_view time, input, output, images;
  bool time_in_seconds = false;  // a number; otherwise a date
};
std::unique_ptr<LineReader> make_csv_reader(const CsvColumns& columns);
// Fields of a CSV line, quotes taken off; an unfinished quote ends with the line.
std::vector<std::string> csv_fields(std::string_view line);

// Where a JSON line keeps what. Times are multiplied to milliseconds.
struct JsonFields {
  std::string_view time, input, output, ids;
  double milliseconds = 1;
  int32_t hash_block_size = 512;
  std::string_view tokens;  // of the prompt, as numbers: blocks of them are hashed
  std::string_view prompt;  // as text: its length is guessed
};
std::unique_ptr<LineReader> make_json_reader(const JsonFields& fields, int32_t hash_block_size);

// Files that are one JSON value.
Status read_sharegpt(const nlohmann::json& file, const TraceLine& line, int64_t max_requests, Trace& trace);
Status read_vllm_result(const nlohmann::json& file, const TraceLine& line, int64_t max_requests, Trace& trace);

// A whole number within a JSON object.
Status read_whole(const TraceLine& line, const nlohmann::json& object, std::string_view field, int64_t min, int64_t max,
                  int64_t& value);

// Text without a tokenizer: English and code come to about four characters a token.
inline constexpr int64_t kCharactersAToken = 4;
int64_t guessed_tokens(std::string_view text);
inline constexpr char kGuessNote[] = "lengths are guessed from text: 4 characters a token";

// "YYYY-MM-DD HH:MM:SS[.fraction][+HH:MM]" to milliseconds.
inline constexpr char kTimestampForm[] = "YYYY-MM-DD HH:MM:SS[.fraction][+HH:MM]";
bool read_timestamp(std::string_view text, int64_t& milliseconds);

// The format of a file, by its first line that is not blank; `name` "auto" or one of trace_formats().
struct OpenedFormat {
  TraceFormat format;
  int32_t hash_block_size = 512;
  std::unique_ptr<LineReader> lines;  // or
  Status (*whole)(const nlohmann::json&, const TraceLine&, int64_t, Trace&) = nullptr;
};
Result<OpenedFormat> open_format(const TraceLine& first, const TraceOptions& options);

}  // namespace sextant
