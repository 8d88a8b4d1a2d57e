#include "sextant/trace.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <unordered_set>

namespace sextant {
namespace {

// A file that lives as long as the test; its name is short in messages.
class TraceFile {
 public:
  explicit TraceFile(const std::string& text) {
    path_ = (std::filesystem::temp_directory_path() /
             ("sextant_trace_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name())))
                .string();
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TraceFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }
  Result<Trace> read(int64_t max_requests = 0) const { return read_trace(path_, max_requests); }
  // The message without the folder.
  std::string message() const {
    const std::string text = read().status().message();
    return text.substr(0, path_.size()) == path_ ? text.substr(path_.size()) : text;
  }

 private:
  std::string path_;
};

constexpr char kAzure[] =
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109";
constexpr char kMooncake[] =
    "{\"timestamp\": 5, \"input_length\": 1025, \"output_length\": 7, \"hash_ids\": [0, 1, 2]}\n"
    "{\"timestamp\": 9, \"input_length\": 10, \"output_length\": 1, \"hash_ids\": [0]}\n";

TEST(Trace, ReadsAzureWithoutAFinalNewline) {
  const TraceFile file(kAzure);
  const Trace trace = file.read().value();
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[0].arrival_ms, 0);
  EXPECT_EQ(trace.requests[1].arrival_ms, 50995 - 46680);
  EXPECT_EQ(trace.requests[1].input_length, 396);
  EXPECT_EQ(trace.requests[1].output_length, 109);
  EXPECT_TRUE(trace.requests[0].hash_ids.empty());
}

TEST(Trace, ReadsMooncake) {
  const TraceFile file(kMooncake);
  const Trace trace = file.read().value();
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[0].hash_ids, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(trace.requests[1].arrival_ms, 4);
  EXPECT_EQ(file.read(1)->requests.size(), 1u);
}

TEST(Trace, SortsByArrivalAcrossMidnight) {
  const TraceFile file("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-03-01 00:00:00,2,1\n2024-02-29 23:59:59.5,1,1\n");
  const Trace trace = file.read().value();
  EXPECT_EQ(trace.requests[0].input_length, 1);
  EXPECT_EQ(trace.requests[1].arrival_ms, 500);
}

TEST(Trace, NamesBrokenAzureLines) {
  const std::string header = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n";
  EXPECT_EQ(TraceFile(header + "2023-11-16 18:15:47,many,1\n").message(),
            ":3: ContextTokens is many; allowed: a whole number, 1..1073741824");
  EXPECT_EQ(TraceFile(header + "2023-11-16 18:15:47,0,1\n").message(),
            ":3: ContextTokens is 0; allowed: a whole number, 1..1073741824");
  EXPECT_EQ(TraceFile(header + "2023-11-16 18:15:47,5,-3\n").message(),
            ":3: GeneratedTokens is -3; allowed: a whole number, 0..1073741824");
  EXPECT_EQ(TraceFile(header + "2023-11-16 18:15:47,5,99999999999999999999\n").message(),
            ":3: GeneratedTokens is 99999999999999999999; allowed: a whole number, 0..1073741824");
  EXPECT_EQ(TraceFile(header + "2023-11-16 18:15:47,5\n").message(),
            ":3: the number of fields is 2; allowed: 3 (TIMESTAMP,ContextTokens,GeneratedTokens)");
  EXPECT_EQ(TraceFile(header + "yesterday,5,5\n").message(),
            ":3: TIMESTAMP is yesterday; allowed: YYYY-MM-DD HH:MM:SS[.fraction][+HH:MM]");
  EXPECT_EQ(TraceFile(header + "2023-13-16 18:15:47,5,5\n").message(),
            ":3: TIMESTAMP is 2023-13-16 18:15:47; allowed: YYYY-MM-DD HH:MM:SS[.fraction][+HH:MM]");
  EXPECT_EQ(TraceFile(header + "2023-11-16 18:15:47,,5\n").message(),
            ":3: ContextTokens is empty; allowed: a whole number, 1..1073741824");
}

TEST(Trace, NamesBrokenMooncakeLines) {
  const std::string good = kMooncake;
  EXPECT_EQ(TraceFile(good + "{\"timestamp\": 5, \"input_len\n{\"timestamp\": 1}\n").message(),
            ":3: the line is not JSON; allowed: one JSON object a line");
  EXPECT_EQ(TraceFile(good + "{\"timestamp\": 5, \"output_length\": 3}").message(),
            ":3: input_length is missing; allowed: a whole number, 1..1073741824");
  EXPECT_EQ(TraceFile(good + "{\"timestamp\": 5, \"input_length\": \"10\", \"output_length\": 3}").message(),
            ":3: input_length is \"10\"; allowed: a whole number, 1..1073741824");
  EXPECT_EQ(TraceFile(good + "{\"timestamp\": 5, \"input_length\": 1.5, \"output_length\": 3}").message(),
            ":3: input_length is 1.5; allowed: a whole number, 1..1073741824");
  EXPECT_EQ(
      TraceFile(good + "{\"timestamp\": 18446744073709551615, \"input_length\": 1, \"output_length\": 3}").message(),
      ":3: timestamp is 18446744073709551615; allowed: a number, 0..9007199254740992");
  EXPECT_EQ(
      TraceFile(good + "{\"timestamp\": 5, \"input_length\": 513, \"output_length\": 3, \"hash_ids\": [1]}").message(),
      ":3: hash_ids is 1 ids; allowed: 2 (one a block of 512 tokens, input_length 513)");
  EXPECT_EQ(
      TraceFile(good + "{\"timestamp\": 5, \"input_length\": 5, \"output_length\": 3, \"hash_ids\": [null]}").message(),
      ":3: hash_ids[0] is null; allowed: a whole number");
  EXPECT_EQ(TraceFile(good + "[1, 2]\n").message(), ":3: the line is [1,2]; allowed: one JSON object a line");
}

TEST(Trace, SaysWhenAFileIsCut) {
  const std::string text = kMooncake;
  for (size_t length = 1; length < text.size(); ++length) {
    const TraceFile file(text.substr(0, length));
    const auto trace = file.read();
    if (trace.is_ok()) continue;  // cut at a line's end
    EXPECT_NE(trace.status().message().find("is the file cut?"), std::string::npos) << trace.status().message();
  }
}

TEST(Trace, RefusesWhatIsNoTrace) {
  EXPECT_EQ(read_trace("/nowhere/at/all").status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(read_trace("/tmp").is_ok());
  EXPECT_FALSE(read_trace("/tmp", -1).is_ok());
  EXPECT_NE(TraceFile("").message().find("holds 0 requests"), std::string::npos);
  EXPECT_NE(TraceFile("TIMESTAMP,ContextTokens,GeneratedTokens\n").message().find("holds 0 requests"),
            std::string::npos);
  EXPECT_NE(TraceFile("a\x1b[2J\x01\xff\n").message().find("the first line is \"a\\x1b[2J\\x01\\xff\"; allowed"),
            std::string::npos);
  EXPECT_NE(TraceFile("hello\n").message().find("the first line is \"hello\"; allowed: \"TIMESTAMP,"),
            std::string::npos);
  EXPECT_FALSE(TraceFile(std::string("\0\xff\xfe{]", 6)).read().is_ok());
}

TEST(SyntheticTrace, HasTheDistributionsOfTheRealOne) {
  const Trace trace = make_synthetic_trace(12031);
  std::unordered_set<int64_t> seen;
  double blocks = 0, hits = 0, input = 0, output = 0;
  for (const TraceRequest& request : trace.requests) {
    input += request.input_length;
    output += request.output_length;
    ASSERT_EQ(static_cast<int64_t>(request.hash_ids.size()), (request.input_length + 511) / 512);
    for (const int64_t id : request.hash_ids) {
      ++blocks;
      hits += seen.insert(id).second ? 0 : 1;
    }
  }
  EXPECT_NEAR(hits / blocks, 0.366, 0.01);
  EXPECT_NEAR(input / 12031, 12035, 600);
  EXPECT_NEAR(output / 12031, 343, 15);
}

TEST(SyntheticTrace, IsTheSameEverywhereAndGrowsFromTheFront) {
  const Trace few = make_synthetic_trace(40), more = make_synthetic_trace(80);
  for (size_t i = 0; i < 40; ++i) {
    EXPECT_EQ(few.requests[i].input_length, more.requests[i].input_length);
    EXPECT_EQ(few.requests[i].hash_ids, more.requests[i].hash_ids);
  }
  EXPECT_NE(make_synthetic_trace(40, 5).requests[7].input_length, few.requests[7].input_length);
}

TEST(ShrinkTrace, KeepsTheBlocks) {
  Trace trace = make_synthetic_trace(100);
  const Trace whole = trace;
  ASSERT_TRUE(shrink_trace(trace, 16).is_ok());
  EXPECT_EQ(trace.hash_block_size, 32);
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(trace.requests[i].input_length, (whole.requests[i].input_length + 15) / 16);
    EXPECT_EQ(static_cast<int64_t>(trace.requests[i].hash_ids.size()), (trace.requests[i].input_length + 31) / 32);
  }
  EXPECT_FALSE(shrink_trace(trace, 3).is_ok());
  EXPECT_FALSE(shrink_trace(trace, 0).is_ok());
}

}  // namespace
}  // namespace sextant
