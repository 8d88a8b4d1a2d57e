// Every format of traces, as publishers write them and as editors leave them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "sextant/trace.h"

namespace sextant {
namespace {

class TempFile {
 public:
  explicit TempFile(const std::string& text) {
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    path_ = (std::filesystem::temp_directory_path() / ("sextant_format_" + test)).string();
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  Result<Trace> read(TraceOptions options = {}) const { return read_trace(path_, options); }
  std::string message(const TraceOptions& options = {}) const {
    const std::string text = read(options).status().message();
    return text.substr(0, path_.size()) == path_ ? text.substr(path_.size()) : text;
  }

 private:
  std::string path_;
};

// "azure: 0 374/44, 500 9/2"
std::string summary(const Result<Trace>& trace) {
  if (!trace) return trace.status().message();
  std::string text = trace->format + ":";
  for (const TraceRequest& r : trace->requests)
    text += " " + std::to_string(r.arrival_ms) + "," + std::to_string(r.input_length) + "/" +
            std::to_string(r.output_length);
  return text;
}

TEST(TraceFormats, ReadAzureOfEachYear) {
  EXPECT_EQ(summary(TempFile("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
                             "2024-05-10 00:00:01+00:00,300,7\n")
                        .read()),
            "azure: 0,2162/5 991,300/7");
  const auto images = TempFile(
                          "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
                          "2024-10-15 09:40:31.016000,3,2162,5\n")
                          .read();
  EXPECT_EQ(summary(images), "azure-2025: 0,2162/5");
  EXPECT_EQ(images->notes.size(), 1u);
}

TEST(TraceFormats, TakeMarksQuotesAndBlankLines) {
  EXPECT_EQ(
      summary(
          TempFile("\xEF\xBB\xBFTIMESTAMP,ContextTokens,GeneratedTokens\r\n\r\n2023-11-16 18:15:46,374,44\r\n").read()),
      "azure: 0,374/44");
  EXPECT_EQ(
      summary(TempFile("\n\"TIMESTAMP\",\"ContextTokens\",\"GeneratedTokens\"\n\"2023-11-16T18:15:46Z\",\"374\",44\n")
                  .read()),
      "azure: 0,374/44");
  EXPECT_EQ(
      summary(TempFile("\xEF\xBB\xBF\n{\"timestamp\": 0.0, \"input_length\": 10, \"output_length\": 5}\n\n"
                       "{\"timestamp\": 200.5, \"input_length\": 513, \"output_length\": 8, \"hash_ids\": [0, 1]}\n")
                  .read()),
      "mooncake: 0,10/5 200,513/8");
  // Across an offset: 10:00 in +02:00 is before 09:00 in UTC.
  EXPECT_EQ(summary(TempFile("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 09:00:00,1,1\n"
                             "2024-01-01 10:00:00+02:00,2,2\n")
                        .read()),
            "azure: 0,2/2 3600000,1/1");
}

TEST(TraceFormats, ReadBailianInSeconds) {
  const auto trace = TempFile(R"({"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 33, )"
                              R"("output_length": 132, "type": "text", "turn": 1, "hash_ids": [1089, 1090, 1091]})"
                              "\n"
                              R"({"chat_id": 160, "timestamp": 62, "input_length": 5, "output_length": 1})"
                              "\n")
                         .read();
  EXPECT_EQ(summary(trace), "bailian: 0,33/132 886,5/1");
  EXPECT_EQ(trace->hash_block_size, 16);
}

TEST(TraceFormats, ReadBurstGpt) {
  EXPECT_EQ(summary(TempFile("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                             "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,230,1317,\"API, log\"\n")
                        .read()),
            "burstgpt: 0,472/18 40500,1087/230");
}

TEST(TraceFormats, HashTokenIds) {
  std::string first = "{\"input_toks\": 20, \"output_toks\": 3, \"arrival_time_ns\": 1000000, \"input_tok_ids\": [";
  for (int i = 0; i < 20; ++i) first += (i > 0 ? "," : "") + std::to_string(i);
  std::string second = first;
  second.replace(second.size() - 2, 2, "99");
  const auto trace = TempFile(first + "]}\n" + second + "]}\n").read();
  ASSERT_EQ(summary(trace), "llmservingsim: 0,20/3 0,20/3");
  ASSERT_EQ(trace->requests[0].hash_ids.size(), 2u);
  EXPECT_EQ(trace->requests[0].hash_ids[0], trace->requests[1].hash_ids[0]);
  EXPECT_NE(trace->requests[0].hash_ids[1], trace->requests[1].hash_ids[1]);
}

TEST(TraceFormats, ReadConversationsThatShareTheirPast) {
  const std::string text(4000, 'x');
  const auto trace = TempFile("[{\"id\": \"a\", \"conversations\": [{\"from\": \"human\", \"value\": \"" + text +
                              "\"}, {\"from\": \"gpt\", \"value\": \"yes\"}, {\"from\": \"human\", \"value\": \"" +
                              text + "\"}, {\"from\": \"gpt\", \"value\": \"no\"}]}]")
                         .read();
  ASSERT_EQ(summary(trace), "sharegpt: 0,1000/1 2,2001/1");
  EXPECT_EQ(trace->requests[0].hash_ids[0], trace->requests[1].hash_ids[0]);
  EXPECT_NE(trace->requests[0].hash_ids[1], trace->requests[1].hash_ids[1]);  // ended with the first turn
  EXPECT_EQ(trace->notes.size(), 1u);
}

TEST(TraceFormats, ReadVllmsOwnFiles) {
  EXPECT_EQ(summary(TempFile("{\"prompt\": \"twelve chars\", \"output_tokens\": 7}\n{\"prompt\": \"abc\"}\n").read()),
            "vllm-custom: 0,3/7 0,1/256");
  EXPECT_EQ(
      summary(
          TempFile("{\n \"input_lens\": [5, 6],\n \"output_lens\": [1, 2],\n \"start_times\": [10.5, 11.0]}").read()),
      "vllm-result: 0,5/1 500,6/2");
}

TEST(TraceFormats, TakeDelaysWithinASession) {
  const auto trace = TempFile(R"({"session_id": "a", "timestamp": 100, "input_length": 5, "output_length": 1})"
                              "\n"
                              R"({"session_id": "a", "delay": 50, "input_length": 6, "output_length": 1})"
                              "\n"
                              R"({"session_id": "a", "delay": 50, "input_length": 7, "output_length": 1})")
                         .read();
  EXPECT_EQ(summary(trace), "mooncake: 0,5/1 50,6/1 100,7/1");
  EXPECT_EQ(trace->notes.size(), 1u);
}

TEST(TraceFormats, TakeOtherHashBlocks) {
  const TempFile file(R"({"timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [0, 1, 2]})");
  EXPECT_EQ(file.message(), ":1: hash_ids is 3 ids; allowed: 2 (one a block of 512 tokens, input_length 655)");
  TraceOptions options;
  options.hash_block_size = 256;
  EXPECT_EQ(file.read(options)->hash_block_size, 256);
  options.hash_block_size = -1;
  EXPECT_FALSE(file.read(options).is_ok());
}

TEST(TraceFormats, CanBeNamed) {
  const TempFile file(
      "{\"timestamp\": 2, \"input_length\": 5, \"output_length\": 1}\n"
      "{\"timestamp\": 3, \"input_length\": 5, \"output_length\": 1}\n");
  TraceOptions options;
  options.format = "bailian";
  EXPECT_EQ(summary(file.read(options)), "bailian: 0,5/1 1000,5/1");
  options.format = "mooncak";
  EXPECT_NE(
      file.message(options).find("trace format is \"mooncak\" (did you mean mooncake?); allowed: auto, azure-2025"),
      std::string::npos)
      << file.message(options);
  options.format = "azure";
  EXPECT_NE(file.message(options).find("allowed: one with a column TIMESTAMP"), std::string::npos);
}

TEST(TraceFormats, NameWhatIsBroken) {
  EXPECT_EQ(
      TempFile("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\nsoon,a,1,1,2,b\n").message(),
      ":2: Timestamp is soon; allowed: seconds, 0..1e12");
  EXPECT_EQ(TempFile("{\"timestamp\": \"now\", \"input_length\": 5, \"output_length\": 1}").message(),
            ":1: timestamp is \"now\"; allowed: a number, 0..9007199254740992");
  EXPECT_EQ(
      TempFile("{\"input_toks\": 2, \"output_toks\": 3, \"arrival_time_ns\": 1, \"input_tok_ids\": [1]}").message(),
      ":1: input_tok_ids is 1 ids; allowed: 2 (input_toks)");
  EXPECT_EQ(TempFile("[{\"conversations\": 3}]").message(),
            ": [0].conversations is {\"conversations\":3}; allowed: a list of turns");
  EXPECT_EQ(TempFile("{\"input_lens\": [1], \"output_lens\": []}").message(),
            ": output_lens is 0 numbers; allowed: 1 (as many as input_lens)");
  EXPECT_EQ(TempFile("{\"input_lens\": [1, 0], \"output_lens\": [1, 1]}").message(),
            ": input_lens[1] is 0; allowed: a whole number, 1..1073741824");
  // Named as what they are, though they are not whole: a result without details, conversations one a line.
  EXPECT_EQ(TempFile("{\"completed\": 2, \"request_throughput\": 3.5}").message(),
            ": input_lens is missing; allowed: a list of whole numbers");
  EXPECT_NE(TempFile("{\"conversations\": []}").message().find("allowed: a list of conversations"), std::string::npos);
  EXPECT_NE(TempFile("[" + std::string(100000, '[')).message().find("the file is not JSON"), std::string::npos);
  EXPECT_NE(TempFile("{\"timestamp\": " + std::string(100000, '[')).message().find("is not JSON"), std::string::npos);
}

TEST(TraceFormats, DatesAreDays) {
  const auto message = [](const std::string& time) {
    return TempFile("TIMESTAMP,ContextTokens,GeneratedTokens\n" + time + ",1,1\n").message();
  };
  EXPECT_EQ(message("2024-02-29 00:00:00"), "");
  EXPECT_EQ(message("2024-12-31 23:59:60+05:30"), "");
  for (const char* wrong :
       {"2023-02-29 00:00:00", "2024-04-31 00:00:00", "2024-01-01 00:00:00+24:00", "2024-01-01 00:00:00+01:60"})
    EXPECT_EQ(message(wrong),
              std::string(":2: TIMESTAMP is ") + wrong + "; allowed: YYYY-MM-DD HH:MM:SS[.fraction][+HH:MM]");
}

TEST(TraceFormats, RefuseWhatCanBeReadInTwoWays) {
  EXPECT_EQ(TempFile("TIMESTAMP,ContextTokens,GeneratedTokens,ContextTokens\n2024-01-01 00:00:00,1,1,9\n").message(),
            ":1: the header is \"TIMESTAMP,ContextTokens,GeneratedTokens,ContextTokens\"; allowed: one with a column "
            "ContextTokens, and not with several");
  EXPECT_EQ(TempFile("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,1,\"44\n").message(),
            ":2: the line is cut within quotes; allowed: quotes in pairs");
  EXPECT_EQ(TempFile(R"({"input_lens": [5, 6], "output_lens": [1, 2], "start_times": [0.5]})").message(),
            ": start_times is 1 numbers; allowed: 2 (as many as input_lens)");
  EXPECT_EQ(TempFile(R"({"input_lens": [5], "output_lens": [1], "start_times": 3})").message(),
            ": start_times is 3; allowed: a list of seconds");
  EXPECT_EQ(TempFile(R"({"input_lens": [5], "output_lens": [1]})").read()->notes.at(0),
            "the file has no start_times: all requests arrive at once");
}

TEST(TraceFormats, SayWhatAFileIsPackedBy) {
  for (const auto& [bytes, name] : std::vector<std::pair<std::string, std::string>>{
           {"\x1f\x8b\x08", "gzip"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"PK\x03\x04", "zip"}, {"BZh9", "bzip2"}})
    EXPECT_NE(TempFile(bytes + "\nrest").message().find("packed by " + name + "; allowed: the file that is in it"),
              std::string::npos)
        << name;
}

// What editors, spreadsheets and scripts make of a file: the same requests, or the line and the field.
TEST(TraceFormats, ChangedFilesAreReadTheSameOrRefused) {
  const std::string right = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,374,44\n";
  const auto changed = [&right](const std::string& from, const std::string& to) {
    std::string text = right;
    return TempFile(text.replace(text.find(from), from.size(), to)).read();
  };
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{{"374,44\n", "374,44"},
                                                                                 {"374,44\n", "374 , 44 \n"},
                                                                                 {"374,44\n", "\"374\",44\n\n\n"},
                                                                                 {" 00", "T00"},
                                                                                 {"00,374", "00.5Z,374"},
                                                                                 {"TIME", "\n \n\tTIME"}})
    EXPECT_EQ(summary(changed(from, to)), "azure: 0,374/44") << from << " -> " << to;
  for (const char* value :
       {"374.0", "3e2", "-374", "nan", "inf", "", "0", "99999999999999999999", "1073741825", "0x10", "374,44", "+374"})
    EXPECT_NE(summary(changed("374", value)).find(":2: "), std::string::npos) << value;
  for (const char* header : {"TIMESTAMP;ContextTokens;GeneratedTokens", "TIMESTAMP,ContextTokens", "\r",
                             "timestamp,contexttokens,generatedtokens"})
    EXPECT_FALSE(changed("TIMESTAMP,ContextTokens,GeneratedTokens", header).is_ok()) << header;
  EXPECT_EQ(summary(TempFile("GeneratedTokens,Extra,TIMESTAMP,ContextTokens\n44,x,2024-01-01 00:00:00,374\n").read()),
            "azure: 0,374/44");
}

