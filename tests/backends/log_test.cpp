// The log of plans and runs.
#include "sextant/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/cases.h"
#include "support/matchers.h"
#include "support/paged_run.h"

namespace sextant {
namespace {

using nlohmann::json;

struct LogOff {
  ~LogOff() { set_log({}); }
};

TEST(Log, TellsOfPlansRunsAndRefusals) {
  const LogOff off;
  std::vector<json> lines;
  set_log([&lines](const LogEvent& event) { lines.push_back(json::parse(to_json(event))); });
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  const Backend& backend = **find_backend("ROCM_ATTN");
  const testing::Step step = testing::make_step({{1, 17}, {1, 40}, {5, 9}, {1, 1}, {1, 2}}, 1);
  auto run = testing::PagedRun::make(**device, backend, testing::mha_spec(4, 2, 64), step, {});
  ASSERT_OK(run);
  ASSERT_TRUE((*run)->load(step).is_ok());
  ASSERT_TRUE((*run)->launch({}).is_ok());
  (*run)->tensors().q = {};
  EXPECT_FALSE((*run)->launch({}).is_ok());
  PlanRequest wrong = (*run)->plan().request();
  wrong.spec.num_kv_heads = 3;
  EXPECT_FALSE(backend.plan(**device, wrong).is_ok());

  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["event"], "plan");
  EXPECT_EQ(lines[0]["backend"], "ROCM_ATTN");
  EXPECT_EQ(lines[0]["requests"], 5);
  EXPECT_EQ(lines[0]["tokens"], 9);
  EXPECT_EQ(lines[0]["steps"].size(), (*run)->plan().steps().size());
  EXPECT_EQ(lines[1]["event"], "run");
  EXPECT_TRUE(lines[1]["error"].is_null());
  EXPECT_GT(lines[1]["host_us"].get<double>(), 0);
  EXPECT_NE(lines[2]["error"].get<std::string>().find("q "), std::string::npos) << lines[2];
  EXPECT_EQ(lines[3]["event"], "plan");
  EXPECT_FALSE(lines[3].contains("steps"));
  EXPECT_NE(lines[3]["error"].get<std::string>().find("num_kv_heads"), std::string::npos) << lines[3];
}

TEST(Log, ASinkMaySetAnother) {
  const LogOff off;
  int first = 0, second = 0;
  set_log([&](const LogEvent&) {
    ++first;
    set_log([&](const LogEvent&) { ++second; });
  });
  auto device = open_device(DeviceKind::kCpu);
  const Backend& backend = **find_backend("TRITON_ATTN");
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(backend.plan(**device, {}).is_ok());
  set_log({});
  EXPECT_FALSE(backend.plan(**device, {}).is_ok());
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 2);
}

}  // namespace
}  // namespace sextant
