// From an op's arguments to a kernel's parameters: what the parameters of both vendors' kernels have in common, under
// the same names.
#pragma once

#include "devices/gpu/key_origin.h"
#include "devices/gpu/strides.h"
#include "sextant/ops.h"

namespace sextant::gpu {

constexpr KeyOrigin origin_of(AttentionOp op) {
  return op == AttentionOp::kVarlen          ? KeyOrigin::kPacked
         : op == AttentionOp::kPrefixPrefill ? KeyOrigin::kCacheThenPacked
                                             : KeyOrigin::kCache;
}

// What follows from the plan's arguments alone.
template <class Params>
void bind_plan(Params& p, const AttentionPlanArgs& a) {
  const AttentionSpec& s = a.spec;
  p.num_heads = s.num_heads;
  p.num_kv_heads = s.num_kv_heads;
  p.group_size = s.group_size();
  p.head_dim = s.head_dim;
  p.head_dim_v = s.value_head_dim();
  p.softmax_scale = s.softmax_scale;
  p.soft_cap = s.logits_soft_cap;
  p.out_f32 = a.out_dtype == DType::kF32;
  p.values_in_keys = a.op == AttentionOp::kMlaDecode;
  p.origin = origin_of(a.op);
  p.key_begin = a.key_begin;
  p.key_end = a.key_end;
  p.num_requests = static_cast<int32_t>(a.seq_lens.size());
  p.filter = a.filter;
  p.num_scales = 1;
  p.block_size = 1;
  if (p.origin == KeyOrigin::kPacked) return;
  p.block_size = a.cache.block_size;
  p.num_blocks = static_cast<int32_t>(a.cache.num_blocks);
}

// The tensors of a run. Scales of tokens are the caller's to bind: the kernels of the two vendors read them by
// different strides.
template <class Params>
void bind_tensors(Params& p, const AttentionPlanArgs& planned, const AttentionArgs& a) {
  p.q = a.q.data;
  p.q_token_stride = a.q.stride[0];
  p.q_head_stride = a.q.stride[1];
  p.q_aligned = is_vector_aligned(a.q);
  p.out = a.out.data;
  p.out_token_stride = a.out.stride[0];
  p.out_head_stride = a.out.stride[1];
  if (planned.lse_out) {
    p.lse = static_cast<float*>(a.lse.data);
    p.lse_head_stride = a.lse.stride[0];
    p.lse_token_stride = a.lse.stride[1];
  }
  p.query_start_loc = a.query_start_loc;
  p.seq_lens = a.seq_lens;
  p.key_start_loc = a.key_start_loc;
  p.sinks = planned.spec.has_sinks ? a.sinks : nullptr;
  p.alibi_slopes = planned.spec.has_alibi ? a.alibi_slopes : nullptr;
  p.token_spans = planned.spec.has_spans() ? a.token_spans : nullptr;
  if (p.origin != KeyOrigin::kCache) {
    p.packed_k = a.k.data;
    p.packed_v = a.v.data;
    p.packed_k_token_stride = a.k.stride[0];
    p.packed_k_head_stride = a.k.stride[1];
    p.packed_v_token_stride = a.v.stride[0];
    p.packed_v_head_stride = a.v.stride[1];
    p.packed_aligned = is_vector_aligned(a.k) && is_vector_aligned(a.v);
  }
  if (p.origin == KeyOrigin::kPacked) return;
  p.block_table = a.block_table;
  p.block_table_stride = planned.shared_prefix ? 0 : a.block_table_stride;
  p.cache_k = a.cache.k;
  p.cache_v = p.values_in_keys ? a.cache.k : a.cache.v;
  p.k_addr = a.cache.k_addr;
  p.v_addr = p.values_in_keys ? a.cache.k_addr : a.cache.v_addr;
  p.num_blocks = static_cast<int32_t>(a.cache.spec.num_blocks);
  const size_t element = size_of(a.cache.spec.dtype);
  p.k_chunk_stride = chunk_stride(p.k_addr, p.head_dim, p.cache_k, element);
  p.v_chunk_stride = chunk_stride(p.v_addr, p.head_dim_v, p.cache_v, element);
  if (!a.cache.spec.has_token_scales() && is_fp8(a.cache.spec.dtype)) {
    p.k_scale = a.cache.k_scale;
    p.v_scale = a.cache.v_scale;
    p.num_scales = a.cache.num_scales;
  }
}

}  // namespace sextant::gpu
