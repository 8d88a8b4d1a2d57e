// examples/mini_engine.cpp as a user runs it: the recorded story, several requests at once, and what it refuses.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "support/sanitizers.h"

namespace {

const std::filesystem::path kFolder = std::filesystem::path(SEXTANT_SHARED_DATA) / "models" / "stories260K";
const std::string kModel = (kFolder / "stories260K.gguf").string();

std::string read_whole(const std::filesystem::path& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

struct Outcome {
  int exit_code = -1;
  std::string out, err;
  // The count before `words` in the summary.
  int64_t count(const std::string& words) const {
    std::smatch match;
    return std::regex_search(err, match, std::regex("([0-9]+) " + words)) ? std::stoll(match[1]) : -1;
  }
};

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::temp_directory_path() / ("sextant_mini_engine_" + std::to_string(getpid()) + "_" + name);
}

Outcome run(const std::string& arguments) {
  const auto out = scratch("out"), err = scratch("err");
  const std::string command = "env -u VLLM_ATTENTION_BACKEND '" SEXTANT_MINI_ENGINE "' " + arguments + " >" +
                              out.string() + " 2>" + err.string();
  const int status = std::system(command.c_str());
  Outcome outcome{WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_whole(out), read_whole(err)};
  std::filesystem::remove(out);
  std::filesystem::remove(err);
  return outcome;
}

std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

struct Where {
  const char* backend;
  const char* device;
  bool emulated() const { return std::string(device) == "hip-emulated"; }
  std::string arguments() const { return std::string(" --backend ") + backend + " --device " + device; }
};

class MiniEngine : public ::testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "needs the shared data: no file " << kModel;
    if (GetParam().emulated()) SKIP_UNDER_SANITIZERS();
  }
};

TEST_P(MiniEngine, TellsTheRecordedStory) {
  const bool emulated = GetParam().emulated();  // where 200 tokens take seconds
  const Outcome outcome = run(kModel + GetParam().arguments() + (emulated ? " --max-new-tokens 50" : ""));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string told = trimmed(outcome.out), recorded = trimmed(read_whole(kFolder / "expected_greedy.txt"));
  EXPECT_EQ(told, emulated ? recorded.substr(0, told.size()) : recorded);
  EXPECT_GT(told.size(), 80U);
}

// Requests of different lengths with a shared beginning, in chunks and with more of them than run at once: each text is
// what the request gives alone.
TEST_P(MiniEngine, TogetherAsAlone) {
  const std::string lily = "Once upon a time, there was a little girl named Lily. She loved to play outside";
  const std::vector<std::string> prompts = {lily + " in the park. One day", lily, "Tom had",
                                            lily + " with a dog",           "",   "The sun"};
  std::string all;
  for (const std::string& prompt : prompts) all += " --prompt '" + prompt + "'";
  static const std::string alone = [&] {
    std::string texts;
    for (const std::string& prompt : prompts)
      texts += run(kModel + " --backend TRITON_ATTN --max-new-tokens 24 --prompt '" + prompt + "'").out;
    return texts;
  }();
  const std::string common = kModel + GetParam().arguments() + " --max-new-tokens 24 --block-size 4" + all;
  const Outcome chunked = run(common + " --max-num-batched-tokens 7 --max-num-seqs 3");
  ASSERT_EQ(chunked.exit_code, 0) << chunked.err;
  EXPECT_EQ(chunked.out, alone);
  EXPECT_EQ(chunked.count("requests"), 6) << chunked.err;
  // Three prompts begin with the same six blocks of four tokens; the later two find them.
  EXPECT_EQ(chunked.count("of [0-9]+ prompt blocks from the prefix cache"), 12) << chunked.err;
  EXPECT_EQ(chunked.count("preemptions"), 0) << chunked.err;

  const Outcome scarce = run(common + " --num-blocks 26");  // of what six requests would need
  ASSERT_EQ(scarce.exit_code, 0) << scarce.err;
  EXPECT_EQ(scarce.out, alone);
  EXPECT_GT(scarce.count("preemptions"), 0) << scarce.err;
}

