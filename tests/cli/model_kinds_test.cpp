// What select, replay and size say about models whose layers differ, and about layers that are not served here.
#include <chrono>

#include "cli/run_cli.h"
#include "support/sanitizers.h"

namespace sextant::testing {
namespace {

using nlohmann::json;

std::string hybrid() {
  return write_file("hybrid.json", R"({"model_type": "qwen3_next", "hidden_size": 64, "num_attention_heads": 4,
      "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 8, "dtype": "bfloat16"})");
}
std::string windows() {
  return write_file("windows.json", R"({"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4,
      "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 6, "sliding_window": 16, "dtype": "bfloat16"})");
}

TEST(ModelKinds, SelectCountsAndNamesWhatItDoesNotServe) {
  const CliRun text = run_cli("select --device cpu --model " + hybrid());
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out.find("6 of 8 layers are linear attention: not served here"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("\n2 layers: 4 heads, 2 KV heads, 16 wide"), std::string::npos) << text.out;
  const json choice = run_cli("select --device cpu --json --model " + hybrid()).json();
  EXPECT_EQ(choice["num_layers"], 8);
  EXPECT_EQ(choice["model_type"], "qwen3_next");
  ASSERT_EQ(choice["not_served"].size(), 1u);
  EXPECT_EQ(choice["not_served"][0]["count"], 6);
  EXPECT_EQ(choice["not_served"][0]["what"], "linear attention");
  EXPECT_FALSE(choice["not_served"][0]["attends"].get<bool>());
  EXPECT_EQ(choice["layer_kinds"][0]["count"], 2);
  EXPECT_EQ(choice["notes"][0], "6 of 8 layers are linear attention: not served here");
}

TEST(ModelKinds, SelectSaysWhatItDoesNotKnow) {
  const std::string path = write_file("new.json", R"({"model_type": "brand_new", "hidden_size": 64, "dtype": "float16",
      "num_attention_heads": 4, "num_hidden_layers": 2, "attention_spice": 7, "index_topk": 64})");
  const json choice = run_cli("select --device cpu --json --model " + path).json();
  const std::string notes = choice["notes"].dump();
  EXPECT_NE(notes.find("is not in the table of known types: read by the general rule"), std::string::npos) << notes;
  EXPECT_NE(notes.find("attention_spice 7"), std::string::npos) << notes;
  EXPECT_NE(notes.find("index_topk is 64"), std::string::npos) << notes;
  EXPECT_TRUE(choice["chosen"].is_string());
}

TEST(ModelKinds, SelectFailsWhereNoLayerIsServed) {
  const std::string path = write_file("mamba.json", R"({"model_type": "mamba", "num_hidden_layers": 3})");
  const CliRun run = run_cli("select --device cpu --json --model " + path);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(run.json()["chosen"].is_null());
  EXPECT_EQ(run.json()["not_served"][0]["text"], "3 of 3 layers are Mamba: not served here");
  EXPECT_EQ(run_cli("replay --device cpu --requests 1 --model " + path).exit_code, 1);
  EXPECT_EQ(run_cli("bench --device cpu --batch q8 --model " + path).exit_code, 1);
  EXPECT_EQ(run_cli("size --memory 1G --model " + path).exit_code, 1);
  const std::string vision = write_file("vision.json", R"({"model_type": "swin", "num_hidden_layers": 3})");
  EXPECT_EQ(run_cli("select --device cpu --model " + vision).exit_code, 2);
}

// A dry run with a model has its groups of layers; windows give back what no later token sees.
TEST(ModelKinds, DryRunsScheduleGroupsOfLayers) {
  const std::string trace = write_file(
      "long.jsonl", "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 40, \"hash_ids\": [0, 1]}\n");
  const std::string command = "replay --dry-run --json --max-num-batched-tokens 100 --trace " + trace;
  const json plain = run_cli(command).json();
  EXPECT_FALSE(plain.contains("models"));
  const CliRun run = run_cli(command + " --device cpu --model " + windows() + "," + hybrid());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json slides = run.json()["models"][0];
  ASSERT_EQ(slides["kinds"].size(), 2u);
  EXPECT_EQ(slides["kinds"][0]["count"], 5);
  EXPECT_EQ(slides["kinds"][0]["groups"], 5);
  EXPECT_EQ(slides["kinds"][0]["kept_tokens"], 16);
  EXPECT_EQ(slides["kinds"][1]["kept_tokens"], 0);
  EXPECT_EQ(slides["finished_requests"], 1);
  EXPECT_EQ(slides["generated_tokens"], plain["generated_tokens"]);
  // 639 tokens in blocks of 16 where everything is kept; the window leaves all but its own behind.
  EXPECT_GT(slides["window_blocks_freed"], 5 * 30);
  EXPECT_LT(slides["peak_used_blocks"], 40 + 5 * 10);
  EXPECT_EQ(slides["block_bytes"], 16 * 2 * 2 * 16 * 2);
  const json linear = run.json()["models"][1];
  EXPECT_EQ(linear["not_served"][0]["text"], "6 of 8 layers are linear attention: not served here");
  EXPECT_EQ(linear["window_blocks_freed"], 0);
  EXPECT_EQ(linear["peak_used_blocks"], 40);
  const CliRun text = run_cli("replay --dry-run --requests 2 --device cpu --model " + windows());
  EXPECT_NE(text.out.find("5 groups of the pool, the newest 16 tokens"), std::string::npos) << text.out;
  const std::string mamba = write_file("mamba.json", R"({"model_type": "mamba", "num_hidden_layers": 3})");
  EXPECT_EQ(run_cli("replay --dry-run --requests 1 --device cpu --model " + mamba).exit_code, 1);
}

TEST(ModelKinds, ReplayRunsEveryKindTogether) {
  const CliRun run = run_cli("replay --device cpu --json --requests 5 --shrink 64 --seconds 0 --model " + windows());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json model = run.json()["models"][0];
  ASSERT_EQ(model["kinds"].size(), 2u);
  for (const json& kind : model["kinds"]) EXPECT_EQ(kind["run"], 1);
  EXPECT_GT(model["window_blocks_freed"].get<int>(), 0);
  EXPECT_TRUE(run.json()["agreement"]["agrees"].get<bool>()) << run.json()["agreement"];
  const json first =
      run_cli("replay --device cpu --json --requests 2 --shrink 64 --layers 1 --seconds 0 --model " + windows())
          .json()["models"][0];
  EXPECT_EQ(first["kinds"][1]["run"], 0);
  EXPECT_EQ(first["kinds"][1]["why_not"], "beyond --layers");
}

TEST(ModelKinds, ReplaySaysWhatItSkips) {
  const CliRun run = run_cli("replay --device cpu --requests 2 --shrink 64 --seconds 0 --model " + hybrid());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("6 of 8 layers are linear attention: not served here"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("built-in trace (built in)"), std::string::npos) << run.out;
  const std::string wide = write_file("wide_kind.json", R"({"model_type": "gemma4_text", "hidden_size": 64,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 1024, "num_hidden_layers": 2,
      "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"], "dtype": "bfloat16"})");
  const CliRun refused = run_cli("replay --device cpu --json --requests 2 --shrink 64 --seconds 0 --model " + wide);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("spec.head_dim is 1024"), std::string::npos) << refused.err;
  EXPECT_EQ(refused.json()["models"][0]["kinds"].size(), 2u);
}

