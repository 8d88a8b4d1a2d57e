// Runs a planned attention op: binds the work list to tensors, one item a task, then merges the partial results.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory_resource>
#include <new>
#include <vector>

#include "devices/cpu/cpu_ops.h"

namespace sextant::cpu {
namespace {

const char* offset(const void* base, DType dtype, int64_t elements) {
  return static_cast<const char*>(base) + elements * static_cast<int64_t>(size_of(dtype));
}

// fp8 caches carry scales, one or one a head: from this head's on.
const float* scales_of(const KvCacheView& cache, const float* scales, int32_t kv_head) {
  if (!is_fp8(cache.spec.dtype) || scales == nullptr) return nullptr;
  return scales + (cache.num_scales == 1 ? 0 : kv_head);
}

class Binder {
 public:
  Binder(const CpuAttentionPlan& plan, const WorkList& work, const AttentionArgs& args)
      : p_(plan), work_(work), a_(args), large_output_(output_bytes() > kLargeOutput) {}

  AttentionItem item(const WorkItem& w, void* scratch) const {
    const AttentionSpec& s = p_.args.spec;
    AttentionItem it;
    it.q = offset(a_.q.data, a_.q.dtype, w.token_begin * a_.q.stride[0] + w.head_begin * a_.q.stride[1]);
    it.dtype = a_.q.dtype;
    it.q_token_stride = a_.q.stride[0];
    it.q_head_stride = a_.q.stride[1];
    it.num_tokens = w.num_tokens;
    it.num_heads = w.num_heads;
    it.num_kv_heads = w.num_kv_heads;
    it.head_dim = s.head_dim;
    it.head_dim_v = s.value_head_dim();
    const auto first = static_cast<size_t>(w.token_begin);
    it.key_lo = work_.key_lo.data() + first;
    it.key_hi = work_.key_hi.data() + first;
    it.context_len = work_.context_len.data() + first;
    it.key_begin = w.key_begin;
    it.key_end = w.key_end;
    it.scale = s.softmax_scale;
    it.soft_cap = s.logits_soft_cap;
    it.alibi_slopes = s.has_alibi ? a_.alibi_slopes + w.head_begin : nullptr;
    it.tile_keys = p_.tile_keys;
    it.scratch = scratch;
    bind_sources(w, it);
    if (w.partial >= 0) {
      const int64_t rows = w.num_tokens * w.num_heads;
      it.partial_out = static_cast<float*>(a_.workspace) + w.partial;
      it.partial_max = it.partial_out + rows * it.head_dim_v;
      it.partial_sum = it.partial_max + rows;
    } else {
      bind_output(w.token_begin, w.head_begin, it);
      it.stream_output = large_output_;
    }
    return it;
  }

  template <class Item>
  void bind_output(int64_t token, int64_t head, Item& it) const {
    it.sinks = p_.args.spec.has_sinks ? a_.sinks + head : nullptr;
    it.out = const_cast<char*>(offset(a_.out.data, a_.out.dtype, token * a_.out.stride[0] + head * a_.out.stride[1]));
    it.out_dtype = a_.out.dtype;
    it.out_token_stride = a_.out.stride[0];
    it.out_head_stride = a_.out.stride[1];
    if (!p_.args.lse_out) return;
    it.lse = a_.lse.as<float>() + head * a_.lse.stride[0] + token * a_.lse.stride[1];
    it.lse_head_stride = a_.lse.stride[0];
    it.lse_token_stride = a_.lse.stride[1];
  }

 private:
  // Half of a third-level cache of today: written in full before anybody reads it, it would not stay there.
  static constexpr int64_t kLargeOutput = int64_t{16} << 20;
  int64_t output_bytes() const {
    const auto tokens = static_cast<int64_t>(work_.key_lo.size());
    return tokens * p_.args.spec.num_heads * p_.args.spec.value_head_dim() *
           static_cast<int64_t>(size_of(a_.out.dtype));
  }