TEST(TraceFormats, NothingCrashes) {
  const std::vector<std::string> texts = {
      "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 09:40:31.016000,3,2162,5\n",
      "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,\"a, b\"\n",
      "{\"chat_id\": 1, \"timestamp\": 61.1, \"input_length\": 33, \"output_length\": 2, \"hash_ids\": [1, 2, 3]}\n",
      "{\"session_id\": [1], \"delay\": 5, \"input_length\": 33, \"output_length\": 2}\n",
      "{\"input_toks\": 2, \"output_toks\": 3, \"arrival_time_ns\": 1, \"input_tok_ids\": [1, 2]}\n",
      "{\"prompt\": \"abc\", \"output_tokens\": 7}\n",
      "[{\"conversations\": [{\"from\": \"human\", \"value\": \"x\"}, {\"from\": \"gpt\", \"value\": \"y\"}]}]",
      "{\"input_lens\": [5, 6], \"output_lens\": [1, 2], \"start_times\": [1.5, null]}"};
  std::mt19937 bits(3);
  for (int round = 0; round < 3000; ++round) {
    std::string text = texts[bits() % texts.size()];
    for (unsigned change = bits() % 4; change > 0; --change) {
      const size_t at = bits() % text.size();
      if (bits() % 3 == 0)
        text.insert(at, texts[bits() % texts.size()].substr(0, bits() % 40));
      else
        text[at] = static_cast<char>(bits() % 256);
    }
    TraceOptions options;
    if (bits() % 3 == 0) options.format = trace_formats()[bits() % trace_formats().size()].name;
    const auto trace = TempFile(text).read(options);
    if (!trace) {
      EXPECT_FALSE(trace.status().message().empty());
      continue;
    }
    for (const TraceRequest& request : trace->requests) {
      EXPECT_GE(request.input_length, 1);
      EXPECT_GE(request.output_length, 0);
      EXPECT_GE(request.arrival_ms, 0);
    }
  }
  EXPECT_FALSE(read_trace("/dev/zero").is_ok());
}

