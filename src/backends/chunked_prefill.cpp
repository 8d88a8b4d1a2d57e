// Plans and runs prefill and extend in chunks of context: gather, attend, merge.
#include "backends/chunked_prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "types/ceil_div.h"

namespace sextant {
namespace {

using Context = RequestFilter::Context;

// Each chunk is planned, launched and merged by itself: more than these are a mistake in some length, and planning
// them would take seconds and gigabytes.
constexpr int64_t kMaxChunks = 4096;

// Contexts of the requests that pass the filter, seen from key_begin on.
std::vector<int64_t> planned_contexts(const BatchMetadata& batch, const RequestFilter& filter, int64_t key_begin) {
  std::vector<int64_t> lens;
  for (size_t b = 0; b < batch.seq_lens.size(); ++b) {
    const int32_t query_len = batch.query_start_loc[b + 1] - batch.query_start_loc[b];
    if (filter.matches(query_len, batch.seq_lens[b]))
      lens.push_back(std::max<int64_t>(0, int64_t{batch.seq_lens[b]} - query_len - key_begin));
  }
  return lens;
}

// With bounds the rows of long queries may be divided among requests in other ways, and any request may be the longest:
// as many contexts as there can be, each as long as one can be. Rows of short queries stay theirs (backend.h).
std::vector<int64_t> possible_contexts(const PlanRequest& request, const RequestFilter& filter, int64_t key_begin) {
  const BatchMetadata& batch = request.batch;
  const PlanBounds& bounds = request.options.bounds;
  const int64_t shortest = filter.min_query_len, short_len = shortest - 1;
  int64_t rows = 0, longest_query = bounds.max_query_len, longest_seq = bounds.max_seq_len;
  for (size_t b = 0; b < batch.seq_lens.size(); ++b) {
    const int64_t query_len = batch.query_start_loc[b + 1] - batch.query_start_loc[b];
    if (query_len >= shortest) rows += query_len;
    longest_query = std::max(longest_query, query_len);
    longest_seq = std::max<int64_t>(longest_seq, batch.seq_lens[b]);
  }
  if (rows == 0) return {};
  const int64_t short_rows = batch.num_tokens() - rows;
  const int64_t others = short_rows == 0 ? 0 : ceil_div(short_rows, short_len);  // requests, at least
  const int64_t count = std::min(batch.num_requests() - others, rows / shortest);
  const int64_t query_len = std::max(shortest, rows - (count - 1) * longest_query);
  return std::vector<int64_t>(static_cast<size_t>(count), std::max<int64_t>(0, longest_seq - query_len - key_begin));
}

std::vector<int64_t> context_lens(const PlanRequest& request, const RequestFilter& filter, int64_t key_begin) {
  return request.options.bounds.open() ? possible_contexts(request, filter, key_begin)
                                       : planned_contexts(request.batch, filter, key_begin);
}

// Keys of a chunk, all requests together.
int64_t chunk_keys(const std::vector<int64_t>& lens, int64_t begin, int64_t len) {
  int64_t rows = 0;
  for (const int64_t context : lens) rows += std::clamp<int64_t>(context - begin, 0, len);
  return rows;
}

// First context position that some query's window still reaches.
int64_t first_visible_key(const PlanRequest& request, const RequestFilter& filter) {
  const AttentionMask mask = request.spec.mask();
  if (request.options.bounds.open()) return 0;
  int64_t first = std::numeric_limits<int64_t>::max();
  for (int64_t context_len : context_lens(request, filter, 0))
    first = std::min(first, mask.widest().first_key(context_len));
  return std::max<int64_t>(0, first);
}

// Keys of each request that a chunk takes, from `begin` on, so that all of them fit in `rows`: as shorter contexts end,
// the chunks of the others grow.
int64_t chunk_length(const std::vector<int64_t>& lens, int64_t begin, int64_t rows) {
  std::vector<int64_t> left;
  for (const int64_t len : lens)
    if (len > begin) left.push_back(len - begin);
  std::sort(left.begin(), left.end());
  for (size_t i = 0; i < left.size(); ++i) {
    const auto sharing = static_cast<int64_t>(left.size() - i);  // those that have as much as this one or more
    if (left[i] * sharing > rows) return std::max<int64_t>(1, rows / sharing);
    rows -= left[i];
  }
  return left.empty() ? 1 : left.back();
}

}  // namespace

Result<ChunkedPrefill> ChunkedPrefill::make(const Ops& ops, const PlanRequest& request,
                                            const ChunkedPrefillConfig& config, WorkspaceLayout& layout) {
  ChunkedPrefill p;
  p.ops_ = &ops;
  p.num_requests_ = request.batch.num_requests();
  p.lse_out_ = config.lse_out;
  p.extend_filter_ = prefill_filter(request.options, request.options.bounds.open() ? Context::kAny : Context::kSome);
  SEXTANT_RETURN_IF_ERROR(p.plan_chunks(request, config));
  SEXTANT_RETURN_IF_ERROR(p.plan_new_tokens(request, config));

  size_t op_bytes = 0;
  const auto add = [&](TurnOp& op) {
    op.take_kept(layout);
    op_bytes = std::max(op_bytes, op.workspace_bytes());
  };
  add(p.direct_);
  add(p.new_tokens_);
  for (Chunk& chunk : p.chunks_) add(chunk.op);
  p.op_workspace_ = layout.take(op_bytes);
  if (!p.chunks_.empty()) {
    const TokenRun tokens = cover(token_runs(request.batch, p.extend_filter_));
    const int64_t heads = request.spec.num_heads, dim = request.spec.value_head_dim();
    p.key_start_loc_ = layout.take(p.chunks_.size() * static_cast<size_t>(p.num_requests_ + 1) * sizeof(int32_t));
    p.state_ = take_state(layout, tokens, request.batch.num_tokens(), heads, dim);
    if (!p.merges_ || p.chunks_.size() > 1)
      p.chunk_state_ = take_state(layout, tokens, request.batch.num_tokens(), heads, dim);
  }
  return p;
}

Status ChunkedPrefill::plan_new_tokens(const PlanRequest& request, const ChunkedPrefillConfig& config) {
  AttentionPlanArgs args = plan_args(AttentionOp::kVarlen, request);
  args.key_start_loc = request.batch.query_start_loc;
  args.max_packed_keys = request.batch.num_tokens();
  args.key_begin = kKeysAfterContext;
  args.split = config.split;
  // Requests that see nothing but their new tokens write the result; with no chunk to attend that is all of them.
  const RequestFilter direct =
      chunks_.empty() ? prefill_filter(request.options) : prefill_filter(request.options, Context::kNone);
  if (count_requests(request.batch, direct) > 0 && extend_filter_.context != Context::kAny) {
    args.filter = direct;
    args.lse_out = config.lse_out;
    args.out_dtype = config.out_dtype;
    auto plan = ops_->plan_attention(args);
    if (!plan) return plan.status();
    direct_.plan = std::move(plan).value();
    steps_.insert(steps_.begin(), "prefill: " + direct_.plan->describe());
  }
  if (chunks_.empty()) return Status::ok();
  args.filter = extend_filter_;
  args.lse_out = true;
  args.out_dtype = DType::kF32;
  auto plan = ops_->plan_attention(args);
  if (!plan) return plan.status();
  new_tokens_.plan = std::move(plan).value();
  steps_.insert(steps_.begin(), "extend, new tokens: " + new_tokens_.plan->describe());
  return Status::ok();
}

Status ChunkedPrefill::plan_chunks(const PlanRequest& request, const ChunkedPrefillConfig& config) {
  const std::vector<int64_t> lens = context_lens(request, extend_filter_, config.key_begin);
  const int64_t longest = lens.empty() ? 0 : *std::max_element(lens.begin(), lens.end());
  if (longest == 0) {
    if (extend_filter_.context == Context::kAny) extend_filter_.context = Context::kSome;
    return Status::ok();
  }
  int64_t rows_a_buffer = config.workspace_rows;
  if (request.options.chunk_workspace_rows == 0)  // the backend's rule: it must do for contexts of any length
    rows_a_buffer = std::max(rows_a_buffer, 2 * (longest / kMaxChunks + 1) * static_cast<int64_t>(lens.size()));
  const auto length_from = [&](int64_t begin) {
    return config.keys_a_chunk > 0 ? config.keys_a_chunk : chunk_length(lens, begin, rows_a_buffer);
  };
  if (ops_->overlaps() && length_from(0) < longest) {
    buffers_ = 2;
    if (config.keys_a_chunk == 0 && config.shares_rows) rows_a_buffer /= 2;
  }
  std::vector<int64_t> chunk_lens;
  for (int64_t begin = 0; begin < longest; begin += chunk_lens.back()) {
    if (static_cast<int64_t>(chunk_lens.size()) == kMaxChunks)
      return invalid_argument(fmt::format(
          "{}: a context of {} keys in chunks of {} a request; allowed: at most {} chunks (more rows, fewer requests)",
          config.keys_a_chunk > 0 ? "seq_lens" : "options.chunk_workspace_rows", longest, length_from(0), kMaxChunks));
    chunk_lens.push_back(std::min(length_from(begin), longest));
  }

  AttentionPlanArgs args = plan_args(AttentionOp::kVarlen, request);
  args.filter = extend_filter_;
  const int32_t left = request.spec.mask().left;
  args.spec.window_left = left == AttentionMask::kUnlimited ? -1 : left;
  args.spec.sliding_window = 0;
  args.spec.causal = false;  // the whole context is in every query's past
  args.spec.window_right = -1;
  args.spec.has_sinks = false;  // a sink counts once: with the new tokens
  args.lse_out = true;
  args.out_dtype = DType::kF32;
  args.split = config.split;
  args.merge_state = true;
  merges_ = ops_->merges_state(args);
  args.merge_state = merges_;
  const int64_t first_visible = first_visible_key(request, extend_filter_);
  const std::vector<int64_t> planned = planned_contexts(request.batch, extend_filter_, config.key_begin);
  std::vector<int32_t> key_start_loc(request.batch.query_start_loc.size());
  int64_t end = 0;
  for (const int64_t len : chunk_lens) {
    const int64_t begin = end;
    end += len;
    if (config.key_begin + begin + len <= first_visible) continue;
    const int64_t rows = chunk_keys(lens, begin, len);
    int64_t row = 0;
    size_t next = 0;
    for (size_t b = 0; b + 1 < key_start_loc.size(); ++b) {
      key_start_loc[b] = static_cast<int32_t>(row);
      const int32_t query_len = request.batch.query_start_loc[b + 1] - request.batch.query_start_loc[b];
      if (extend_filter_.matches(query_len, request.batch.seq_lens[b]))
        row += std::clamp<int64_t>(planned[next++] - begin, 0, len);
    }
    key_start_loc.back() = static_cast<int32_t>(row);
    args.key_begin = config.key_begin + begin;
    args.max_packed_keys = rows;
    args.key_start_loc = key_start_loc;
    if (merges_ && end >= longest) {  // the last one writes the result
      args.out_dtype = config.out_dtype;
      args.lse_out = config.lse_out;
    }
    auto plan = ops_->plan_attention(args);
    if (!plan) return plan.status();
    chunks_.push_back({args.key_begin, len, rows, {std::move(plan).value(), {}}});
    chunk_rows_ = std::max(chunk_rows_, rows);
  }
  if (!chunks_.empty())
    steps_.push_back(
        fmt::format("extend, context: {} chunks of {} keys a request or more, {} rows at most, {}; each: load, {}, {}",
                    chunks_.size(), chunks_.front().len, chunk_rows_, buffers_ == 2 ? "two buffers" : "one buffer",
                    chunks_.front().op.plan->describe(), merges_ ? "merged in its epilogue" : "merge_attn_states"));
  return Status::ok();
}

ContextChunk ChunkedPrefill::context_chunk(size_t index, const RunTensors& tensors) const {
  auto* offsets = static_cast<int32_t*>(key_start_loc_.at(tensors.workspace));
  return {chunks_[index].begin, chunks_[index].rows, offsets + index * static_cast<size_t>(num_requests_ + 1),
          buffers_ == 2 ? static_cast<int>(index % 2) : 0, buffers_ == 2 && index > 0};
}

Status ChunkedPrefill::find_offsets(const RunTensors& tensors, Stream stream) const {
  auto* offsets = static_cast<int32_t*>(key_start_loc_.at(tensors.workspace));
  for (const Chunk& chunk : chunks_) {
    SEXTANT_RETURN_IF_ERROR(ops_->context_chunk_offsets(
        {tensors.query_start_loc, tensors.seq_lens, num_requests_, extend_filter_, chunk.begin, chunk.len, offsets},
        stream));
    offsets += num_requests_ + 1;
  }
  return Status::ok();
}

TensorView ChunkedPrefill::final_out(const RunTensors& tensors) const {
  return slice(tensors.out, 0, 0, state_.num_tokens);
}
TensorView ChunkedPrefill::final_lse(const RunTensors& tensors) const {
  return lse_out_ ? slice(tensors.lse, 1, 0, state_.num_tokens) : TensorView{};
}

Status ChunkedPrefill::attend_chunk(size_t index, const RunTensors& tensors, const ChunkLoader& loader,
                                    Stream stream) const {
  const ContextChunk chunk = context_chunk(index, tensors);
  auto keys = loader.keys(chunk);
  if (!keys) return keys.status();
  const bool last = index + 1 == chunks_.size();
  AttentionArgs args = run_args(tensors);
  args.k = keys->k;
  args.v = keys->v;
  args.key_start_loc = chunk.key_start_loc;
  args.workspace = op_workspace_.at(tensors.workspace);
  const StateRegion& to = merges_ && index % 2 == 1 ? state_ : chunk_state_;
  if (merges_) {
    const StateRegion& from = index % 2 == 0 ? state_ : chunk_state_;
    args.state_out = from.out_view(tensors.workspace);
    args.state_lse = from.lse_view(tensors.workspace);
  }
  args.out = merges_ && last ? final_out(tensors) : to.out_view(tensors.workspace);
  args.lse = merges_ && last ? final_lse(tensors) : to.lse_view(tensors.workspace);
  return chunks_[index].op.run(*ops_, args, tensors.workspace, stream);
}

Status ChunkedPrefill::merge(const StateRegion& chunk, bool last, const RunTensors& tensors, Stream stream) const {
  MergeAttnStatesArgs args;
  args.prefix_out = chunk.out_view(tensors.workspace);
  args.prefix_lse = chunk.lse_view(tensors.workspace);
  args.suffix_out = state_.out_view(tensors.workspace);
  args.suffix_lse = state_.lse_view(tensors.workspace);
  args.out = last ? final_out(tensors) : args.suffix_out;
  args.lse = last ? final_lse(tensors) : args.suffix_lse;
  args.query_start_loc = tensors.query_start_loc;
  args.seq_lens = tensors.seq_lens;
  args.num_requests = num_requests_;
  args.filter = extend_filter_;
  return ops_->merge_attn_states(args, stream);
}

Status ChunkedPrefill::run(const RunTensors& tensors, const PackedKeys& new_keys, const ChunkLoader& loader,
                           Stream stream) const {
  AttentionArgs args = run_args(tensors);
  args.k = new_keys.k;
  args.v = new_keys.v;
  args.key_start_loc = tensors.query_start_loc;  // the new tokens' keys are packed as the queries are
  args.workspace = op_workspace_.at(tensors.workspace);
  if (direct_) SEXTANT_RETURN_IF_ERROR(direct_.run(*ops_, args, tensors.workspace, stream));
  if (chunks_.empty()) return Status::ok();

  if (!tensors.next_layer) SEXTANT_RETURN_IF_ERROR(find_offsets(tensors, stream));  // they hang on lengths alone
  args.out = state_.out_view(tensors.workspace);
  args.lse = state_.lse_view(tensors.workspace);
  SEXTANT_RETURN_IF_ERROR(new_tokens_.run(*ops_, args, tensors.workspace, stream));
  SEXTANT_RETURN_IF_ERROR(loader.gather(context_chunk(0, tensors)));
  for (size_t c = 0; c < chunks_.size(); ++c) {
    SEXTANT_RETURN_IF_ERROR(attend_chunk(c, tensors, loader, stream));
    const bool last = c + 1 == chunks_.size();
    if (!last) SEXTANT_RETURN_IF_ERROR(loader.gather(context_chunk(c + 1, tensors)));
    if (!merges_) SEXTANT_RETURN_IF_ERROR(merge(chunk_state_, last, tensors, stream));
  }
  return Status::ok();
}

}  // namespace sextant
