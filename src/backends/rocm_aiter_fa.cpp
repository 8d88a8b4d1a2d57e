// ROCM_AITER_FA: three paths.
//
//   k, v --> reshape_and_cache --> paged cache
//   decode  (query_len <= d):               paged_decode over the cache --------------------------> out
//   extend  (query_len > d, context):       new tokens, then the context in gathered chunks, merged --> out
//   prefill (query_len > d, no context):    varlen_attention on the raw k, v ---------------------> out
//   without k, v (query_len > d):           unified_attention over the cache ---------------------> out
//
// d is options.decode_max_query_len. The ops filter the requests themselves, so the batch needs no order.
#include <algorithm>

#include "backends/chunked_prefill.h"
#include "backends/mha_backend.h"
#include "backends/registry.h"

namespace sextant {
namespace {

// Keys that one pass of the context loop holds, over all extend requests (vLLM's figure).
constexpr int64_t kChunkRows = 32 * 1024;
constexpr int64_t kDeterministicChunkKeys = 1024;  // of a request

class ThreePaths final : public MainPath {
 public:
  Status launch(const RunTensors& tensors, Stream stream) const override {
    if (decode) {
      AttentionArgs args = run_args(tensors);
      args.workspace = decode_workspace.at(tensors.workspace);
      SEXTANT_RETURN_IF_ERROR(ops->run_attention(*decode, args, stream));
    }
    if (!tensors.k.present()) {
      if (!cached_prefill) return Status::ok();
      AttentionArgs args = run_args(tensors);
      args.workspace = cached_workspace.at(tensors.workspace);
      return ops->run_attention(*cached_prefill, args, stream);
    }
    if (prefill.empty()) return Status::ok();
    return prefill.run(tensors, {tensors.k, tensors.v}, Loader(*this, tensors, stream), stream);
  }

  PackedKeys chunk_keys(const ContextChunk& chunk, const RunTensors& tensors) const {
    const auto view = [&](const Region& region, int32_t dim) {
      return make_view(region.at(tensors.workspace), spec.dtype, {chunk.rows, spec.num_kv_heads, dim});
    };
    const Buffer& to = buffers[static_cast<size_t>(chunk.buffer)];
    return {view(to.k, spec.head_dim), view(to.v, spec.value_head_dim())};
  }

  Status gather(const ContextChunk& chunk, const RunTensors& tensors, Stream stream) const {
    GatherCacheArgs args;
    args.cache = tensors.cache;
    args.block_table = tensors.block_table;
    args.block_table_stride = tensors.block_table_stride;
    args.num_requests = num_requests;
    args.key_start_loc = chunk.key_start_loc;
    args.chunk_begin = chunk.begin;
    args.max_rows = chunk.rows;
    args.beside_previous = chunk.beside_previous;
    const PackedKeys keys = chunk_keys(chunk, tensors);
    args.k = keys.k;
    args.v = keys.v;
    return ops->gather_cache(args, stream);
  }

  class Loader final : public ChunkLoader {
   public:
    Loader(const ThreePaths& paths, const RunTensors& tensors, Stream stream)
        : paths_(paths), tensors_(tensors), stream_(stream) {}
    Status gather(const ContextChunk& chunk) const override { return paths_.gather(chunk, tensors_, stream_); }
    Result<PackedKeys> keys(const ContextChunk& chunk) const override { return paths_.chunk_keys(chunk, tensors_); }

   private:
    const ThreePaths& paths_;
    const RunTensors& tensors_;
    const Stream stream_;
  };

  struct Buffer {
    Region k, v;
  };
  const Ops* ops = nullptr;
  AttentionSpec spec;
  int32_t num_requests = 0;
  AttentionPlanPtr decode, cached_prefill;  // the second where a run brings no new keys
  ChunkedPrefill prefill;
  Region decode_workspace, cached_workspace;
  Buffer buffers[2];
};

class RocmAiterFa final : public MhaBackend {
 public:
  const BackendInfo& info() const override {
    static const BackendInfo kInfo = {
        "ROCM_AITER_FA", BackendCategory::kMha, KernelFamily::kTuned,
        "Three paths: paged decode, extend (new tokens, then the gathered context in chunks, merged by "
        "their LSE) and prefill on the raw K and V. Tuned kernels."};
    return kInfo;
  }
  KvLayout preferred_layout(const DeviceInfo& device, DType cache_dtype) const override {
    return tuned_layout(device, cache_dtype);
  }

 protected:
  std::vector<AttentionOp> ops_used() const override { return {AttentionOp::kVarlen, AttentionOp::kPagedDecode}; }

  Result<std::unique_ptr<MainPath>> make_main_path(const Ops& ops, const Device&, const PlanRequest& request,
                                                   const MainPathRequest& main,
                                                   WorkspaceLayout& layout) const override {
    auto paths = std::make_unique<ThreePaths>();
    paths->ops = &ops;
    paths->spec = request.spec;
    paths->num_requests = request.batch.num_requests();
    if (count_requests(request.batch, decode_filter(request.options)) > 0) {
      AttentionPlanArgs args = plan_args(AttentionOp::kPagedDecode, request);
      args.filter = decode_filter(request.options);
      args.key_begin = main.key_begin;
      args.lse_out = main.lse_out;
      args.out_dtype = main.out_dtype;
      auto plan = ops.plan_attention(args);
      if (!plan) return plan.status();
      paths->decode = std::move(plan).value();
      paths->decode_workspace = layout.take(paths->decode->workspace_bytes());
      paths->steps.push_back("decode: " + paths->decode->describe());
    }
    ChunkedPrefillConfig config;
    config.key_begin = main.key_begin;
    config.lse_out = main.lse_out;
    config.out_dtype = main.out_dtype;
    config.workspace_rows =
        request.options.chunk_workspace_rows > 0 ? request.options.chunk_workspace_rows : kChunkRows;
    if (request.options.deterministic) config.keys_a_chunk = kDeterministicChunkKeys;
    auto prefill = ChunkedPrefill::make(ops, request, config, layout);
    if (!prefill) return prefill.status();
    paths->prefill = std::move(prefill).value();
    auto cached = plan_cached_prefill(ops, request, main);
    if (!cached) return cached.status();
    paths->cached_prefill = std::move(cached).value();
    if (paths->cached_prefill) paths->cached_workspace = layout.take(paths->cached_prefill->workspace_bytes());
    const auto row_bytes =
        static_cast<size_t>(paths->prefill.chunk_rows() * request.spec.num_kv_heads) * size_of(request.spec.dtype);
    for (int i = 0; i < paths->prefill.buffers(); ++i)
      paths->buffers[i] = {layout.take(row_bytes * static_cast<size_t>(request.spec.head_dim)),
                           layout.take(row_bytes * static_cast<size_t>(request.spec.value_head_dim()))};
    paths->steps.insert(paths->steps.end(), paths->prefill.steps().begin(), paths->prefill.steps().end());
    return std::unique_ptr<MainPath>(std::move(paths));
  }
};

}  // namespace

const Backend* rocm_aiter_fa() {
  static const RocmAiterFa kBackend;
  return &kBackend;
}

}  // namespace sextant
