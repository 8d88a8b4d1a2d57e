// Asks a backend about one small spec a feature, for `sextant backends`.
#include "probe.h"

#include <cmath>

#include "sextant/model.h"

namespace sextant::cli {
namespace {

struct Question {
  std::string feature;
  AttentionSpec spec;
  KvFormat kv_format;
  int32_t block_size = 16;
};

std::vector<std::string> ask(const Backend& backend, const Device& device, const Question& question) {
  const KvCacheSpec cache = kv_cache_for(question.spec, question.kv_format, question.block_size, 64);
  return backend.reasons_against(question.spec, with_layout(cache, backend, device.info()), device);
}

AttentionSpec with_head_dim(AttentionSpec spec, int32_t dim, int32_t dim_v) {
  spec.head_dim = dim;
  spec.head_dim_v = dim_v;
  spec.softmax_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  return spec;
}

std::vector<Question> mha_questions(const DeviceInfo& device) {
  const AttentionSpec plain = plain_spec(BackendCategory::kMha);
  const auto variant = [&plain](const char* feature, auto change) {
    Question question{feature, plain, DType::kBF16};
    change(question.spec);
    return question;
  };
  std::vector<Question> questions = {
      variant("sliding window", [](AttentionSpec& s) { s.sliding_window = 128; }),
      variant("chunked attention", [](AttentionSpec& s) { s.attention_chunk_size = 128; }),
      variant("bidirectional spans", [](AttentionSpec& s) { s.max_span_len = 256; }),
      variant("softcap", [](AttentionSpec& s) { s.logits_soft_cap = 50; }),
      variant("sinks", [](AttentionSpec& s) { s.has_sinks = true; }),
      variant("ALiBi", [](AttentionSpec& s) { s.has_alibi = true; }),
      variant("non-causal", [](AttentionSpec& s) { s.causal = false; }),
  };
  questions.push_back({"head size 8", with_head_dim(plain, 8, 8), DType::kBF16});
  questions.push_back({"head size 512", with_head_dim(plain, 512, 512), DType::kBF16});
  questions.push_back({"different head sizes of K and V", with_head_dim(plain, 192, 128), DType::kBF16});
  questions.push_back({"fp8 KV cache", plain, device.native_fp8});
  Question fp8{"fp8 queries", plain, device.native_fp8};
  fp8.spec.query_dtype = device.native_fp8;
  questions.push_back(fp8);
  questions.push_back({"any block size", plain, DType::kBF16, 544});
  return questions;
}

std::vector<Question> mla_questions(const DeviceInfo& device) {
  const AttentionSpec plain = plain_spec(BackendCategory::kMla);
  Question heads{"any head count", plain, DType::kBF16};
  heads.spec.num_heads = heads.spec.num_kv_heads = 12;
  Question fp32{"fp32", plain, DType::kF32};
  fp32.spec.dtype = DType::kF32;
  Question spans{"bidirectional spans", plain, DType::kBF16};
  spans.spec.max_span_len = 256;
  return {heads, spans, {"fp8 KV cache", plain, device.native_fp8}, {"any block size", plain, DType::kBF16, 544}, fp32};
}

}  // namespace

AttentionSpec plain_spec(BackendCategory category) {
  AttentionSpec spec;
  if (category == BackendCategory::kMla) {
    spec.num_heads = spec.num_kv_heads = 128;
    spec.mla = {512, 128, 64, 128};
    return with_head_dim(spec, 192, 128);
  }
  spec.num_heads = 32;
  spec.num_kv_heads = 8;
  return with_head_dim(spec, 128, 128);
}

std::vector<std::string> reasons_against_plain(const Backend& backend, const Device& device) {
  return ask(backend, device, {"", plain_spec(backend.info().category), DType::kBF16});
}

std::vector<FeatureProbe> probe_features(const Backend& backend, const Device& device) {
  std::vector<FeatureProbe> probes;
  const bool mla = backend.info().category == BackendCategory::kMla;
  for (const Question& question : mla ? mla_questions(device.info()) : mha_questions(device.info())) {
    FeatureProbe probe{question.feature, false, ask(backend, device, question)};
    probe.served = probe.reasons.empty();
    probes.push_back(std::move(probe));
  }
  return probes;
}

}  // namespace sextant::cli
