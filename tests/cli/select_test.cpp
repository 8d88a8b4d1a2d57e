#include "cli/run_cli.h"

namespace sextant::testing {
namespace {

using nlohmann::json;

TEST(Backends, ListTheSixInOrder) {
  const CliRun run = run_cli("backends --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json rows = run.json();
  ASSERT_EQ(rows.size(), 6u);
  const std::vector<std::string> names = {"TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA",
                                          "TRITON_MLA",  "ROCM_AITER_MLA"};
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(rows[i]["name"], names[i]);
    EXPECT_EQ(rows[i]["category"], i < 4 ? "MHA" : "MLA");
    EXPECT_EQ(rows[i]["enable"], "export VLLM_ATTENTION_BACKEND=" + names[i]);
    EXPECT_EQ(rows[i]["devices"][0], "cpu");
    EXPECT_FALSE(rows[i]["features"].empty());
  }
  const std::string table = run_cli("backends").out;
  for (const std::string& name : names) EXPECT_NE(table.find(name), std::string::npos);
}

TEST(Select, ExplainsEveryCandidate) {
  const json choice = run_cli("select --model Llama-3.1-8B --device cpu --json").json();
  EXPECT_TRUE(choice["chosen"].is_string());
  ASSERT_EQ(choice["candidates"].size(), 6u);
  int chosen = 0;
  for (const json& candidate : choice["candidates"]) {
    chosen += candidate["chosen"].get<bool>() ? 1 : 0;
    EXPECT_FALSE(candidate["reasons"].empty()) << candidate["name"];
    if (candidate["chosen"]) {
      EXPECT_EQ(candidate["name"], choice["chosen"]);
    }
  }
  EXPECT_EQ(chosen, 1);
  EXPECT_TRUE(choice["warnings"].is_array());
  EXPECT_EQ(run_cli("select --model DeepSeek-V3 --device cpu --json").json()["chosen"], "ROCM_AITER_MLA");
}

TEST(Select, ObeysTheVariableAndTheArgument) {
  const std::string model = "select --model Llama-3.1-8B --device cpu --json";
  const json by_variable = run_cli(model, "VLLM_ATTENTION_BACKEND=ROCM_ATTN").json();
  EXPECT_EQ(by_variable["chosen"], "ROCM_ATTN");
  EXPECT_EQ(by_variable["source"], "VLLM_ATTENTION_BACKEND");
  const json by_argument = run_cli(model + " --backend TRITON_ATTN", "VLLM_ATTENTION_BACKEND=ROCM_ATTN").json();
  EXPECT_EQ(by_argument["chosen"], "TRITON_ATTN");
  EXPECT_EQ(by_argument["source"], "argument");
}

TEST(Select, RefusesAChoiceThatCannotServe) {
  const CliRun run = run_cli("select --model Llama-3.1-8B --device cpu --json", "VLLM_ATTENTION_BACKEND=TRITON_MLA");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(run.json()["chosen"].is_null());
  EXPECT_NE(run.err.find("TRITON_MLA"), std::string::npos) << run.err;
  const CliRun unknown = run_cli("select --model Llama-3.1-8B --device cpu", "VLLM_ATTENTION_BACKEND=TRITON_ATN");
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.err.find("did you mean TRITON_ATTN?"), std::string::npos) << unknown.err;
}

TEST(Select, WarnsOfTheArticlesMisspeltVariable) {
  const CliRun run = run_cli("select --model Llama-3.1-8B --device cpu --json", "VLLM_ATTENTION_BACKND=ROCM_ATTN");
  EXPECT_EQ(run.exit_code, 0);
  ASSERT_EQ(run.json()["warnings"].size(), 1u);
  EXPECT_NE(run.err.find("did you mean VLLM_ATTENTION_BACKEND?"), std::string::npos) << run.err;
}

TEST(Select, TreatsLayersWithAWindowApart) {
  const json choice = run_cli("select --model gpt-oss-20b --device cpu --json").json();
  ASSERT_EQ(choice["layer_kinds"].size(), 2u);
  EXPECT_EQ(choice["layer_kinds"][0]["attention"]["sliding_window"], 128);
  EXPECT_EQ(choice["layer_kinds"][0]["layers"].size(), 12u);
}

TEST(Select, ReadsAConfigFile) {
  const std::string path =
      write_file("config.json", R"({"hidden_size": 640, "num_attention_heads": 8, "num_hidden_layers": 2})");
  EXPECT_EQ(run_cli("select --device cpu --json --model " + path).json()["layer_kinds"][0]["attention"]["head_dim"],
            80);
  const std::string broken = write_file("broken.json", R"({"hidden_size": 640, "num_attention_heads": "eight"})");
  const CliRun run = run_cli("select --device cpu --model " + broken);
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_NE(run.err.find("config.num_attention_heads is \"eight\""), std::string::npos) << run.err;
}

TEST(Select, SaysWhenNothingServesAShape) {
  const std::string path = write_file(
      "wide.json", R"({"hidden_size": 4096, "num_attention_heads": 8, "head_dim": 520, "num_hidden_layers": 2})");
  const CliRun run = run_cli("select --device cpu --json --model " + path);
  EXPECT_EQ(run.exit_code, 1);
  const json answer = run.json();
  EXPECT_TRUE(answer["chosen"].is_null());
  for (const json& candidate : answer["candidates"])
    EXPECT_EQ(candidate["reasons"][0], "spec.head_dim is 520; allowed: 8..512 in steps of 8");
  EXPECT_EQ(run_cli("bench --device cpu --batch q8 --repeats 1 --model " + path).exit_code, 1);
  EXPECT_EQ(run_cli("replay --device cpu --requests 1 --model " + path).exit_code, 1);
}

TEST(Doctor, SaysWhatIsThereAndWhatIsMissing) {
  const CliRun run = run_cli("doctor --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json doctor = run.json();
  EXPECT_GE(doctor["machine"]["threads"].get<int>(), 1);
  EXPECT_TRUE(doctor["amx"].is_boolean());
  EXPECT_EQ(doctor["devices"][0]["kind"], "cpu");
  EXPECT_TRUE(doctor["devices"][0]["available"].get<bool>());
  for (const json& device : doctor["devices"])
    EXPECT_TRUE(device["available"].get<bool>() || !device["reason"].get<std::string>().empty()) << device["kind"];
  EXPECT_EQ(doctor["environment"][0]["name"], "VLLM_ATTENTION_BACKEND");
}

}  // namespace
}  // namespace sextant::testing