  void bind_sources(const WorkItem& w, AttentionItem& it) const {
    const AttentionOp op = p_.args.op;
    if (op == AttentionOp::kVarlen) {
      const int32_t* starts = a_.key_start_loc;
      const int64_t count = starts[w.request + 1] - starts[w.request];
      const int64_t context = work_.context_len[static_cast<size_t>(w.token_begin)];
      const int64_t first = p_.args.key_begin == kKeysAfterContext ? context : p_.args.key_begin;
      it.sources[0] = packed(w, starts[w.request], first, first + count);
      it.num_sources = 1;
      if (it.key_end > first + count) it.key_end = first + count;
      return;
    }
    it.sources[0] = cached(w);
    it.num_sources = 1;
    if (op != AttentionOp::kPrefixPrefill) return;
    const auto b = static_cast<size_t>(w.request);
    const int64_t context = work_.context_len[static_cast<size_t>(w.token_begin)];
    it.sources[0].end = context;
    it.sources[1] = packed(w, work_.lengths.query_start_loc[b], context, work_.lengths.seq_lens[b]);
    it.num_sources = 2;
  }

  KeySource cached(const WorkItem& w) const {
    const KvCacheView& c = a_.cache;
    KeySource s;
    s.begin = 0;
    s.end = INT64_MAX;
    s.k = offset(c.k, c.spec.dtype, w.kv_head * c.k_addr.head_stride);
    s.v = offset(c.v, c.spec.dtype, w.kv_head * c.v_addr.head_stride);
    s.dtype = c.spec.dtype;
    s.block_table = a_.block_table + static_cast<int64_t>(w.request) * a_.block_table_stride;
    s.block_size = c.spec.block_size;
    s.k_addr = c.k_addr;
    s.v_addr = c.v_addr;
    s.packed_layout = c.spec.layout == KvLayout::kPacked;
    s.k_head_stride = c.k_addr.head_stride;
    s.v_head_stride = c.v_addr.head_stride;
    if (c.spec.has_token_scales()) {
      s.k_row_scales = c.k_scale + w.kv_head * c.scale_strides.head;
      s.v_row_scales = c.v_scale + w.kv_head * c.scale_strides.head;
      s.scale_block_stride = c.scale_strides.block;
      s.scale_token_stride = c.scale_strides.token;
      s.scale_head_stride = c.scale_strides.head;
      return s;
    }
    s.k_scales = scales_of(c, c.k_scale, w.kv_head);
    s.v_scales = scales_of(c, c.spec.is_latent() ? c.k_scale : c.v_scale, w.kv_head);
    s.scale_step = c.num_scales == 1 ? 0 : 1;
    if (s.k_scales != nullptr) s.k_scale = *s.k_scales;
    if (s.v_scales != nullptr) s.v_scale = *s.v_scales;
    return s;
  }

  KeySource packed(const WorkItem& w, int64_t first_row, int64_t begin, int64_t end) const {
    KeySource s;
    s.begin = begin;
    s.end = end;
    s.k = offset(a_.k.data, a_.k.dtype, first_row * a_.k.stride[0] + w.kv_head * a_.k.stride[1]);
    s.v = offset(a_.v.data, a_.v.dtype, first_row * a_.v.stride[0] + w.kv_head * a_.v.stride[1]);
    s.dtype = a_.k.dtype;
    s.k_row_stride = a_.k.stride[0];
    s.v_row_stride = a_.v.stride[0];
    s.k_head_stride = a_.k.stride[1];
    s.v_head_stride = a_.v.stride[1];
    s.first_position = begin;
    return s;
  }

