// The CPU's ops: each hands its items to the workers.
#include "devices/cpu/cpu_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

namespace sextant::cpu {

CpuOps::CpuOps(std::string name, const IsaKernels& kernels, const AttentionKernels* bf16, const AttentionKernels* fp16,
               std::shared_ptr<Executor> executor, std::shared_ptr<ScratchProvider> scratch)
    : name_(std::move(name)),
      kernels_(kernels),
      bf16_(bf16),
      fp16_(fp16),
      executor_(std::move(executor)),
      scratch_(std::move(scratch)) {
  size_t bytes = kernels_.fp32.gemm_scratch_bytes();
  if (bf16_ != nullptr) bytes = std::max(bytes, bf16_->gemm_scratch_bytes());
  gemm_scratch_ = scratch_->at_least(bytes);
}

Status CpuOps::supports(const AttentionPlanArgs& a) const {
  if (a.op != AttentionOp::kVarlen && a.cache.layout == KvLayout::kStrided && a.cache.is_latent())
    return unsupported("cache.layout is strided for a latent cache; the cpu device serves latent");
  return Status::ok();
}

Result<AttentionPlanPtr> CpuOps::plan_attention(const AttentionPlanArgs& args) const try {
  SEXTANT_RETURN_IF_ERROR(supports(args));
  auto plan = std::make_shared<CpuAttentionPlan>();
  const AttentionFamily family = attention_family(args.spec.dtype);
  plan->kernels = family.kernels;
  plan->isa = &kernels_;
  plan->kernel_name = fmt::format("{} {}", name_, family.operands);
  plan_attention_items(args, *plan->kernels, family.bytes, executor_->concurrency(), *plan);
  plan->scratch = scratch_->at_least(plan->scratch_bytes);
  return AttentionPlanPtr(std::move(plan));
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "no memory for the plan or the scratch of its workers");
}

}  // namespace sextant::cpu
