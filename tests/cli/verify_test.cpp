// sextant verify --random and --case, as a user runs them.
#include "cli/run_cli.h"

namespace sextant::testing {
namespace {

constexpr char kCase[] =
    R"('{"backend":"ROCM_ATTN","num_heads":2,"num_kv_heads":1,"head_dim":64,"head_dim_v":64,"softmax_scale":0.125,)"
    R"("requests":"q1s40_q3s9","seed":7}')";

TEST(RandomVerify, CountsWhatItDrew) {
  const CliRun run = run_cli(
      "verify --random --device cpu --isa scalar --backends ROCM_ATTN --small --cases 12 --seconds 60 --seed 3 --json");
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const nlohmann::json json = run.json();
  EXPECT_EQ(json["cases"], 12);
  EXPECT_EQ(json["passed"], 12);
  EXPECT_EQ(json["seed"], 3);
  EXPECT_TRUE(json["failures"].empty());
  EXPECT_EQ(json["cases_of"]["scalar"], 12);
  EXPECT_GT(json["cases_of"]["ROCM_ATTN"], 0);
  EXPECT_FALSE(json["cases_of"].contains("TRITON_ATTN"));
}

TEST(RandomVerify, RunsOneCaseAgain) {
  const CliRun run = run_cli(std::string("verify --device cpu --json --case ") + kCase);
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_EQ(run.json()["passed"], 1);
}

// A plan that is refused as wrong is a failure too: no case that is drawn should be.
TEST(RandomVerify, AFailureSaysHowToRepeatIt) {
  std::string test = kCase;
  test.replace(test.find(R"("seed")"), 0, R"("shared_prefix_len":5,)");
  const CliRun run = run_cli("verify --device cpu --case " + test);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.out.find("FAILED"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("sextant verify --device cpu --case '{"), std::string::npos) << run.out;
  const CliRun json = run_cli("verify --device cpu --json --case " + test);
  EXPECT_EQ(json.exit_code, 1);
  ASSERT_EQ(json.json()["failures"].size(), 1U) << json.out;
  EXPECT_EQ(
      run_cli("verify --device cpu --case '" + json.json()["failures"][0]["case"].get<std::string>() + "'").exit_code,
      1);
}

TEST(RandomVerify, RefusesWrongArguments) {
  for (const char* wrong :
       {"--seconds 3", "--random --seconds 0", "--random --isa none", "--random --backends NONE", "--case hello",
        R"(--case '{"backend":"NONE"}')", R"(--case '{"backend":"ROCM_ATTN","block_size":0}')"}) {
    const CliRun run = run_cli(std::string("verify --device cpu ") + wrong);
    EXPECT_EQ(run.exit_code, 2) << wrong << "\n" << run.err;
    EXPECT_FALSE(run.err.empty()) << wrong;
  }
}

}  // namespace
}  // namespace sextant::testing
