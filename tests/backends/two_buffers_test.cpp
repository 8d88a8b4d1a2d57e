// Chunks of a context that go by turns into two buffers, as devices whose ops overlap have them: here on the CPU, by
// ops that say they overlap.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "sextant/backend.h"
#include "sextant/device.h"
#include "support/matchers.h"
#include "verify/random/run_random.h"

namespace sextant {
namespace {

// The CPU's ops, unchecked, that say they overlap.
class OverlappingOps final : public Ops {
 public:
  explicit OverlappingOps(const Ops& inner) : inner_(inner) {}
  std::string name() const override { return inner_.name(); }
  Status supports(const AttentionPlanArgs& args) const override { return inner_.supports(args); }
  bool merges_state(const AttentionPlanArgs& args) const override { return inner_.merges_state(args); }
  bool takes_fp8_queries(const AttentionPlanArgs& args) const override { return inner_.takes_fp8_queries(args); }
  bool overlaps() const override { return true; }
  Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args) const override {
    return inner_.plan_attention(args);
  }
  Status run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const override {
    return inner_.run_attention(plan, args, stream);
  }
  Status reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const override {
    return inner_.reshape_and_cache(args, stream);
  }
  Status concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const override {
    return inner_.concat_and_cache_mla(args, stream);
  }
  Status context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const override {
    return inner_.context_chunk_offsets(args, stream);
  }
  Status gather_cache(const GatherCacheArgs& args, Stream stream) const override {
    return inner_.gather_cache(args, stream);
  }
  Status merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const override {
    return inner_.merge_attn_states(args, stream);
  }
  Status copy_blocks(const CopyBlocksArgs& args, Stream stream) const override {
    return inner_.copy_blocks(args, stream);
  }
  Status copy_pad(const CopyPadArgs& args, Stream stream) const override { return inner_.copy_pad(args, stream); }
  size_t gemm_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_.gemm_workspace_bytes(m, n, k);
  }
  Status gemm(const GemmArgs& args, Stream stream) const override { return inner_.gemm(args, stream); }

 private:
  const Ops& inner_;
};

class OverlappingDevice final : public Device {
 public:
  explicit OverlappingDevice(std::shared_ptr<Device> inner)
      : inner_(std::move(inner)),
        portable_(inner_->ops(KernelFamily::kPortable).unchecked()),
        tuned_(inner_->ops(KernelFamily::kTuned).unchecked()) {}
  const DeviceInfo& info() const override { return inner_->info(); }
  const Ops& ops(KernelFamily family) const override { return family == KernelFamily::kPortable ? portable_ : tuned_; }
  Result<void*> allocate(size_t bytes) override { return inner_->allocate(bytes); }
  void deallocate(void* pointer) override { inner_->deallocate(pointer); }
  Status copy_to_device(void* device, const void* host, size_t bytes, Stream stream) override {
    return inner_->copy_to_device(device, host, bytes, stream);
  }
  Status copy_to_host(void* host, const void* device, size_t bytes, Stream stream) override {
    return inner_->copy_to_host(host, device, bytes, stream);
  }
  Status fill(void* device, uint8_t value, size_t bytes, Stream stream) override {
    return inner_->fill(device, value, bytes, stream);
  }
  Status synchronize(Stream stream) override { return inner_->synchronize(stream); }

 private:
  std::shared_ptr<Device> inner_;
  OverlappingOps portable_, tuned_;
};

std::shared_ptr<Device> overlapping_device() {
  auto cpu = open_device(DeviceKind::kCpu);
  return cpu ? std::make_shared<OverlappingDevice>(*cpu) : nullptr;
}

// One request of 8192 new tokens behind `context`: what the plan says of its chunks.
std::string chunks_of(const char* backend, const AttentionSpec& spec, const KvCacheSpec& cache, int32_t context) {
  const auto device = overlapping_device();
  const std::vector<int32_t> query_start_loc{0, 8192}, seq_lens{8192 + context};
  PlanRequest request;
  request.spec = spec;
  request.cache = cache;
  request.batch.query_start_loc = query_start_loc;
  request.batch.seq_lens = seq_lens;
  request.batch.max_blocks_per_request = cache.num_blocks;
  const auto plan = find_backend(backend).value()->plan(*device, request);
  if (!plan) return plan.status().message();
  return (*plan)->steps().back();
}

// Keys of 16 heads of 192 and 128 take 14 kB a token with what they are made of, latents 1 kB: the keys are there once.
TEST(TwoBuffers, LatentsDoNotHalveTheChunks) {
  AttentionSpec spec;
  spec.num_heads = spec.num_kv_heads = 16;
  spec.head_dim = 192;
  spec.head_dim_v = 128;
  spec.softmax_scale = 0.07F;
  spec.mla = {512, 128, 64, 128};
  const KvCacheSpec cache{KvLayout::kLatent, DType::kBF16, 8192, 16, 1, 576, 512, KvScales::kShared};
  const std::string chunks = chunks_of("ROCM_AITER_MLA", spec, cache, 92160);
  EXPECT_NE(chunks.find("3 chunks of 37449 keys a request or more, 37449 rows at most, two buffers"), std::string::npos)
      << chunks;
}

TEST(TwoBuffers, GatheredKeysDo) {
  AttentionSpec spec;
  spec.num_heads = 32;
  spec.num_kv_heads = 8;
  spec.head_dim = spec.head_dim_v = 128;
  spec.softmax_scale = 0.09F;
  const KvCacheSpec cache{KvLayout::kNHD, DType::kBF16, 8192, 16, 8, 128, 128, KvScales::kShared};
  const std::string chunks = chunks_of("ROCM_AITER_FA", spec, cache, 65536);
  EXPECT_NE(chunks.find("4 chunks of 16384 keys a request or more, 16384 rows at most, two buffers"), std::string::npos)
      << chunks;
}

TEST(TwoBuffers, EveryBackendWithChunksGivesTheOraclesResult) {
  const auto device = overlapping_device();
  ASSERT_NE(device, nullptr);
  for (const char* backend : {"ROCM_AITER_MLA", "TRITON_MLA", "ROCM_AITER_FA"}) {
    for (const int64_t rows : {23, 64, 1000}) {
      for (const bool deterministic : {false, true}) {
        SCOPED_TRACE(std::string(backend) + ", rows " + std::to_string(rows) +
                     (deterministic ? ", deterministic" : ""));
        verify::RandomCase test;
        test.backend = backend;
        test.spec.num_heads = 4;
        test.spec.softmax_scale = 0.2F;
        if (std::string(backend) == "ROCM_AITER_FA") {
          test.spec.num_kv_heads = 2;
          test.spec.head_dim = test.spec.head_dim_v = 32;
        } else {
          test.layout = KvLayout::kLatent;
          test.spec.num_kv_heads = 4;
          test.spec.head_dim = 24;
          test.spec.head_dim_v = 16;
          test.spec.mla = {32, 16, 8, 16};
        }
        test.requests = {{3, 240}, {1, 90}, {40, 133}, {5, 5}, {17, 18}};
        test.options.chunk_workspace_rows = rows;
        test.options.deterministic = deterministic;
        const verify::RandomVerdict verdict = verify::run_random_case(*device, test, {});
        EXPECT_EQ(verdict.kind, verify::RandomVerdict::Kind::kPassed) << verdict.message;
      }
    }
  }
}

}  // namespace
}  // namespace sextant
