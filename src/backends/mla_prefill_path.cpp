// Plans and runs MLA prefill: project keys and values up, attend as ordinary heads.
#include "backends/mla_prefill_path.h"

#include <algorithm>

namespace sextant {
namespace {

// vLLM's rule for the rows of the chunk workspace ...
int64_t chunk_rows_rule(const PlanRequest& request) {
  int64_t longest = request.options.bounds.max_seq_len;
  for (int32_t seq_len : request.batch.seq_lens) longest = std::max<int64_t>(longest, seq_len);
  const int64_t block_rows = int64_t{request.batch.num_requests()} * request.cache.block_size;
  return std::max(std::min<int64_t>(std::max(8 * longest, 4 * block_rows), 64 * 1024), block_rows);
}

// ... and a bound on what the up-projected chunk may take: with 128 heads that rule alone would mean 7 GB.
constexpr int64_t kMaxChunkBytes = int64_t{512} << 20;
constexpr int64_t kMinChunkRows = 512;

// Deterministic: of one request's chunk. In steps of 64 keys, whole tiles.
constexpr int64_t kDeterministicChunkBytes = int64_t{16} << 20;
int64_t deterministic_chunk_keys(int64_t row_bytes) {
  return std::clamp<int64_t>(kDeterministicChunkBytes / row_bytes / 64 * 64, 64, 1024);
}

TensorView with_heads(const TensorView& rows, int64_t heads) {  // [rows, dim] -> [rows, heads, dim], broadcast
  TensorView view = rows;
  view.rank = 3;
  view.shape = {rows.shape[0], heads, rows.shape[1]};
  view.stride = {rows.stride[0], 0, rows.stride[1]};
  return view;
}

TensorView as_batch_of_one(const TensorView& matrix) {  // [m, n] -> [1, m, n]
  TensorView view = matrix;
  view.rank = 3;
  view.shape = {1, matrix.shape[0], matrix.shape[1]};
  view.stride = {0, matrix.stride[0], matrix.stride[1]};
  return view;
}

}  // namespace

PlanRequest mla_prefill_request(const PlanRequest& request, int32_t value_dim) {
  PlanRequest mha = request;
  mha.spec.mla = {};
  mha.spec.head_dim_v = value_dim;
  return mha;
}

Result<std::unique_ptr<MlaPrefillPath>> MlaPrefillPath::make(const Ops& ops, const PlanRequest& request,
                                                             int32_t value_dim, WorkspaceLayout& layout) {
  auto path = std::make_unique<MlaPrefillPath>();
  path->ops_ = &ops;
  path->spec_ = request.spec;
  path->value_dim_ = value_dim;
  path->num_requests_ = request.batch.num_requests();
  path->num_tokens_ = request.batch.num_tokens();
  path->runs_ = token_runs(request.batch, prefill_filter(request.options));
  path->tokens_ = cover(path->runs_);

  const MlaSpec& m = request.spec.mla;
  const int64_t heads = request.spec.num_heads;
  const auto element = static_cast<int64_t>(size_of(request.spec.dtype));
  const int64_t padded_dim = path->pads_values() ? value_dim : 0;
  const int64_t row_bytes = heads * (m.qk_nope_head_dim + m.v_head_dim + request.spec.head_dim + padded_dim) * element;
  ChunkedPrefillConfig config;
  config.lse_out = request.options.lse_out;
  config.out_dtype = request.spec.dtype;
  config.workspace_rows = request.options.chunk_workspace_rows > 0
                              ? request.options.chunk_workspace_rows
                              : std::min(chunk_rows_rule(request), std::max(kMaxChunkBytes / row_bytes, kMinChunkRows));
  config.shares_rows = false;  // two buffers of latents; their keys, ten times as large, are there once
  if (request.options.deterministic) config.keys_a_chunk = deterministic_chunk_keys(row_bytes);
  path->deterministic_ = request.options.deterministic;
  auto attention = ChunkedPrefill::make(ops, mla_prefill_request(request, value_dim), config, layout);
  if (!attention) return attention.status();
  path->attention_ = std::move(attention).value();
  path->steps = path->attention_.steps();

  // The new tokens' keys are done with before the first chunk is loaded: both use the same workspace.
  const int64_t rows = std::max(path->tokens_.size(), path->attention_.chunk_rows());
  path->projected_ = layout.take(static_cast<size_t>(rows * heads * (m.qk_nope_head_dim + m.v_head_dim) * element));
  path->k_ = layout.take(static_cast<size_t>(rows * heads * request.spec.head_dim * element));
  path->v_padded_ = layout.take(static_cast<size_t>(rows * heads * padded_dim * element));
  // The first one also takes the new tokens' latents where only the cache has them.
  for (int i = 0; i < std::max(1, path->attention_.buffers()); ++i) {
    const int64_t latents = std::max(path->attention_.chunk_rows(), i == 0 ? path->num_tokens_ : 0);
    path->latent_[i] = layout.take(static_cast<size_t>(latents * request.cache.head_dim * element));
  }
  path->out_padded_ = layout.take(static_cast<size_t>(path->tokens_.size() * heads * padded_dim * element));
  path->gemm_workspace_ =
      layout.take(ops.gemm_workspace_bytes(rows, heads * (m.qk_nope_head_dim + m.v_head_dim), m.kv_lora_rank));
  return path;
}

TensorView MlaPrefillPath::projected_view(const RunTensors& tensors, TokenRun run, int64_t rows) const {
  return token_view(projected_, tensors.workspace, spec_.dtype, run, rows, spec_.num_heads,
                    spec_.mla.qk_nope_head_dim + spec_.mla.v_head_dim);
}

PackedKeys MlaPrefillPath::keys_view(const RunTensors& tensors, TokenRun run, int64_t rows) const {
  PackedKeys keys;
  keys.k = token_view(k_, tensors.workspace, spec_.dtype, run, rows, spec_.num_heads, spec_.head_dim);
  keys.v = pads_values()
               ? token_view(v_padded_, tensors.workspace, spec_.dtype, run, rows, spec_.num_heads, value_dim_)
               : slice(projected_view(tensors, run, rows), 2, spec_.mla.qk_nope_head_dim, spec_.mla.v_head_dim);
  return keys;
}

Status MlaPrefillPath::up_project(const TensorView& latent, const TensorView& k_pe, const PackedKeys& keys,
                                  const TensorView& projected, const RunTensors& tensors, Stream stream) const {
  const MlaSpec& m = spec_.mla;
  TensorView weight = tensors.kv_b_proj;  // [N * (nope + v), rank] as [rank, N * (nope + v)]
  std::swap(weight.shape[0], weight.shape[1]);
  std::swap(weight.stride[0], weight.stride[1]);
  TensorView flat = projected;
  flat.rank = 2;
  flat.shape = {projected.shape[0], projected.shape[1] * projected.shape[2]};
  flat.stride = {projected.stride[0], 1};
  GemmArgs gemm{as_batch_of_one(latent), as_batch_of_one(weight),
                as_batch_of_one(flat),   gemm_workspace_.at(tensors.workspace),
                gemm_workspace_.bytes,   deterministic_};
  SEXTANT_RETURN_IF_ERROR(ops_->gemm(gemm, stream));
  SEXTANT_RETURN_IF_ERROR(
      ops_->copy_pad({slice(projected, 2, 0, m.qk_nope_head_dim), slice(keys.k, 2, 0, m.qk_nope_head_dim)}, stream));
  SEXTANT_RETURN_IF_ERROR(ops_->copy_pad(
      {with_heads(k_pe, spec_.num_heads), slice(keys.k, 2, m.qk_nope_head_dim, m.qk_rope_head_dim)}, stream));
  if (!pads_values()) return Status::ok();
  return ops_->copy_pad({slice(projected, 2, m.qk_nope_head_dim, m.v_head_dim), keys.v}, stream);
}

TensorView MlaPrefillPath::latent_view(int buffer, int64_t rows, const RunTensors& tensors) const {
  return make_view(latent_[buffer].at(tensors.workspace), spec_.dtype, {rows, 1, tensors.cache.spec.head_dim});
}

Result<MlaPrefillPath::Latents> MlaPrefillPath::new_latents(const RunTensors& tensors, Stream stream) const {
  if (tensors.slot_mapping != nullptr) return Latents{tensors.kv_c, tensors.k_pe};
  GatherCacheArgs gather = gather_args(tensors);
  gather.key_start_loc = tensors.query_start_loc;
  gather.seq_lens = tensors.seq_lens;
  gather.max_rows = num_tokens_;
  gather.k = latent_view(0, num_tokens_, tensors);
  SEXTANT_RETURN_IF_ERROR(ops_->gather_cache(gather, stream));
  return split_latents(gather.k);
}

MlaPrefillPath::Latents MlaPrefillPath::split_latents(const TensorView& rows) const {
  const MlaSpec& m = spec_.mla;
  const TensorView flat = make_view(rows.data, rows.dtype, {rows.shape[0], rows.shape[2]});
  return {slice(flat, 1, 0, m.kv_lora_rank), slice(flat, 1, m.kv_lora_rank, m.qk_rope_head_dim)};
}

GatherCacheArgs MlaPrefillPath::gather_args(const RunTensors& tensors) const {
  GatherCacheArgs gather;
  gather.cache = tensors.cache;
  gather.block_table = tensors.block_table;
  gather.block_table_stride = tensors.block_table_stride;
  gather.num_requests = num_requests_;
  return gather;
}

Status MlaPrefillPath::gather_chunk(const ContextChunk& chunk, const RunTensors& tensors, Stream stream) const {
  GatherCacheArgs gather = gather_args(tensors);
  gather.key_start_loc = chunk.key_start_loc;
  gather.chunk_begin = chunk.begin;
  gather.max_rows = chunk.rows;
  gather.beside_previous = chunk.beside_previous;
  gather.k = latent_view(chunk.buffer, chunk.rows, tensors);
  return ops_->gather_cache(gather, stream);
}

Result<PackedKeys> MlaPrefillPath::project_chunk(const ContextChunk& chunk, const RunTensors& tensors,
                                                 Stream stream) const {
  const Latents latents = split_latents(latent_view(chunk.buffer, chunk.rows, tensors));
  const TokenRun run{0, chunk.rows};
  const PackedKeys keys = keys_view(tensors, run, chunk.rows);
  SEXTANT_RETURN_IF_ERROR(
      up_project(latents.kv_c, latents.k_pe, keys, projected_view(tensors, run, chunk.rows), tensors, stream));
  return keys;
}

class MlaPrefillPath::Loader final : public ChunkLoader {
 public:
  Loader(const MlaPrefillPath& path, const RunTensors& tensors, Stream stream)
      : path_(path), tensors_(tensors), stream_(stream) {}
  Status gather(const ContextChunk& chunk) const override { return path_.gather_chunk(chunk, tensors_, stream_); }
  Result<PackedKeys> keys(const ContextChunk& chunk) const override {
    return path_.project_chunk(chunk, tensors_, stream_);
  }

