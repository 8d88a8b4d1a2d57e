// ROCM_ATTN: two paths over the split-K cache layout.
//
//   k, v --> reshape_and_cache (split-K) --> paged cache
//   query_len >  1:  prefix_prefill: context from the cache, new tokens from k, v ----------------> out
//                    without k, v: unified_attention over the cache
//   query_len == 1:  paged_decode in partitions of 256 keys --> partial states --> reduce --------> out
//
// The two ops filter the requests themselves, so the batch needs no order.
#include "backends/mha_backend.h"
#include "backends/registry.h"

namespace sextant {
namespace {

constexpr int32_t kPartitionKeys = 256;

class TwoPaths final : public MainPath {
 public:
  Status launch(const RunTensors& tensors, Stream stream) const override {
    AttentionArgs args = run_args(tensors);
    args.workspace = workspace.at(tensors.workspace);
    const TurnOp& long_queries = tensors.k.present() ? prefill : cached_prefill;
    if (long_queries) SEXTANT_RETURN_IF_ERROR(long_queries.run(*ops, args, tensors.workspace, stream));
    if (decode) SEXTANT_RETURN_IF_ERROR(decode.run(*ops, args, tensors.workspace, stream));
    return Status::ok();
  }

  const Ops* ops = nullptr;
  TurnOp prefill, cached_prefill, decode;  // the second where a run brings no new keys
  Region workspace;                        // the paths run one after the other and share it
};

class RocmAttn final : public MhaBackend {
 public:
  const BackendInfo& info() const override {
    static const BackendInfo kInfo = {
        "ROCM_ATTN", BackendCategory::kMha, KernelFamily::kPortable,
        "Two paths: prefix prefill (context from the cache, new tokens from the raw K and V) and paged "
        "decode in partitions of 256 keys. Split-K cache layout."};
    return kInfo;
  }
  KvLayout preferred_layout(const DeviceInfo&, DType) const override { return KvLayout::kSplitK; }

 protected:
  std::vector<AttentionOp> ops_used() const override {
    return {AttentionOp::kPrefixPrefill, AttentionOp::kPagedDecode};
  }

  Result<std::unique_ptr<MainPath>> make_main_path(const Ops& ops, const Device&, const PlanRequest& request,
                                                   const MainPathRequest& main,
                                                   WorkspaceLayout& layout) const override {
    auto paths = std::make_unique<TwoPaths>();
    paths->ops = &ops;
    const auto add = [&](AttentionOp op, const RequestFilter& filter, SplitPolicy split, TurnOp& slot) -> Status {
      if (count_requests(request.batch, filter) == 0) return Status::ok();
      AttentionPlanArgs args = plan_args(op, request);
      args.filter = filter;
      args.split = request.options.deterministic ? SplitPolicy{} : split;
      args.key_begin = main.key_begin;
      args.lse_out = main.lse_out;
      args.out_dtype = main.out_dtype;
      auto plan = ops.plan_attention(args);
      if (!plan) return plan.status();
      slot.plan = std::move(plan).value();
      paths->steps.push_back(slot.plan->describe());
      return Status::ok();
    };
    SEXTANT_RETURN_IF_ERROR(add(AttentionOp::kPrefixPrefill, prefill_filter(request.options),
                                {.kind = SplitPolicy::Kind::kAuto}, paths->prefill));
    SEXTANT_RETURN_IF_ERROR(add(AttentionOp::kPagedDecode, decode_filter(request.options),
                                {.kind = SplitPolicy::Kind::kPartition, .value = kPartitionKeys}, paths->decode));
    auto cached = plan_cached_prefill(ops, request, main);
    if (!cached) return cached.status();
    paths->cached_prefill.plan = std::move(cached).value();
    size_t workspace_bytes = 0;
    for (TurnOp* op : {&paths->prefill, &paths->decode, &paths->cached_prefill}) {
      op->take_kept(layout);
      workspace_bytes = std::max(workspace_bytes, op->workspace_bytes());
    }
    paths->workspace = layout.take(workspace_bytes);
    return std::unique_ptr<MainPath>(std::move(paths));
  }
};

}  // namespace

const Backend* rocm_attn() {
  static const RocmAttn kBackend;
  return &kBackend;
}

}  // namespace sextant
