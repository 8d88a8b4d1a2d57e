// The text of random cases, how they are drawn and how they shrink.
#include <gtest/gtest.h>

#include <set>

#include "support/matchers.h"
#include "verify/random/draw_case.h"
#include "verify/random/shrink.h"

namespace sextant::verify {
namespace {

std::vector<RandomCase> drawn(int count) {
  std::vector<RandomCase> cases;
  for (int i = 0; i < count; ++i) {
    const Backend& backend = *all_backends()[static_cast<size_t>(i) % all_backends().size()];
    const DeviceKind kind = i % 2 == 0 ? DeviceKind::kCuda : DeviceKind::kCpu;
    cases.push_back(draw_case(static_cast<uint64_t>(i), backend, DrawLimits::of(kind, i % 2 == 0 ? "" : "avx2")));
  }
  return cases;
}

std::vector<RandomCase> drawn_ops(int count) {
  std::vector<RandomCase> cases;
  for (int i = 0; i < count; ++i) {
    const Backend& backend = *all_backends()[static_cast<size_t>(i) % all_backends().size()];
    const DrawLimits limits = DrawLimits::of(DeviceKind::kCuda, "");
    cases.push_back(draw_op_case(static_cast<uint64_t>(i), backend, limits));
    cases.push_back(draw_simple_op_case(static_cast<uint64_t>(i), backend.info().family, limits));
  }
  return cases;
}

TEST(RandomCase, TextIsReadBackAsItWas) {
  std::vector<RandomCase> all = drawn(600), ops = drawn_ops(300);
  all.insert(all.end(), ops.begin(), ops.end());
  for (const RandomCase& test : all) {
    const std::string text = to_text(test);
    const auto read = parse_random_case(text);
    ASSERT_TRUE(read.is_ok()) << read.status().message() << " in " << text;
    EXPECT_EQ(to_text(*read), text);
    EXPECT_EQ(read->requests.size(), test.requests.size());
    EXPECT_EQ(read->spec.softmax_scale, test.spec.softmax_scale);
    EXPECT_EQ(read->options.bounds.max_seq_len, test.options.bounds.max_seq_len);
  }
}

TEST(RandomCase, TheSameSeedDrawsTheSameCase) {
  const DrawLimits limits = DrawLimits::of(DeviceKind::kCpu, "");
  EXPECT_EQ(to_text(draw_case(7, *all_backends()[0], limits)), to_text(draw_case(7, *all_backends()[0], limits)));
  EXPECT_NE(to_text(draw_case(7, *all_backends()[0], limits)), to_text(draw_case(8, *all_backends()[0], limits)));
}

std::string relation_text(Relation relation, bool deterministic) {
  return "relation " + std::to_string(static_cast<int>(relation)) + (deterministic ? ", deterministic" : "");
}

// What the sweep missed for years is drawn often: equal lengths, bounds, every format, every layout.
TEST(RandomCase, DrawsReachTheWholeSpace) {
  std::set<std::string> seen;
  for (const RandomCase& c : drawn(9000)) {
    seen.insert(to_string(c.cache_dtype));
    seen.insert(to_string(c.layout));
    seen.insert(std::to_string(c.spec.head_dim));
    bool equal = c.requests.size() > 1;
    for (const RequestShape& r : c.requests) equal = equal && r.seq_len == c.requests[0].seq_len;
    if (equal) seen.insert("equal lengths");
    if (c.replays()) seen.insert("bounds");
    if (c.graph) seen.insert("graph");
    seen.insert(relation_text(c.relation, c.options.deterministic));
    if (c.shared_prefix_len > 0) seen.insert("shared prefix");
    if (c.requests.size() == 256) seen.insert("256 requests");
    for (const RequestShape& r : c.requests) {
      if (r.seq_len == 0) seen.insert("empty request");
      if (r.seq_len > 500000) seen.insert("long request");
      if (r.query_len > 1000 && r.query_len == r.seq_len) seen.insert("long prefill");
    }
  }
  for (const char* what :
       {"fp32",  "fp16",          "bf16",         "fp8_e4m3fn",    "fp8_e4m3fnuz", "fp8_e5m2",      "NHD",
        "HND",   "split_k",       "shuffled",     "packed",        "latent",       "equal lengths", "bounds",
        "graph", "shared prefix", "256 requests", "empty request", "long request", "long prefill"})
    EXPECT_TRUE(seen.contains(what)) << what;
  for (const Relation relation : {Relation::kNone, Relation::kTwice, Relation::kPermuted, Relation::kReblocked,
                                  Relation::kChunked, Relation::kJoined, Relation::kPlanned})
    for (const bool deterministic : {false, true})
      EXPECT_TRUE(seen.contains(relation_text(relation, deterministic))) << relation_text(relation, deterministic);
  for (int dim : {8, 40, 64, 72, 96, 128, 192, 248, 256, 512}) EXPECT_TRUE(seen.contains(std::to_string(dim))) << dim;
}

TEST(RandomCase, LatentDecodeIsDrawnWithFp8Queries) {
  std::set<std::string> seen;
  for (const RandomCase& c : drawn_ops(3000))
    if (c.op.name == "mla_decode" && c.spec.has_fp8_queries())
      seen.insert(std::string(to_string(c.spec.query_type())) + " over " + to_string(c.cache_dtype));
  for (const char* what :
       {"fp8_e4m3fn over fp8_e4m3fn", "fp8_e4m3fn over bf16", "fp8_e5m2 over fp8_e4m3fn", "fp8_e4m3fnuz over fp8_e5m2"})
    EXPECT_TRUE(seen.contains(what)) << what;
}

TEST(RandomCase, DrawsKeepTheirLimits) {
  DrawLimits limits = DrawLimits::of(DeviceKind::kCpu, "");
  for (uint64_t i = 0; i < 500; ++i) {
    const RandomCase c = draw_case(i, *all_backends()[i % 6], limits);
    EXPECT_LE(work_of(c), 4 * limits.most_work) << to_text(c);
    EXPECT_LE(c.requests.size(), 256U);
    for (const RequestShape& r : c.requests) EXPECT_LE(r.seq_len, limits.most_context);
  }
}

TEST(RandomCase, WrongTextsAreRefusedByName) {
  EXPECT_ERROR(parse_random_case("hello"), StatusCode::kInvalidArgument, "allowed: the JSON object");
  // No integer: to convert it would be undefined.
  EXPECT_ERROR(parse_random_case(R"({"backend":"TRITON_ATTN","seed":1e38})"), StatusCode::kInvalidArgument,
               "seed is 1e+38");
  EXPECT_ERROR(parse_random_case(R"({"backend":"TRITON_ATTN","block_size":4294967312})"), StatusCode::kInvalidArgument,
               "block_size is 4294967312");
  EXPECT_ERROR(parse_random_case("[1]"), StatusCode::kInvalidArgument, "allowed: the JSON object");
  EXPECT_ERROR(parse_random_case(R"({"backnd": "ROCM_ATTN"})"), StatusCode::kInvalidArgument, "the field \"backnd\"");
  EXPECT_ERROR(parse_random_case(R"({"num_heads": "four"})"), StatusCode::kInvalidArgument, "num_heads is \"four\"");
  EXPECT_ERROR(parse_random_case(R"({"dtype": "bf17"})"), StatusCode::kInvalidArgument, "bf17");
  EXPECT_ERROR(parse_random_case(R"({"relation": "odd"})"), StatusCode::kInvalidArgument, "relation is \"odd\"");
  EXPECT_ERROR(parse_random_case(R"({"backend": "FLASH"})"), StatusCode::kNotFound, "backend is \"FLASH\"");
  EXPECT_ERROR(parse_random_case(R"({"op": "flash"})"), StatusCode::kInvalidArgument, "op is \"flash\"");
  EXPECT_ERROR(parse_random_case(R"({"backend": "ROCM_ATTN", "num_heads": -1})"), StatusCode::kInvalidArgument,
               "num_heads is -1");
  const std::string heads = R"({"backend": "ROCM_ATTN", "num_heads": 1, "num_kv_heads": 1, "head_dim": 64, )"
                            R"("head_dim_v": 64, "softmax_scale": 0.125, )";
  EXPECT_OK(parse_random_case(heads + R"("requests": "q1s1"})"));
  EXPECT_ERROR(parse_random_case(heads + R"("block_size": 0})"), StatusCode::kInvalidArgument, "block_size is 0");
  for (const char* batch : {"q", "q1", "q1s", "3s4", "q1s2_", "q1s2__q1s2", "q1s2x", "-1q1s2", "99999999q1s1"})
    EXPECT_ERROR(parse_batch_text(batch), StatusCode::kInvalidArgument, "batch segment");
  const auto batch = parse_batch_text("3q0s5_q7s7");
  ASSERT_OK(batch);
  EXPECT_EQ(batch_text(*batch), "3q0s5_q7s7");
}

TEST(Shrink, LeavesWhatTheFailureNeeds) {
  RandomCase test = draw_case(3, *all_backends()[1], DrawLimits::of(DeviceKind::kCuda, ""));
  test.requests.assign(37, {4, 5000});
  test.planned.clear();
  test.shared_prefix_len = 0;
  test.spec.sliding_window = 100;
  test.spec.has_sinks = true;
  int runs = 0;
  const auto fails = [&](const RandomCase& c) {
    ++runs;
    bool long_request = false;
    for (const RequestShape& r : c.requests) long_request = long_request || r.seq_len >= 600;
    return long_request && c.spec.has_sinks;
  };
  const RandomCase small = shrink(test, fails, std::chrono::steady_clock::now() + std::chrono::seconds(20));
  EXPECT_EQ(small.requests.size(), 1U);
  EXPECT_TRUE(small.spec.has_sinks);
  EXPECT_EQ(small.spec.sliding_window, 0);
  EXPECT_LT(small.requests[0].seq_len, 1300);
  EXPECT_EQ(small.spec.num_kv_heads, 1);
  EXPECT_LT(runs, 1000);
}

}  // namespace
}  // namespace sextant::verify
