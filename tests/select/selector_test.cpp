#include "sextant/selector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "support/cases.h"

namespace sextant {
namespace {

using testing::cpu;

// Sets an environment variable for one test.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }

 private:
  const char* name_;
};

SelectRequest mha_request() {
  SelectRequest request;
  request.spec = testing::mha_spec(8, 2, 64);
  request.cache.layout = KvLayout::kPreferred;
  request.cache.num_kv_heads = 2;
  request.cache.head_dim = request.cache.head_dim_v = 64;
  return request;
}

SelectRequest mla_request() {
  SelectRequest request;
  request.spec = testing::mla_spec(16, DType::kBF16, 512);
  request.cache.layout = KvLayout::kLatent;
  request.cache.num_kv_heads = 1;
  request.cache.head_dim = 576;
  request.cache.head_dim_v = 512;
  return request;
}

const Candidate& candidate(const std::vector<Candidate>& candidates, const std::string& name) {
  return *std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& c) { return c.name == name; });
}

TEST(Selector, AutomaticChoiceExplainsAllSix) {
  auto selection = select_backend(*cpu(), mha_request());
  ASSERT_OK(selection);
  EXPECT_EQ(selection->source, "automatic");
  ASSERT_EQ(selection->candidates.size(), 6U);
  for (const Candidate& c : selection->candidates) EXPECT_FALSE(c.reasons.empty()) << c.name;
  EXPECT_TRUE(candidate(selection->candidates, selection->backend->info().name).chosen);
  EXPECT_NE(candidate(selection->candidates, "TRITON_MLA").reasons[0].find("no latent KV"), std::string::npos);
}

// A layout that is asked for is that layout, the plain one too.
TEST(Selector, PreferredLayoutsAndAskedOnes) {
  const Backend* rocm_attn = find_backend("ROCM_ATTN").value();
  KvCacheSpec cache = mha_request().cache;
  EXPECT_EQ(with_layout(cache, *rocm_attn, cpu()->info()).layout,
            rocm_attn->preferred_layout(cpu()->info(), cache.dtype));
  const Backend* fa = find_backend("ROCM_AITER_FA").value();
  if (with_layout(cache, *fa, cpu()->info()).layout == KvLayout::kPacked) {  // panels of 16 tokens
    cache.block_size = 8;
    EXPECT_EQ(with_layout(cache, *fa, cpu()->info()).layout, KvLayout::kNHD);
  }
  cache.layout = KvLayout::kNHD;
  EXPECT_EQ(with_layout(cache, *rocm_attn, cpu()->info()).layout, KvLayout::kNHD);
  SelectRequest request = mha_request();
  request.cache.layout = KvLayout::kPacked;
  request.cache.dtype = DType::kF32;
  EXPECT_ERROR(select_backend(*cpu(), request), StatusCode::kInvalidArgument, "cache.dtype is fp32; layout packed");
  request.cache.layout = KvLayout::kPreferred;
  request.cache.block_size = 0;
  EXPECT_ERROR(select_backend(*cpu(), request), StatusCode::kInvalidArgument, "cache.block_size is 0; allowed: >= 1");
}

TEST(Selector, PaddingIsThatOfTheModel) {
  SelectRequest request = mla_request();
  request.spec.mla = {512, 64, 32, 48};  // latent, then without rope, with rope, V
  request.spec.head_dim = 96;
  request.spec.head_dim_v = 48;
  const auto reason = [&request] {
    const auto selection = select_backend(*cpu(), request);
    return selection ? candidate(selection->candidates, "TRITON_MLA").reasons[0] : selection.status().message();
  };
  EXPECT_NE(reason().find("V padded from 48 to 96 costs 33 % more work"), std::string::npos) << reason();
  request.spec.mla.v_head_dim = request.spec.head_dim_v = 128;
  EXPECT_EQ(reason().find("padded"), std::string::npos) << reason();
}

