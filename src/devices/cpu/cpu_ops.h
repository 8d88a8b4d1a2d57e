// The ops of the CPU device, for one kernel family.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "devices/cpu/attention_plan.h"
#include "devices/cpu/cpu_isa.h"
#include "devices/cpu/worker_scratch.h"
#include "sextant/device.h"
#include "sextant/ops.h"

namespace sextant::cpu {

class CpuOps final : public Ops {
 public:
  // Without bf16 and fp16: the portable family, all products in fp32.
  CpuOps(std::string name, const IsaKernels& kernels, const AttentionKernels* bf16, const AttentionKernels* fp16,
         std::shared_ptr<Executor> executor, std::shared_ptr<ScratchProvider> scratch);

  std::string name() const override { return name_; }
  Status supports(const AttentionPlanArgs& args) const override;
  Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args) const override;
  Status run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const override;
  Status reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const override;
  Status concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const override;
  Status context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const override;
  Status gather_cache(const GatherCacheArgs& args, Stream stream) const override;
  Status merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const override;
  Status copy_blocks(const CopyBlocksArgs& args, Stream stream) const override;
  Status copy_pad(const CopyPadArgs& args, Stream stream) const override;
  size_t gemm_workspace_bytes(int64_t m, int64_t n, int64_t k) const override;
  Status gemm(const GemmArgs& args, Stream stream) const override;

 private:
  // A batch of products with matrices that are read once, where the kernels take it. False: nothing was done.
  bool gemm_in_place(const GemmArgs& args, const AttentionKernels& products) const;
  // Calls task(first, last) on ranges of [0, count) of about `grain` indices.
  template <class Task>
  void for_ranges(int64_t count, int64_t grain, const Task& task) const {
    const auto range = [&](int64_t i, int) { task(i * grain, i * grain + grain < count ? i * grain + grain : count); };
    executor_->parallel_for((count + grain - 1) / grain, std::cref(range));  // by reference: takes no memory
  }
  const AttentionKernels& products_for(DType dtype) const {
    return bf16_ != nullptr && dtype == DType::kBF16 ? *bf16_ : kernels_.fp32;
  }

  // Kernels of the products, the name of their operands and their bytes a number.
  struct AttentionFamily {
    const AttentionKernels* kernels;
    const char* operands;
    size_t bytes;
  };
  AttentionFamily attention_family(DType dtype) const {
    if (bf16_ != nullptr && dtype == DType::kBF16) return {bf16_, "bf16", 2};
    if (fp16_ != nullptr && dtype == DType::kF16) return {fp16_, "fp16", 6};  // three parts of bf16
    return {&kernels_.fp32, "fp32", 4};
  }

  std::string name_;
  const IsaKernels& kernels_;
  const AttentionKernels* bf16_;
  const AttentionKernels* fp16_;
  std::shared_ptr<Executor> executor_;
  std::shared_ptr<ScratchProvider> scratch_;
  WorkerScratchPtr gemm_scratch_;
};

}  // namespace sextant::cpu