  const CpuAttentionPlan& p_;
  const WorkList& work_;
  const AttentionArgs& a_;
  const bool large_output_;
};

// Merges the parts of one token: its heads are rows next to each other in every part.
void reduce(const CpuAttentionPlan& plan, const WorkList& work, const AttentionArgs& args, const Binder& binder,
            const ReduceEntry& entry, int64_t token) {
  const int64_t rows = entry.num_tokens * entry.num_heads;
  ReduceItem it;
  it.num_tokens = 1;
  it.num_heads = entry.num_heads;
  it.head_dim_v = plan.args.spec.value_head_dim();
  it.num_partials = static_cast<int32_t>(entry.num_partials);
  it.partials = static_cast<const float*>(args.workspace);
  it.offsets = work.partials.data() + entry.first_partial;
  it.rows = rows;
  it.first_row = token * entry.num_heads;
  binder.bind_output(entry.token_begin + token, entry.head_begin, it);
  plan.isa->reduce(it);
}

// Tasks go by reference: a std::function of one takes no memory.
void run_work(const CpuAttentionPlan& plan, const WorkList& work, const AttentionArgs& args, Executor& executor) {
  const Binder binder(plan, work, args);
  const auto attend = [&](int64_t i, int worker) {
    const WorkItem& item = work.items[static_cast<size_t>(i)];
    const AttentionItem bound = binder.item(item, plan.scratch->of(worker));
    item.stream ? plan.kernels->stream(bound) : plan.kernels->attend(bound);
  };
  executor.parallel_for(static_cast<int64_t>(work.items.size()), std::cref(attend));
  constexpr int64_t kManyTokens = 16;
  for (const ReduceEntry& entry : work.reductions) {
    if (entry.num_tokens <= kManyTokens) continue;
    const auto reduce_token = [&](int64_t token, int) { reduce(plan, work, args, binder, entry, token); };
    executor.parallel_for(entry.num_tokens, std::cref(reduce_token));
  }
  const auto reduce_entry = [&](int64_t i, int) {
    const ReduceEntry& entry = work.reductions[static_cast<size_t>(i)];
    if (entry.num_tokens > kManyTokens) return;
    for (int64_t token = 0; token < entry.num_tokens; ++token) reduce(plan, work, args, binder, entry, token);
  };
  executor.parallel_for(static_cast<int64_t>(work.reductions.size()), std::cref(reduce_entry));
}

// The lengths of this run; absent arrays are as planned.
BatchLengths lengths_of(const CpuAttentionPlan& plan, const AttentionArgs& args) {
  const auto of = [](const int32_t* now, const std::vector<int32_t>& planned) {
    return now != nullptr ? std::span<const int32_t>(now, planned.size()) : std::span<const int32_t>(planned);
  };
  const bool varlen = plan.args.op == AttentionOp::kVarlen;
  return {
      of(args.query_start_loc, plan.query_start_loc), of(args.seq_lens, plan.seq_lens),
      varlen ? std::span<const int32_t>(args.key_start_loc, plan.query_start_loc.size()) : std::span<const int32_t>(),
      plan.args.spec.has_spans() ? args.token_spans : nullptr};
}

bool same_lengths(const CpuAttentionPlan& plan, const BatchLengths& now) {
  const auto same = [](std::span<const int32_t> x, const std::vector<int32_t>& planned) {
    return planned.empty() || x.data() == planned.data() || std::equal(x.begin(), x.end(), planned.begin());
  };
  return same(now.query_start_loc, plan.query_start_loc) && same(now.seq_lens, plan.seq_lens) &&
         same(now.key_start_loc, plan.key_start_loc);
}

}  // namespace

Status CpuOps::run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream) const {
  const auto* p = dynamic_cast<const CpuAttentionPlan*>(&plan);
  if (p == nullptr) return invalid_argument("plan was made by another device; allowed: a plan of a cpu device");
  const BatchLengths lengths = lengths_of(*p, args);
  if (!p->args.spec.has_spans() && same_lengths(*p, lengths)) {
    run_work(*p, p->work, args, *executor_);
    return Status::ok();
  }
  if (!p->open())
    return invalid_argument(
        "seq_lens or query_start_loc differ from the planned ones; allowed: those, or a plan with bounds");
  std::pmr::monotonic_buffer_resource memory(static_cast<char*>(args.workspace) + p->list_offset(),
                                             p->limits.list_bytes, std::pmr::null_memory_resource());
  WorkList work(&memory);
  try {
    plan_run_items(*p, lengths, work);
  } catch (const std::bad_alloc&) {
    return {StatusCode::kInternal, "the work list of a run with other lengths does not fit the workspace"};
  }
  run_work(*p, work, args, *executor_);
  return Status::ok();
}

}  // namespace sextant::cpu
