// The fp8 forward kernel, small to large: the first test that fails says where the fault lies.
//
//   OneKeyARow     every row sees one key, so out is that key's V: a wrong transposition or a wrong order of keys shows
//                  as another key's or another dim's number
//   AllKeysAlike   equal scores: the sums over keys, tiles and both halves of O
//   Oracle         random numbers against fp64, feature by feature
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cuda/gpu.h"
#include "reference/numbers.h"
#include "support/cases.h"
#include "verify/device_buffer.h"

namespace sextant {
namespace {

using testing::gpu;
using testing::make_case;
using testing::mha_spec;

constexpr DType kFp8 = DType::kF8E4M3FN;

// One request of one head; queries, keys and values by rule, in pages of 16 in order.
struct SmallProblem {
  int64_t queries = 128, keys = 128, dim = 128;  // queries <= keys
  bool causal = false;
  double (*q)(int64_t row, int64_t d) = nullptr;
  double (*k)(int64_t row, int64_t d) = nullptr;
  double (*v)(int64_t row, int64_t d) = nullptr;
};

std::vector<uint8_t> fp8_rows(int64_t rows, int64_t dim, double (*rule)(int64_t, int64_t)) {
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * dim));
  for (int64_t i = 0; i < rows * dim; ++i) reference::store(kFp8, bytes.data(), i, rule(i / dim, i % dim));
  return bytes;
}

Result<std::vector<double>> run(const SmallProblem& problem) {
  const auto [queries, keys, dim, causal, q_rule, k_rule, v_rule] = problem;
  Device& device = **gpu();
  const Ops& ops = device.ops(KernelFamily::kTuned);
  const std::vector<int32_t> starts = {0, static_cast<int32_t>(queries)}, lens = {static_cast<int32_t>(keys)};
  AttentionPlanArgs plan_args;
  plan_args.op = AttentionOp::kUnified;
  plan_args.spec = mha_spec(1, 1, static_cast<int32_t>(dim));
  plan_args.spec.query_dtype = kFp8;
  plan_args.spec.causal = causal;
  plan_args.cache = {KvLayout::kNHD,           kFp8, (keys + 15) / 16, 16, 1, static_cast<int32_t>(dim),
                     static_cast<int32_t>(dim)};
  plan_args.query_start_loc = starts;
  plan_args.seq_lens = lens;
  auto plan = ops.plan_attention(plan_args);
  if (!plan) return plan.status();
  EXPECT_NE((*plan)->describe().find("forward_fp8"), std::string::npos) << (*plan)->describe();
  std::vector<int32_t> table(static_cast<size_t>((keys + 15) / 16));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  const auto upload = [&device](const auto& values) {
    return DeviceBuffer::make(device, values.data(), values.size() * sizeof(values[0])).value();
  };
  const int64_t rows = static_cast<int64_t>(table.size()) * 16;
  const DeviceBuffer q = upload(fp8_rows(queries, dim, q_rule)), k = upload(fp8_rows(rows, dim, k_rule)),
                     v = upload(fp8_rows(rows, dim, v_rule)), query_start_loc = upload(starts), seq_lens = upload(lens),
                     block_table = upload(table);
  const DeviceBuffer out = DeviceBuffer::make(device, static_cast<size_t>(queries * dim) * 2).value();
  const DeviceBuffer workspace = DeviceBuffer::make(device, (*plan)->workspace_bytes()).value();
  AttentionArgs args;
  args.q = make_view(q.data(), kFp8, {queries, 1, dim});
  args.out = make_view(out.data(), DType::kBF16, {queries, 1, dim});
  args.query_start_loc = query_start_loc.as<int32_t>();
  args.seq_lens = seq_lens.as<int32_t>();
  args.cache = make_kv_cache_view(plan_args.cache, k.data(), v.data());
  args.block_table = block_table.as<int32_t>();
  args.block_table_stride = static_cast<int64_t>(table.size());
  args.workspace = workspace.data();
  SEXTANT_RETURN_IF_ERROR(ops.run_attention(**plan, args, {}));
  std::vector<uint8_t> bytes(out.bytes());
  SEXTANT_RETURN_IF_ERROR(out.read(bytes.data(), bytes.size()));
  std::vector<double> result(static_cast<size_t>(queries * dim));
  for (size_t i = 0; i < result.size(); ++i)
    result[i] = reference::load(DType::kBF16, bytes.data(), static_cast<int64_t>(i));
  return result;
}