 private:
  const MlaPrefillPath& path_;
  const RunTensors& tensors_;
  const Stream stream_;
};

Status MlaPrefillPath::launch(const RunTensors& tensors, Stream stream) const {
  const auto latents = new_latents(tensors, stream);
  if (!latents) return latents.status();
  const PackedKeys keys = keys_view(tensors, tokens_, num_tokens_);
  const TensorView projected = projected_view(tensors, tokens_, num_tokens_);
  for (const TokenRun& run : runs_) {
    const auto rows = [&](const TensorView& view) { return slice(view, 0, run.begin, run.size()); };
    SEXTANT_RETURN_IF_ERROR(up_project(rows(latents->kv_c), rows(latents->k_pe), {rows(keys.k), rows(keys.v)},
                                       rows(projected), tensors, stream));
  }
  RunTensors heads = tensors;
  if (pads_values())
    heads.out =
        token_view(out_padded_, tensors.workspace, spec_.dtype, tokens_, num_tokens_, spec_.num_heads, value_dim_);
  SEXTANT_RETURN_IF_ERROR(attention_.run(heads, keys, Loader(*this, tensors, stream), stream));
  return pads_values() ? copy_outputs(heads.out, tensors, stream) : Status::ok();
}

Status MlaPrefillPath::copy_outputs(const TensorView& padded, const RunTensors& tensors, Stream stream) const {
  for (const TokenRun& run : runs_) {
    const TensorView rows = slice(slice(padded, 0, run.begin, run.size()), 2, 0, spec_.mla.v_head_dim);
    SEXTANT_RETURN_IF_ERROR(ops_->copy_pad({rows, slice(tensors.out, 0, run.begin, run.size())}, stream));
  }
  return Status::ok();
}

}  // namespace sextant
