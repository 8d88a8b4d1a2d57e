// The ops: named functions on tensor views with one meaning and one implementation per device and kernel
// family. Backends are made of them; engines may call each alone.
//
// All pointers are device memory of the device that runs the op (host memory on the CPU) unless a field
// says "host". No op allocates, copies between host and device, or synchronises when it runs.
//
// Shapes: T tokens in the packed batch, B requests, Hq query heads, Hkv KV heads, D head size of Q and K,
// Dv head size of V. For a request b:
//   query_len   = query_start_loc[b + 1] - query_start_loc[b]
//   context_len = seq_lens[b] - query_len                      (tokens already in the cache)
//   query i of the request sits at position context_len + i    (bottom-right causal alignment)
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>

#include "sextant/kv_cache.h"
#include "sextant/request_filter.h"
#include "sextant/spec.h"
#include "sextant/types.h"

namespace sextant {

// ---------------------------------------------------------------------------------------------------
// reshape_and_cache: writes new keys and values into a paged cache (layouts except kLatent).
// Token t goes to block slot_mapping[t] / block_size, offset slot_mapping[t] % block_size; a negative slot
// writes nothing. k and v may have more rows than num_tokens (padding).
struct ReshapeAndCacheArgs {
  TensorView k;                           // [>= T, Hkv, D]   fp32 / fp16 / bf16, last stride 1
  TensorView v;                           // [>= T, Hkv, Dv]
  const int64_t* slot_mapping = nullptr;  // [T]
  int64_t num_tokens = 0;                 // T
  KvCacheView cache;
};

// concat_and_cache_mla: writes the latent and its rope part into a kLatent cache.
struct ConcatAndCacheMlaArgs {
  TensorView kv_c;                        // [>= T, kv_lora_rank]
  TensorView k_pe;                        // [>= T, qk_rope_head_dim]
  const int64_t* slot_mapping = nullptr;  // [T]
  int64_t num_tokens = 0;
  KvCacheView cache;
};

// ---------------------------------------------------------------------------------------------------
// Attention. One argument struct; the op says where the keys come from:
//   kUnified        everything from the paged cache (the new tokens are already in it)
//   kVarlen         from packed k, v with key_start_loc; Dqk != Dv allowed
//   kPrefixPrefill  context from the paged cache, new tokens from packed k, v (rows as in q)
//   kPagedDecode    as kUnified, for few query tokens a request
//   kMlaDecode      as kPagedDecode over a kLatent cache: D = kv_lora_rank + qk_rope_head_dim, Hkv = 1,
//                   V = the first Dv = kv_lora_rank columns of K
enum class AttentionOp : uint8_t { kUnified, kVarlen, kPrefixPrefill, kPagedDecode, kMlaDecode };
const char* to_string(AttentionOp op);

// How the keys of a long request are divided over compute units. Partial results are merged by the op.
struct SplitPolicy {
  enum class Kind : uint8_t {
    kAuto,       // a balanced work list planned for the device
    kNone,       // never split
    kSegments,   // `value` equal segments a request
    kPartition,  // segments of `value` keys
  };
  Kind kind = Kind::kAuto;
  int32_t value = 0;
};

// Largest lengths a plan must serve when it is run again (graph replay) with other lengths. Zero: the
// lengths of the batch given to plan.
struct PlanBounds {
  int32_t max_query_len = 0;
  int32_t max_seq_len = 0;
  // Either of them makes a plan that takes other lengths, of both kinds.
  bool open() const { return max_query_len > 0 || max_seq_len > 0; }
};

struct AttentionPlanArgs {
  AttentionOp op = AttentionOp::kUnified;
  AttentionSpec spec;  // heads, head sizes, mask, features. kMlaDecode: num_kv_heads 1, head_dim 576, head_dim_v 512
  KvCacheSpec cache;   // ignored by kVarlen
  std::span<const int32_t> query_start_loc;  // host [B + 1]
  std::span<const int32_t> seq_lens;         // host [B]
  std::span<const int32_t> key_start_loc;    // host [B + 1]; kVarlen only; empty: bound by max_packed_keys
  int64_t max_packed_keys = 0;               // kVarlen: rows of k, v at most
  RequestFilter filter;
  SplitPolicy split;
  PlanBounds bounds;
  // Absolute key positions that take part: [key_begin, key_end) of the cache ops, and for kVarlen the position of
  // the first packed key of every request (key_begin); kKeysAfterContext: packed keys start at context_len.
  int64_t key_begin = 0;
  int64_t key_end = std::numeric_limits<int64_t>::max();
  // Cascade: every request reads its keys through row 0 of the block table (a shared prefix). Needs key_end.
  bool shared_prefix = false;
  // Same bits for a request whatever the batch, the block size and the number of compute units.
  bool deterministic = false;
  bool lse_out = false;
  DType out_dtype = DType::kBF16;  // spec.dtype or kF32
  // The result is merged with the attention state (state_out, state_lse) of the run, as merge_attn_states would, in the
  // kernel's epilogue. Only where Ops::merges_state() says so.
  bool merge_state = false;
};
inline constexpr int64_t kKeysAfterContext = -1;

// A planned op. Made by the device; immutable; may be run many times and from several layers.
class AttentionPlan {
 public:
  virtual ~AttentionPlan() = default;
  virtual size_t workspace_bytes() const = 0;
  // The first of them, which a run with next_layer finds as the run before left them.
  virtual size_t kept_bytes() const { return 0; }
  virtual std::string describe() const = 0;  // one line: work items, splits, kernel
};
using AttentionPlanPtr = std::shared_ptr<const AttentionPlan>;

struct AttentionArgs {
  TensorView q;    // [T, Hq, D], last stride 1; dtype spec.query_type()
  TensorView out;  // [T, Hq, Dv], last stride 1; dtype out_dtype. Rows with no visible key become 0
  TensorView lse;  // optional fp32 [Hq, T], natural logarithm, any strides; where no key is visible the sink, or -inf
  // Batch, on the device. The CPU uses the copies its plan made and does not read these two.
  const int32_t* query_start_loc = nullptr;  // [B + 1]
  const int32_t* seq_lens = nullptr;         // [B]
  // Paged keys.
  KvCacheView cache;
  const int32_t* block_table = nullptr;  // [B, block_table_stride]
  int64_t block_table_stride = 0;
  // Packed keys (kVarlen, kPrefixPrefill).
  TensorView k;                            // [Tk, Hkv, D], last stride 1
  TensorView v;                            // [Tk, Hkv, Dv], last stride 1
  const int32_t* key_start_loc = nullptr;  // [B + 1], kVarlen
  // fp8 queries: value = stored * q_scale, fp32 [1] (num_q_scales == 1) or [Hkv]; null means 1.
  const float* q_scale = nullptr;
  int32_t num_q_scales = 1;
  // Features, present iff the spec says so.
  const float* sinks = nullptr;         // [Hq]
  const float* alibi_slopes = nullptr;  // [Hq]
  // [T, 2]: (begin, end) of each token's span in its request's positions; begin >= end: none.
  const int32_t* token_spans = nullptr;
  void* workspace = nullptr;  // at least plan.workspace_bytes(), 256-byte aligned
  // Where plan.kept_bytes() lie instead of at the workspace's begin, 256-byte aligned; null: there. So ops that use a
  // workspace in turn leave one another's alone.
  void* kept = nullptr;
  bool next_layer = false;  // lengths, spans and what is kept are as this plan's run before left them (RunTensors)
  // With merge_state: over other keys than this op's. state_out may be `out`; state_lse is not `lse`.
  TensorView state_out;  // fp32 [T, Hq, Dv], last stride 1
  TensorView state_lse;  // fp32 [Hq, T], natural logarithm
};

// ---------------------------------------------------------------------------------------------------
// context_chunk_offsets: key_start_loc of one context chunk. For each request that passes the filter the chunk
// holds clamp(context_len - chunk_begin, 0, chunk_len) keys; others hold none. Exclusive prefix sum.
struct ContextChunkOffsetsArgs {
  const int32_t* query_start_loc = nullptr;  // [B + 1]
  const int32_t* seq_lens = nullptr;         // [B]
  int32_t num_requests = 0;
  RequestFilter filter;
  int64_t chunk_begin = 0;
  int64_t chunk_len = 0;
  int32_t* key_start_loc = nullptr;  // out [B + 1]
};

// gather_cache: copies tokens [chunk_begin, chunk_begin + n_b) of each request from the paged cache into packed
// rows, n_b = key_start_loc[b + 1] - key_start_loc[b], dequantised (stored * scale) to the type of the rows.
// chunk_begin need not be a multiple of the block size. With seq_lens it is the last n_b tokens of each request
// instead; rows before the first token, where n_b > seq_lens[b], hold no key and are undefined.
struct GatherCacheArgs {
  KvCacheView cache;
  const int32_t* block_table = nullptr;  // [B, block_table_stride]
  int64_t block_table_stride = 0;
  int32_t num_requests = 0;
  const int32_t* key_start_loc = nullptr;  // [B + 1]
  const int32_t* seq_lens = nullptr;       // [B]; null: chunk_begin counts
  int64_t chunk_begin = 0;
  int64_t max_rows = 0;  // rows of k, v: an upper bound of key_start_loc[B]
  TensorView k;          // out [max_rows, Hkv, D]; kLatent: [max_rows, 1, D]
  TensorView v;          // out [max_rows, Hkv, Dv]; kLatent: absent
  // The op before it in the stream writes nothing that this one reads, and reads nothing that it writes: a device may
  // let the two overlap. What follows still waits for both.
  bool beside_previous = false;
};

// merge_attn_states: out = softmax-weighted sum of two attention states over disjoint keys (arXiv:2501.01005,
// section 2.2). lse +inf counts as -inf; two empty states give out 0, lse -inf. out may alias an input.
// With query_start_loc set, only tokens of requests that pass the filter are touched.
struct MergeAttnStatesArgs {
  TensorView prefix_out;  // [T, Hq, Dv] fp32 / fp16 / bf16
  TensorView prefix_lse;  // fp32 [Hq, T], any strides
  TensorView suffix_out;
  TensorView suffix_lse;
  TensorView out;                            // [T, Hq, Dv]
  TensorView lse;                            // optional fp32 [Hq, T]
  const int32_t* query_start_loc = nullptr;  // optional [B + 1]
  const int32_t* seq_lens = nullptr;         // [B] with query_start_loc
  int32_t num_requests = 0;
  RequestFilter filter;
};

// copy_blocks: block mapping[i][0] -> mapping[i][1] in K and V (copy on write). Sources and destinations disjoint.
struct CopyBlocksArgs {
  KvCacheView cache;
  const int64_t* mapping = nullptr;  // [num_pairs, 2]
  int64_t num_pairs = 0;
};

// copy_pad: dst[i, h, d] = src[i, h, d] for d < src.shape[2], else 0. A source stride of 0 broadcasts.
// Types convert among fp32 / fp16 / bf16. dst may be a strided part of a larger tensor. src may be fp8: then
// value = stored * src_scale[h / (heads / num_src_scales)], rounded to the type of dst.
struct CopyPadArgs {
  TensorView src;                    // [rows, heads, dim]
  TensorView dst;                    // [rows, heads, >= dim]
  const float* src_scale = nullptr;  // fp32 [num_src_scales], fp8 sources only; null means 1
  int32_t num_src_scales = 1;        // divides heads
};

// gemm: c[i] = a[i] * b[i] (+ nothing), fp32 accumulation, i in [0, batch). Strided views:
// a [batch, M, K], b [batch, K, N], c [batch, M, N]; every one may be transposed through its strides as long as
// one of its last two strides is 1; c's last stride is 1. a and b share a type; c is that type or fp32.
struct GemmArgs {
  TensorView a;
  TensorView b;
  TensorView c;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  bool deterministic = false;  // the bits of a row of c do not depend on how many rows there are
};

// The implementations of one device and one kernel family. What Device::ops() hands out checks its arguments before
// anything is read or written (src/ops/checked_ops.h); kUnsupported says what a family does not serve.
class Ops {
 public:
  virtual ~Ops() = default;
  virtual std::string name() const = 0;  // "cpu/tuned (amx)", "cuda/portable (sm_80)"
  // The same ops without argument checks, for backends: their plans check everything before the first op.
  virtual const Ops& unchecked() const { return *this; }
  virtual Status supports(const AttentionPlanArgs& args) const = 0;
  // Whether plan_attention takes these args with merge_state, which saves the passes of merge_attn_states.
  virtual bool merges_state(const AttentionPlanArgs& args) const { return false; }
  // Whether plan_attention takes fp8 queries (spec.query_dtype) as they are. Where not, the ops that Device::ops()
  // hands out convert them to spec.dtype in the workspace first, so that fp8 queries are served everywhere.
  virtual bool takes_fp8_queries(const AttentionPlanArgs& args) const { return false; }
  // Whether ops with beside_previous really overlap: only then are two buffers better than one.
  virtual bool overlaps() const { return false; }
  virtual Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args) const = 0;
  virtual Status run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const = 0;
  virtual Status reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const = 0;
  virtual Status concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const = 0;
  virtual Status context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const = 0;
  virtual Status gather_cache(const GatherCacheArgs& args, Stream stream) const = 0;
  virtual Status merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const = 0;
  virtual Status copy_blocks(const CopyBlocksArgs& args, Stream stream) const = 0;
  virtual Status copy_pad(const CopyPadArgs& args, Stream stream) const = 0;
  virtual size_t gemm_workspace_bytes(int64_t m, int64_t n, int64_t k) const = 0;
  virtual Status gemm(const GemmArgs& args, Stream stream) const = 0;
};

// Argument checks, shared by all devices: shapes, types, strides, NaN scales. They read no device memory.
Status check(const AttentionPlanArgs& args);
Status check(const AttentionPlanArgs& planned, const AttentionArgs& args);
Status check(const ReshapeAndCacheArgs& args);
Status check(const ConcatAndCacheMlaArgs& args);
Status check(const ContextChunkOffsetsArgs& args);
Status check(const GatherCacheArgs& args);
Status check(const MergeAttnStatesArgs& args);
Status check(const CopyBlocksArgs& args);
Status check(const CopyPadArgs& args);
Status check(const GemmArgs& args);
// Slots of a host-readable mapping: each negative or inside the cache, none twice.
Status check_slot_mapping(std::span<const int64_t> slot_mapping, const KvCacheSpec& cache);

}  // namespace sextant