TEST(Selector, EveryExplicitChoiceWins) {
  for (const char* name : {"TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"}) {
    SelectRequest request = mha_request();
    request.backend = name;
    auto selection = select_backend(*cpu(), request);
    ASSERT_OK(selection);
    EXPECT_EQ(selection->backend->info().name, name);
    const Environment variable(kBackendVariable, name);
    request.backend.reset();
    selection = select_backend(*cpu(), request);
    ASSERT_OK(selection);
    EXPECT_EQ(selection->backend->info().name, name);
    EXPECT_EQ(selection->source, kBackendVariable);
  }
}

TEST(Selector, ArgumentBeatsEnvironment) {
  const Environment variable(kBackendVariable, "ROCM_ATTN");
  SelectRequest request = mha_request();
  request.backend = "TRITON_ATTN";
  EXPECT_EQ(select_backend(*cpu(), request)->backend->info().name, "TRITON_ATTN");
}

TEST(Selector, ExplicitChoiceThatCannotServeIsRefusedWithTheReason) {
  SelectRequest request = mla_request();
  request.backend = "ROCM_AITER_FA";
  EXPECT_ERROR(select_backend(*cpu(), request), StatusCode::kUnsupported,
               "argument asks for ROCM_AITER_FA, which cannot serve this");
  const Environment variable(kBackendVariable, "TRITON_MLA");
  EXPECT_ERROR(select_backend(*cpu(), mha_request()), StatusCode::kUnsupported,
               "VLLM_ATTENTION_BACKEND asks for TRITON_MLA");
}

TEST(Selector, UnknownNamesAreRefusedWithASuggestion) {
  SelectRequest request = mha_request();
  request.backend = "ROCM_AITER_FAA";
  EXPECT_ERROR(select_backend(*cpu(), request), StatusCode::kNotFound, "did you mean ROCM_AITER_FA?");
  request.backend = "triton_atn";
  EXPECT_ERROR(select_backend(*cpu(), request), StatusCode::kNotFound, "did you mean TRITON_ATTN?");
  request.backend = "cudnn";
  EXPECT_ERROR(select_backend(*cpu(), request), StatusCode::kNotFound, "allowed: TRITON_ATTN, ROCM_AITER_UNIFIED_ATTN");
}

// The article itself spells the variable wrong.
TEST(Selector, MisspeltVariableIsReported) {
  const Environment variable("VLLM_ATTENTION_BACKND", "ROCM_AITER_FA");
  auto selection = select_backend(*cpu(), mha_request());
  ASSERT_OK(selection);
  ASSERT_EQ(selection->warnings.size(), 1U);
  EXPECT_NE(selection->warnings[0].find("VLLM_ATTENTION_BACKND"), std::string::npos);
  EXPECT_NE(selection->warnings[0].find("did you mean VLLM_ATTENTION_BACKEND?"), std::string::npos);
}

TEST(Selector, AbbreviatedVariableIsReported) {
  const Environment variable("VLLM_ATTN_BACKEND", "ROCM_AITER_FA");
  auto selection = select_backend(*cpu(), mha_request());
  ASSERT_OK(selection);
  ASSERT_EQ(selection->warnings.size(), 1U);
  EXPECT_NE(selection->warnings[0].find("VLLM_ATTN_BACKEND, which nothing reads; did you mean VLLM_ATTENTION_BACKEND?"),
            std::string::npos)
      << selection->warnings[0];
}

TEST(Selector, MlaPrefersNativeHeadSizes) {
  EXPECT_EQ(select_backend(*cpu(), mla_request())->backend->info().name, "ROCM_AITER_MLA");
}

TEST(Selector, BrokenSpecIsRefused) {
  SelectRequest request = mha_request();
  request.spec.softmax_scale = std::nanf("");
  EXPECT_ERROR(select_backend(*cpu(), request), StatusCode::kInvalidArgument, "spec.softmax_scale is nan");
}

}  // namespace
}  // namespace sextant
