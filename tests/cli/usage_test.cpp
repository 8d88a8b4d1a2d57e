#include <fstream>

#include "cli/run_cli.h"

namespace sextant::testing {
namespace {

TEST(Usage, ShowsVersionAndHelp) {
  EXPECT_EQ(run_cli("--version").out.rfind("sextant ", 0), 0u);
  for (const char* verb : {"", "backends", "select", "size", "bench", "replay", "verify", "doctor"}) {
    const CliRun run = run_cli(std::string(verb) + " --help");
    EXPECT_EQ(run.exit_code, 0) << verb;
    EXPECT_NE(run.out.find("Examples:"), std::string::npos) << verb;
  }
}

TEST(Usage, RefusesWrongArgumentsAndSuggests) {
  const CliRun nothing = run_cli("");
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_TRUE(nothing.out.empty());
  const CliRun verb = run_cli("bnch");
  EXPECT_EQ(verb.exit_code, 2);
  EXPECT_NE(verb.err.find("did you mean bench?"), std::string::npos) << verb.err;
  const CliRun option = run_cli("bench --modle x");
  EXPECT_EQ(option.exit_code, 2);
  EXPECT_NE(option.err.find("did you mean --model?"), std::string::npos) << option.err;
  EXPECT_EQ(run_cli("select").exit_code, 2);
  EXPECT_EQ(run_cli("bench --repeats many").exit_code, 2);
}

TEST(Usage, LogsPlansAndRuns) {
  const std::string path = ::testing::TempDir() + "/sextant_log.jsonl";
  ASSERT_EQ(
      run_cli("--log " + path + " bench --device cpu --batch q8 --repeats 1 --no-check --model SmolLM2-135M").exit_code,
      0);
  std::ifstream file(path);
  int plans = 0, runs = 0;
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json event = nlohmann::json::parse(line);
    (event["event"] == "plan" ? plans : runs) += 1;
    EXPECT_GT(event["host_us"].get<double>(), 0);
  }
  EXPECT_GE(plans, 4);
  EXPECT_GE(runs, 4);
  const CliRun unwritable = run_cli("--log /nowhere/log backends");
  EXPECT_EQ(unwritable.exit_code, 2);
  EXPECT_EQ(unwritable.err, "sextant: --log is \"/nowhere/log\"; allowed: a file that can be written, or -\n");
}

TEST(Usage, NamesFieldValueAndWhatIsAllowed) {
  const auto message_of = [](const std::string& arguments) {
    const CliRun run = run_cli(arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments;
    EXPECT_TRUE(run.out.empty()) << run.out;
    return run.err;
  };
  EXPECT_EQ(message_of("select --model Llama-3.1-8B --device gpu"),
            "sextant: --device is \"gpu\"; allowed: auto, cpu, cuda[:index], hip[:index], hip-emulated\n");
  EXPECT_EQ(message_of("select --model Llama-3.1-8B --device cuda:x"),
            "sextant: --device is \"cuda:x\"; allowed after the colon: a device index from 0\n");
  EXPECT_EQ(message_of("select --model Llama-3.1-8B --device cpu --dtype int8"),
            "sextant: --dtype is \"int8\"; allowed: auto, fp32, fp16, bf16\n");
  EXPECT_EQ(message_of("select --model Llama-3.1-8B --device cpu --block-size 0"),
            "sextant: --block-size is 0; allowed: >= 1\n");
  EXPECT_NE(message_of("select --model Llama-3.1-8B --device cpu --kv-cache-dtype fp7")
                .find("--kv-cache-dtype is \"fp7\"; allowed: bf16, auto, fp8,"),
            std::string::npos);
  EXPECT_NE(message_of("select --model Lama-3.1-8B --device cpu").find("(did you mean Llama-3.1-8B?)"),
            std::string::npos);
  EXPECT_NE(message_of("select --model nowhere/config.json --device cpu").find("cannot be opened"), std::string::npos);
  EXPECT_NE(message_of("bench --device cpu --batch q2ks1k").find("KV length at position 5 is 1024; allowed: >= 2048"),
            std::string::npos);
  EXPECT_NE(message_of("bench --device cpu --backends TRITON_ATN").find("(did you mean TRITON_ATTN?)"),
            std::string::npos);
  for (const char* list : {"bench --batch q1,,q2", "bench --batch q1, --batch q2", "verify --backends ,TRITON_ATTN",
                           "replay --dry-run --model \"\""})
    EXPECT_NE(message_of(list).find("is empty; allowed: words with a comma between two"), std::string::npos) << list;
  EXPECT_NE(message_of("bench --batch q1,,q2").find("--batch is \"q1,,q2\", whose word 2 is empty"), std::string::npos);
  EXPECT_EQ(
      message_of("frobnicate --json"),
      "sextant: the verb is \"frobnicate\"; allowed: backends, select, size, bench, replay, verify, doctor, and in the "
      "Python package: report\nsextant: see sextant --help\n");
  EXPECT_EQ(message_of("").rfind("sextant: the verb is missing; allowed: backends, select,", 0), 0u);
  EXPECT_EQ(message_of("select --model Llama-3.1-8B --block-size x"),
            "sextant: --block-size is \"x\"; allowed: a whole number\nsextant: see sextant select --help\n");
  EXPECT_EQ(message_of("bench --seconds soon"),
            "sextant: --seconds is soon; allowed: 0..3600\nsextant: see sextant bench --help\n");
  EXPECT_EQ(message_of("bench --seconds nan"),
            "sextant: --seconds is nan; allowed: 0..3600\nsextant: see sextant bench --help\n");
  EXPECT_EQ(message_of("replay --requests -4"),
            "sextant: --requests is -4; allowed: 0..10000000\nsextant: see sextant replay --help\n");
  EXPECT_EQ(message_of("replay --device cpu --layers 0"), "sextant: --layers is 0; allowed: >= 1\n");
  EXPECT_EQ(message_of("select --model Llama-3.1-8B --query-len -5"),
            "sextant: --query-len is -5; allowed: 0..1000000000\nsextant: see sextant select --help\n");
  EXPECT_EQ(message_of("select --model Llama-3.1-8B --context-len -1"),
            "sextant: --context-len is -1; allowed: 0..1000000000\nsextant: see sextant select --help\n");
  EXPECT_EQ(message_of("size --model Llama-3.1-8B --memory lots"),
            "sextant: --memory is \"lots\"; allowed: a number with K, M, G or T (powers of 1024), up to 1024T\n");
  EXPECT_EQ(message_of("size --model Llama-3.1-8B --memory 16G --weights 16G"),
            "sextant: --weights is 16G; allowed: less than --memory (16G)\n");
  EXPECT_EQ(message_of("size --model Llama-3.1-8B --memory 80G --tp 3"),
            "sextant: tensor parallel is 3; allowed: a divisor of num_attention_heads (32)\n");
  EXPECT_NE(message_of("replay --dry-run --trace /dev/null --trace-format azur").find("holds 0 requests"),
            std::string::npos);
  EXPECT_NE(message_of("replay --device cpu --shrink 7").find("shrink is 7; allowed: a divisor of 512"),
            std::string::npos);
  EXPECT_NE(
      message_of("replay --dry-run --trace /nowhere.csv").find("trace is \"/nowhere.csv\", which cannot be opened"),
      std::string::npos);
  EXPECT_NE(message_of("replay --dry-run --max-num-seqs 0").find("max_num_seqs is 0; allowed: >= 1"),
            std::string::npos);
}

// What `doctor` says about a device that cannot be used here is what opening it says.
// Said at once, before anything is measured or allocated.
TEST(Usage, RefusesBatchesThatDoNotFitIntoMemory) {
  const CliRun run = run_cli("bench --device cpu --batch q1,100000q1s1000k");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(run.out.empty()) << run.out;
  EXPECT_NE(
      run.err.find("batch \"100000q1s1000k\" of Llama-3.1-8B needs 390626.5 GiB for one layer; allowed: what fits "),
      std::string::npos)
      << run.err;
}

TEST(Usage, DoctorSaysWhyADeviceIsMissing) {
  const nlohmann::json devices = run_cli("doctor --json").json()["devices"];
  ASSERT_EQ(devices.size(), 4u);
  for (const nlohmann::json& device : devices) {
    const std::string kind = device["kind"], reason = device["reason"];
    EXPECT_EQ(device["available"].get<bool>(), reason.empty()) << device;
    EXPECT_EQ(device["available"].get<bool>(), !device["devices"].empty()) << device;
    if (device["available"].get<bool>()) continue;
    const CliRun run = run_cli("select --model Llama-3.1-8B --device " + kind);
    EXPECT_EQ(run.exit_code, 1);
    EXPECT_NE(run.err.find(reason), std::string::npos) << run.err;
  }
}

TEST(Usage, FailsWhereADeviceIsMissing) {
  const CliRun run = run_cli("select --model Llama-3.1-8B --device hip");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("device hip is not available"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace sextant::testing