// The command of docs/get-started/cpp.md.
TEST(MiniEngineDocs, TheirCommandRuns) {
  if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "needs the shared data: no file " << kModel;
  const std::string page = R"(
mini_engine stories260K.gguf --backend ROCM_AITER_FA --device cpu --prompt "Once upon a time" --prompt "One day"
)";
  const Outcome outcome =
      run(kModel + page.substr(page.find(" --backend"), page.rfind('\n') - page.find(" --backend")));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.count("requests"), 2) << outcome.err;
}

INSTANTIATE_TEST_SUITE_P(All, MiniEngine,
                         ::testing::Values(Where{"TRITON_ATTN", "cpu"}, Where{"ROCM_AITER_UNIFIED_ATTN", "cpu"},
                                           Where{"ROCM_ATTN", "cpu"}, Where{"ROCM_AITER_FA", "cpu"},
                                           Where{"TRITON_ATTN", "hip-emulated"},
                                           Where{"ROCM_AITER_UNIFIED_ATTN", "hip-emulated"},
                                           Where{"ROCM_ATTN", "hip-emulated"}, Where{"ROCM_AITER_FA", "hip-emulated"}),
                         [](const auto& test) {
                           std::string name = std::string(test.param.backend) + "_" + test.param.device;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

void expect_refused(const std::string& arguments, const std::string& words) {
  const Outcome outcome = run(arguments);
  EXPECT_NE(outcome.exit_code, 0) << arguments;
  EXPECT_LT(outcome.exit_code, 128) << arguments;
  EXPECT_TRUE(outcome.out.empty()) << outcome.out;
  EXPECT_NE(outcome.err.find(words), std::string::npos) << arguments << ": " << outcome.err;
}

TEST(MiniEngineErrors, NameWhatIsWrong) {
  expect_refused("/no/such.gguf", "no file \"/no/such.gguf\"");
  expect_refused(std::filesystem::temp_directory_path().string(), "no file");
  expect_refused("x.gguf --device tpu", "device is \"tpu\"; allowed: cpu, cuda, hip, hip-emulated");
  expect_refused("x.gguf --block-size 0", "--block-size");
  expect_refused("x.gguf --no-such-option", "--no-such-option");
  const auto write = [](const char* name, const std::string& bytes) {
    std::ofstream(scratch(name), std::ios::binary) << bytes;
    return scratch(name).string();
  };
  const std::string text = write("text", "Once upon a time");
  expect_refused(text, "is not a GGUF file");
  const std::string old = write("old", std::string("GGUF\1\0\0\0", 8));
  expect_refused(old, "version is 1; allowed: 2, 3");
  const std::string counts = write("counts", std::string("GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0", 24));
  expect_refused(counts, "is truncated or damaged: it has 24 bytes and ends within metadata entry 0");
  for (const char* name : {"text", "old", "counts"}) std::filesystem::remove(scratch(name));
}

TEST(MiniEngineErrors, NameWhatIsWrongWithTheModel) {
  if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "needs the shared data: no file " << kModel;
  expect_refused(kModel + " --backend ROCM_AITER_FO", "did you mean ROCM_AITER_FA?");
  expect_refused(kModel + " --backend TRITON_MLA", "cannot serve this");
  expect_refused(kModel + " --num-blocks 3", "--num-blocks is 3; allowed: at least 13");
  expect_refused(kModel + " --max-new-tokens 3000", "allowed: 2048 together");
  // Wherever the file ends, an error says so.
  const std::string whole = read_whole(kModel);
  const auto path = scratch("cut");
  for (const size_t bytes :
       {size_t{3}, size_t{7}, size_t{30}, size_t{5000}, size_t{14000}, size_t{500000}, whole.size() - 1}) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, bytes);
    expect_refused(path.string(), bytes == 3 ? "is not a GGUF file" : "is truncated or damaged");
  }
  std::filesystem::remove(path);
}

}  // namespace
