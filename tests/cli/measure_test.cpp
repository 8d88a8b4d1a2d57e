// bench, replay and verify on small work. Figures are checked for consistency, never for speed.
#include "cli/run_cli.h"
#include "support/sanitizers.h"

namespace sextant::testing {
namespace {

using nlohmann::json;

std::string tiny_model() {
  return write_file(
      "tiny.json",
      R"({"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "dtype": "bfloat16"})");
}
std::string tiny_mla() {
  return write_file("tiny_mla.json",
                    R"({"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2, "kv_lora_rank": 64,
      "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "dtype": "bfloat16"})");
}

TEST(Bench, MeasuresAndChecksEveryBackend) {
  const CliRun run = run_cli("bench --device cpu --json --wait 0 --repeats 2 --batch 2q33_q1s100 --model " +
                             tiny_model() + "," + tiny_mla());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json bench = run.json();
  EXPECT_TRUE(bench["machine"]["cpu"].is_string());
  EXPECT_GT(bench["ceilings"]["tflops"].get<double>(), 0);
  EXPECT_GT(bench["ceilings"]["gbs"].get<double>(), 0);
  ASSERT_EQ(bench["results"].size(), 6u) << bench["skipped"];
  int selected = 0;
  for (const json& result : bench["results"]) {
    EXPECT_EQ(result["device"], "cpu");
    EXPECT_EQ(result["batch"], "2q33_q1s100");
    EXPECT_GT(result["ms_median"].get<double>(), 0);
    EXPECT_GT(result["checked_rows"].get<int>(), 0);
    EXPECT_LE(result["error"].get<double>(), result["error_allowed"].get<double>());
    EXPECT_GT(result["fraction_of_ceiling"].get<double>(), 0);
    const double ceiling = result["ceiling"] == "read"
                               ? result["gbs"].get<double>() / bench["ceilings"]["gbs"].get<double>()
                               : result["tflops"].get<double>() / result["ceiling_tflops"].get<double>();
    EXPECT_NEAR(result["fraction_of_ceiling"].get<double>(), ceiling, 1e-6 * ceiling);
    EXPECT_GE(result["others_busy"].get<double>(), 0);
    EXPECT_LE(result["others_busy"].get<double>(), bench["others_busy"].get<double>());
    selected += result["selected"].get<bool>() ? 1 : 0;
  }
  EXPECT_EQ(selected, 2);  // one of the MHA backends, one of the MLA backends
  // 4 heads, 64 + 64 wide; 2 x 33 x 34 / 2 + 100 pairs; 2 KV heads x 128 elements x 2 bytes a key.
  const json& mha = bench["results"][0];
  const double seconds = mha["ms_median"].get<double>() / 1000;
  EXPECT_NEAR(mha["tflops"].get<double>() * 1e12 * seconds, 2.0 * 128 * 4 * (2 * 33 * 34 / 2 + 100), 1);
  EXPECT_NEAR(mha["gbs"].get<double>() * 1e9 * seconds, (2 * 33 + 100) * 2 * 128 * 2, 1);
}

TEST(Bench, ServesOtherTypes) {
  const std::string rest = " --device cpu --json --wait 0 --repeats 1 --batch q20s50 --model " + tiny_model();
  for (const char* option : {"--dtype fp32", "--dtype fp16", "--kv-cache-dtype fp8",
                             "--kv-cache-dtype int8_per_token_head", "--block-size 3"}) {
    const CliRun run = run_cli(std::string("bench ") + option + rest);
    EXPECT_EQ(run.exit_code, 0) << option << ": " << run.err;
    EXPECT_FALSE(run.json()["results"].empty()) << option;
  }
}

TEST(Bench, RatesEachDtypeByItsOwnUnit) {
  const std::string fp32_model = write_file(
      "tiny32.json",
      R"({"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "dtype": "float32"})");
  const CliRun run =
      run_cli("bench --device cpu --json --no-check --wait 0 --repeats 1 --batch q256 --backends TRITON_ATTN --model " +
              tiny_model() + "," + fp32_model);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json bench = run.json();
  ASSERT_EQ(bench["results"].size(), 2u);
  EXPECT_EQ(bench["results"][0]["ceiling_tflops"], bench["ceilings"]["tflops"]);
  EXPECT_NE(bench["results"][1]["ceiling_tflops"], bench["ceilings"]["tflops"]);
  EXPECT_EQ(bench["results"][1]["ceiling"], "fp32 multiply-add");
}

TEST(Bench, WaitsNoLongerThanItMay) {
  const CliRun run =
      run_cli("bench --device cpu --json --no-check --wait 0.3 --repeats 1 --batch q8 --backends TRITON_ATTN --model " +
              tiny_model());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_GE(run.json()["waited_seconds"].get<double>(), 0.1);  // one look
  EXPECT_LT(run.json()["waited_seconds"].get<double>(), 3);
}