double one_hot(int64_t row, int64_t d) { return row % 64 == d ? 64.0 : 0.0; }
// Small integers; neighbours in either direction, and 8 or 16 away, differ.
double mixed_up(int64_t key, int64_t d) {
  return static_cast<double>((key * 5 + key / 16 * 3 + d * 7 + d / 8) % 17) - 8;
}

// Row i sees key i: by 64 dims, so that keys i and i + 64 are alike and out is their mean.
TEST(CudaFp8Forward, OneKeyARow) {
  SKIP_WITHOUT_GPU();
  for (const int64_t dim : {64, 128})
    for (const int64_t keys : {128, 256, 384}) {
      const int64_t alike = keys / 64;
      auto out = run({128, keys, dim, false, one_hot, one_hot, mixed_up});
      ASSERT_TRUE(out.is_ok()) << out.status().message();
      int wrong = 0;
      for (int64_t row = 0; row < 128 && wrong < 8; ++row)
        for (int64_t d = 0; d < dim && wrong < 8; ++d) {
          double expected = 0;
          for (int64_t i = 0; i < alike; ++i) expected += mixed_up(row % 64 + 64 * i, d) / static_cast<double>(alike);
          const double got = (*out)[static_cast<size_t>(row * dim + d)];
          if (std::abs(got - expected) <= 0.004 * std::max(1.0, std::abs(expected))) continue;  // rounded to bf16
          ++wrong;
          ADD_FAILURE() << "dim " << dim << ", " << keys << " keys: out[" << row << ", " << d << "] is " << got
                        << "; V[" << row % 64 << " + 64 i, " << d << "] means " << expected;
        }
    }
}

double zero(int64_t, int64_t) { return 0; }

TEST(CudaFp8Forward, AllKeysAlike) {
  SKIP_WITHOUT_GPU();
  for (const int64_t dim : {64, 128})
    for (const int64_t keys : {17, 128, 130, 700}) {
      const int64_t queries = std::min<int64_t>(keys, 200);
      auto out = run({queries, keys, dim, false, one_hot, zero, mixed_up});
      ASSERT_TRUE(out.is_ok()) << out.status().message();
      for (int64_t d = 0; d < dim; ++d) {
        double expected = 0;
        for (int64_t key = 0; key < keys; ++key) expected += mixed_up(key, d) / static_cast<double>(keys);
        for (const int64_t row : {0, 63, 64, 127, 128, 199}) {
          if (row >= queries) continue;
          const double got = (*out)[static_cast<size_t>(row * dim + d)];
          ASSERT_NEAR(got, expected, 0.02 + 0.01 * std::abs(expected))
              << "dim " << dim << ", " << keys << " keys, row " << row << ", column " << d;
        }
      }
    }
}

struct OracleCase {
  const char* name;
  int32_t heads, kv_heads, dim;
  std::vector<verify::RequestShape> requests;
  void (*change)(verify::Case&);
};
void nothing(verify::Case&) {}