TEST(TraceFormats, SayWhatIsMissingInSomeLines) {
  const auto notes_of = [](const std::string& text) {
    const auto trace = TempFile(text).read();
    EXPECT_TRUE(trace.is_ok()) << trace.status().message();
    return trace ? trace->notes : std::vector<std::string>{};
  };
  const std::string with = R"({"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]})"
                           "\n";
  const std::string without = R"({"timestamp": 0, "input_length": 600, "output_length": 5})"
                              "\n";
  EXPECT_TRUE(notes_of(with + with).empty());
  EXPECT_TRUE(notes_of(without + without).empty());
  EXPECT_EQ(notes_of(with + without),
            std::vector<std::string>{"1 of 2 requests have no hash_ids: taken as sharing nothing"});
  EXPECT_EQ(notes_of(R"({"input_lens": [9, 9], "output_lens": [2, 0], "start_times": [0, 1], "errors": ["", "gone"]})"),
            std::vector<std::string>{"1 requests failed there (errors): taken with what they generated"});
}

TEST(TraceFormats, ReadThePublishersOddities) {
  const std::string folder = SEXTANT_SHARED_DATA "/traces/oddities/";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there: its traces are not read";
  const auto read = [&](const std::string& name) { return summary(read_trace(folder + name)); };
  EXPECT_EQ(read("azure2024.csv"), "azure: 0,2162/5 100,300/7");
  EXPECT_EQ(read("azure2024_wholesecond.csv"), "azure: 0,2162/5");
  EXPECT_EQ(read("azure2025_lmm.csv"), "azure-2025: 0,2162/5");
  EXPECT_EQ(read("azure_blankfirst.csv"), "azure: 0,374/44");
  EXPECT_EQ(read("azure_bom_crlf.csv"), "azure: 0,374/44");
  EXPECT_EQ(read("bailian.jsonl"), "bailian: 0,33/132");
  EXPECT_EQ(read("moon_blankfirst.jsonl"), "mooncake: 0,600/5");
  EXPECT_EQ(read("moon_bom.jsonl"), "mooncake: 0,600/5");
  EXPECT_EQ(read("moon_floatms.jsonl"), "mooncake: 0,10/5 200,513/8");
  EXPECT_EQ(read("neg.jsonl"), "mooncake: 0,600/2 0,600/2");
  EXPECT_EQ(read("out0.jsonl"), "mooncake: 0,1/0 0,512/1 0,513/0 0,16/1");
  EXPECT_NE(read("aiperf_doc_example.jsonl").find(":1: hash_ids is 3 ids; allowed: 2 (one a block of 512"),
            std::string::npos);
}

}  // namespace
}  // namespace sextant
