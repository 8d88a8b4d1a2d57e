// CUDA's ops: each is a launch or two on the caller's stream.
#include "devices/cuda/cuda_ops.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include "devices/cuda/cuda_status.h"
#include "devices/cuda/device_scope.h"
#include "devices/cuda/kernels/cache_kernels.h"

namespace sextant::cuda {
namespace {

cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

}  // namespace

CudaOps::CudaOps(const DeviceInfo& info, const ChipLimits& chip, KernelFamily family)
    : index_(info.index),
      chip_(chip),
      family_(family),
      name_(family == KernelFamily::kTuned ? "cuda/tuned (sm_90a)"
                                           : fmt::format("cuda/portable ({})", info.architecture)) {}

Result<AttentionPlanPtr> CudaOps::plan_attention(const AttentionPlanArgs& args) const {
  return cuda::plan_attention(args, chip_, family_);
}

Status CudaOps::run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const {
  const auto* planned = dynamic_cast<const CudaAttentionPlan*>(&plan);
  if (planned == nullptr) return invalid_argument("plan is of another device; allowed: a plan that these ops made");
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return cuda::run_attention(*planned, args, chip_, stream);
}

Status CudaOps::reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const {
  if (args.num_tokens == 0) return Status::ok();
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return to_status(launch_reshape_and_cache(args, handle(stream)), "reshape_and_cache");
}

Status CudaOps::concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const {
  if (args.num_tokens == 0) return Status::ok();
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return to_status(launch_concat_and_cache_mla(args, handle(stream)), "concat_and_cache_mla");
}

Status CudaOps::context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const {
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return to_status(launch_context_chunk_offsets(args, handle(stream)), "context_chunk_offsets");
}

Status CudaOps::gather_cache(const GatherCacheArgs& args, Stream stream) const {
  if (args.num_requests == 0 || args.max_rows == 0) return Status::ok();
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return to_status(launch_gather_cache(args, handle(stream)), "gather_cache");
}

Status CudaOps::merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const {
  if (args.out.num_elements() == 0) return Status::ok();
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return to_status(launch_merge_attn_states(args, handle(stream)), "merge_attn_states");
}

Status CudaOps::copy_blocks(const CopyBlocksArgs& args, Stream stream) const {
  if (args.num_pairs == 0) return Status::ok();
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return to_status(launch_copy_blocks(args, handle(stream)), "copy_blocks");
}

Status CudaOps::copy_pad(const CopyPadArgs& args, Stream stream) const {
  if (args.dst.num_elements() == 0) return Status::ok();
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return to_status(launch_copy_pad(args, handle(stream)), "copy_pad");
}

size_t CudaOps::gemm_workspace_bytes(int64_t, int64_t, int64_t) const { return kGemmWorkspaceBytes; }

Status CudaOps::gemm(const GemmArgs& args, Stream stream) const {
  const DeviceScope scope(index_);
  SEXTANT_RETURN_IF_ERROR(scope.status());
  return gemm_.run(args, handle(stream));
}

}  // namespace sextant::cuda