TEST(ModelKinds, SizeCountsKindByKind) {
  const CliRun run = run_cli("size --memory 1G --lengths 64,4k --json --model " + windows());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json size = run.json();
  EXPECT_EQ(size["bytes_a_token"], 6 * 2 * 32 * 2);
  EXPECT_EQ(size["kinds"][0]["window"], 16);
  EXPECT_EQ(size["kinds"][0]["layers"], 5);
  EXPECT_EQ(size["layers_a_group"], 1);
  EXPECT_EQ(size["num_blocks"], (1 << 30) / (16 * 2 * 32 * 2));
  EXPECT_EQ(size["lengths"][1]["blocks_a_request"], 256 + 5 * 257);
  EXPECT_TRUE(size["lengths"][0]["attention_share"].is_null());
}

TEST(ModelKinds, SizeTakesMeasuredRates) {
  const std::string measured = write_file("bench_here.json", R"({"machine": {"device_name": "this"},
      "ceilings": {"gbs": 10}, "results": [{"batch": "q8", "backend": "A", "gbs": 90},
      {"batch": "4q1s1k", "backend": "B", "gbs": 5}]})");
  const json size =
      run_cli("size --memory 1G --weights 512M --lengths 1k --json --model " + hybrid() + " --measured " + measured)
          .json();
  const json row = size["lengths"][0];
  // 2 layers x 128 bytes x 1024 tokens of every request at 5 GB/s; 512 MiB at 10 GB/s.
  EXPECT_NEAR(row["attention_ms"].get<double>(), 2 * 128 * 1024.0 * row["requests"].get<double>() / 5e6, 1e-3);
  EXPECT_NEAR(row["other_ms"].get<double>(), 53.687, 1e-2);
  EXPECT_GT(row["attention_share"].get<double>(), 0.4);
  EXPECT_EQ(run_cli("size --memory 1G --model " + hybrid() + " --measured " + hybrid()).exit_code, 2);
}

// The quickest of several runs, in ms: other programs run on this machine, too.
double quickest_run_ms(const std::string& arguments) {
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(run_cli(arguments).exit_code, 0);
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Without what the machine needs to start a program at all: 5 ms on a quiet one, over 100 inside some sandboxes.
TEST(ModelKinds, SelectAnswersAtOnce) {
  if (kUnderSanitizers) GTEST_SKIP() << "a figure of speed";
  const double start_ms = quickest_run_ms("--version");
  EXPECT_LT(quickest_run_ms("select --device cpu --json --model " + hybrid()) - start_ms, 50);
}

TEST(ModelKinds, SharedConfigsAndTracesRun) {
  const std::string folder = SEXTANT_SHARED_DATA "/configs/";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there: its configs are not selected for";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    const CliRun run = run_cli("select --device cpu --json --model '" + entry.path().string() + "'");
    EXPECT_NE(run.exit_code, 2) << entry.path() << ": " << run.err;
    EXPECT_TRUE(run.json()["notes"].is_array()) << entry.path();
  }
  const std::string traces = SEXTANT_SHARED_DATA "/traces/oddities/";
  for (const auto& entry : std::filesystem::directory_iterator(traces)) {
    const CliRun run = run_cli("replay --dry-run --json --trace '" + entry.path().string() + "'");
    const bool refused = entry.path().filename() == "aiperf_doc_example.jsonl";
    EXPECT_EQ(run.exit_code, refused ? 2 : 0) << entry.path() << ": " << run.err;
    if (!refused) {
      EXPECT_TRUE(run.json()["trace_format"].is_string()) << entry.path();
    }
  }
  EXPECT_EQ(run_cli("replay --dry-run --hash-block 256 --trace " + traces + "aiperf_doc_example.jsonl").exit_code, 0);
}

}  // namespace
}  // namespace sextant::testing