std::vector<OracleCase> oracle_cases() {
  return {
      {"one tile, not causal", 1, 1, 128, {{64, 128}}, [](verify::Case& c) { c.spec.causal = false; }},
      {"one tile", 1, 1, 128, {{128, 128}}, nothing},
      {"one tile, head_dim 64", 1, 1, 64, {{128, 128}}, nothing},
      {"ragged end", 1, 1, 128, {{77, 77}}, nothing},
      {"many tiles", 1, 1, 128, {{128, 1000}}, nothing},
      {"many tiles, head_dim 64", 1, 1, 64, {{128, 1000}}, nothing},
      {"head_dim 96", 4, 2, 96, {{100, 300}}, nothing},
      {"head_dim 48", 4, 2, 48, {{100, 300}}, nothing},
      {"pages of 128", 4, 2, 128, {{130, 520}}, [](verify::Case& c) { c.block_size = 128; }},
      {"pages of 8", 4, 2, 128, {{130, 520}}, [](verify::Case& c) { c.block_size = 8; }},
      {"pages of 1", 4, 2, 128, {{130, 520}}, [](verify::Case& c) { c.block_size = 1; }},
      {"pages of 544", 4, 2, 128, {{130, 1100}}, [](verify::Case& c) { c.block_size = 544; }},
      {"group 7, rows one by one", 14, 2, 128, {{60, 400}}, nothing},
      {"scales a head", 8, 2, 128, {{130, 400}}, [](verify::Case& c) { c.num_scales = 2; }},
      {"fp16", 4, 2, 128, {{130, 400}}, [](verify::Case& c) { c.spec.dtype = DType::kF16; }},
      {"window", 4, 2, 128, {{300, 900}}, [](verify::Case& c) { c.spec.sliding_window = 200; }},
      {"sinks", 4, 2, 128, {{130, 400}}, [](verify::Case& c) { c.spec.has_sinks = true; }},
      {"softcap", 4, 2, 128, {{130, 400}}, [](verify::Case& c) { c.spec.logits_soft_cap = 6; }},
      {"alibi", 4, 2, 128, {{130, 400}}, [](verify::Case& c) { c.spec.has_alibi = true; }},
      {"large scores", 4, 2, 128, {{130, 400}}, [](verify::Case& c) { c.magnitude = 6; }},
      {"many requests, decodes among them",
       8,
       2,
       128,
       {{130, 400}, {1, 90}, {0, 0}, {9, 9}, {257, 300}, {4, 70}},
       nothing},
      {"more items than blocks", 32, 8, 64, {{700, 900}, {300, 1300}}, nothing},
      {"long context", 2, 1, 128, {{40, 9000}}, nothing},
  };
}

TEST(CudaFp8Forward, Oracle) {
  SKIP_WITHOUT_GPU();
  for (const OracleCase& oracle_case : oracle_cases()) {
    SCOPED_TRACE(oracle_case.name);
    AttentionSpec spec = mha_spec(oracle_case.heads, oracle_case.kv_heads, oracle_case.dim);
    spec.query_dtype = kFp8;
    verify::Case test = make_case(spec, oracle_case.requests);
    test.cache_dtype = kFp8;
    oracle_case.change(test);
    const verify::CaseData data = verify::prepare(test, 17, 64);
    const verify::Verdict verdict = run_case(**gpu(), **find_backend("ROCM_AITER_UNIFIED_ATTN"), data, 5);
    EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed) << verdict.message;
    std::printf("%-36s error %.2e, allowed %.2e\n", oracle_case.name, verdict.max_error, verdict.allowed);
  }
}

// The backends whose ops take no fp8 queries convert them.
TEST(CudaFp8Forward, OtherBackendsConvert) {
  SKIP_WITHOUT_GPU();
  AttentionSpec spec = mha_spec(4, 2, 128);
  spec.query_dtype = kFp8;
  verify::Case test = make_case(spec, {{50, 200}, {1, 33}});
  test.cache_dtype = kFp8;
  const verify::CaseData data = verify::prepare(test, 3, 64);
  for (const char* name : {"TRITON_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"}) {
    const verify::Verdict verdict = run_case(**gpu(), **find_backend(name), data, 5);
    EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed) << name << ": " << verdict.message;
  }
}

}  // namespace
}  // namespace sextant