TEST(Replay, DrivesAllBackendsToTheSameResult) {
  const CliRun run = run_cli("replay --device cpu --json --requests 6 --shrink 64 --seconds 0 --layers 2 --model " +
                             tiny_model() + "," + tiny_mla());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json replay = run.json();
  EXPECT_EQ(replay["requests"], 6);
  EXPECT_EQ(replay["finished_requests"], 6);
  EXPECT_GT(replay["tokens"].get<int64_t>(), 0);
  EXPECT_GT(replay["block_hit_rate"].get<double>(), 0);
  ASSERT_EQ(replay["results"].size(), 6u);
  for (const json& result : replay["results"]) {
    EXPECT_GT(result["tokens_per_s"].get<double>(), 0);
    EXPECT_EQ(result["steps"], replay["steps"]);
    EXPECT_GE(result["step_ms"]["max"].get<double>(), result["step_ms"]["p50"].get<double>());
  }
  EXPECT_TRUE(replay["agreement"]["agrees"].get<bool>()) << replay["agreement"];
  const json& share = replay["share"];
  EXPECT_EQ(share["decode"]["tokens"].get<int64_t>() + share["extend"]["tokens"].get<int64_t>() +
                share["prefill"]["tokens"].get<int64_t>(),
            replay["tokens"].get<int64_t>());
}

TEST(Replay, SurvivesPreemption) {
  const CliRun run = run_cli(
      "replay --device cpu --json --requests 4 --shrink 128 --seconds 0 --num-blocks 70 --block-size 8 --model " +
      tiny_model());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.json()["finished_requests"], 4);
  EXPECT_TRUE(run.json()["agreement"]["agrees"].get<bool>());
}

TEST(Replay, StopsWhenTimeIsUp) {
  const CliRun run =
      run_cli("replay --device cpu --json --requests 6 --shrink 64 --seconds 0.000001 --model " + tiny_model());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(run.json()["models"][0]["stopped_by_time"].get<bool>());
  EXPECT_EQ(run.json()["steps"], 1);
}

TEST(Replay, ReadsBothTraceFormats) {
  const std::string azure = write_file(
      "azure.csv",
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,37,4\n2023-11-16 18:15:47,9,2\n");
  const std::string mooncake =
      write_file("mooncake.jsonl",
                 "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 2, \"hash_ids\": [0, 1]}\n"
                 "{\"timestamp\": 1, \"input_length\": 600, \"output_length\": 2, \"hash_ids\": [0, 2]}\n");
  for (const std::string& path : {azure, mooncake}) {
    const CliRun run = run_cli("replay --device cpu --json --trace " + path + " --model " + tiny_model());
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(run.json()["finished_requests"], 2);
  }
  EXPECT_EQ(run_cli("replay --dry-run --json --trace " + mooncake).json()["block_hit_rate"], 0.25);
}

TEST(Replay, NamesBrokenTraceLines) {
  const std::string path = write_file(
      "broken.csv",
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,37,4\n2023-11-16 18:15:47,many,2\n");
  const CliRun run = run_cli("replay --dry-run --trace " + path);
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_NE(run.err.find("broken.csv:3: ContextTokens is many; allowed: a whole number"), std::string::npos) << run.err;
}

TEST(Replay, ReproducesTheHitRateOfTheMooncakeTrace) {
  const std::string path = SEXTANT_SHARED_DATA "/traces/mooncake/conversation_trace.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there: the whole trace is not replayed";
  if (kUnderSanitizers) GTEST_SKIP() << "12 thousand requests take minutes under a sanitizer";
  const CliRun run = run_cli("replay --dry-run --json --trace " + path);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.json()["requests"], 12031);
  EXPECT_NEAR(run.json()["block_hit_rate"].get<double>(), 0.366, 0.0005);
}

TEST(Replay, FailsWhenACacheIsTooSmall) {
  const CliRun run = run_cli("replay --dry-run --num-blocks 3 --requests 4");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("num_blocks is 3; request 0 of the trace alone needs"), std::string::npos) << run.err;
}

TEST(Verify, ReportsItsSuites) {
  const CliRun run = run_cli("verify --device cpu --reduced --backends TRITON_MLA --json");
  EXPECT_EQ(run.exit_code, 0) << run.out;
  const json suites = run.json()["suites"];
  ASSERT_EQ(suites.size(), 1u);
  const json& sweep = suites[0];
  EXPECT_GT(sweep["cases"].get<int>(), 0);
  EXPECT_EQ(sweep["cases"].get<int>(),
            sweep["passed"].get<int>() + sweep["failed"].get<int>() + sweep["skipped"].get<int>());
}

TEST(Verify, NamesAFolderThatIsNotThere) {
  const CliRun run = run_cli("verify --device cpu --goldens /nowhere");
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_EQ(run.err, "sextant: --goldens is \"/nowhere\"; allowed: a folder that exists\n");
}

}  // namespace
}  // namespace sextant::testing
