// The six backends: strategies made of ops, the same on every device.
//
//   const Backend* backend = find_backend("ROCM_AITER_FA").value();
//   PlanPtr plan = backend->plan(*device, request).value();  // host only: checks, splits, sizes the workspace
//   plan->run(tensors, stream);                              // launches only; may be captured in a graph, and repeated
//                                                            // for every layer of the step
//
// Lifetime: backends live as long as the program. A plan keeps copies of the lengths, and its device where a shared_ptr
// owns it. What RunTensors point to must live until the work on the stream has ended (on the CPU: until run returns).
// Threads: a plan never changes, so threads may share it, each run with a workspace, an output and a stream of its own.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sextant/batch.h"
#include "sextant/device.h"
#include "sextant/ops.h"
#include "sextant/spec.h"

namespace sextant {

enum class BackendCategory : uint8_t { kMha, kMla };
const char* to_string(BackendCategory category);  // "MHA", "MLA"

struct BackendInfo {
  std::string name;  // "TRITON_ATTN"
  BackendCategory category;
  KernelFamily family;   // which kernels it is made of
  std::string strategy;  // one sentence
  std::string enable() const { return "export VLLM_ATTENTION_BACKEND=" + name; }
};

struct PlanOptions {
  bool deterministic = false;  // same bits whatever the batch, the block size and the number of cores
  bool lse_out = false;        // run() also writes RunTensors::lse
  // For graph replay with other lengths; zero: this batch's lengths. The number of requests and of tokens stays, and so
  // do the rows of `q` that belong to decode requests (query length <= decode_max_query_len): put them first.
  PlanBounds bounds;
  // Requests with at most this many query tokens take the decode path (speculative decode: up to 8 and more).
  int32_t decode_max_query_len = 1;
  // Rows of the chunk workspace of ROCM_AITER_FA and of the MLA prefill; 0: the backend's own rule (docs/backends).
  // Not looked at in deterministic mode, where chunks end at the same keys whatever the batch.
  int64_t chunk_workspace_rows = 0;
};

struct PlanRequest {
  AttentionSpec spec;
  KvCacheSpec cache;  // layout kPreferred: the backend's own (with_layout)
  BatchMetadata batch;
  PlanOptions options;
};

// Everything `run` touches; device memory. T = batch.num_tokens(); tensors may have more rows (padding), which
// are neither read nor written. What is written (out, lse, workspace, and the cache where there are slots) overlaps
// nothing else.
struct RunTensors {
  TensorView q;    // [T, Hq, D] of spec.query_type(); MLA: [T, N, nope + rope], rope applied to the last part
  TensorView k;    // [T, Hkv, D]   MHA only; where slot_mapping is given
  TensorView v;    // [T, Hkv, Dv]  MHA only; where slot_mapping is given
  TensorView out;  // [T, Hq, Dv];  MLA: [T, N, v_head_dim]
  TensorView lse;  // fp32 [Hq, T] with options.lse_out
  // MLA only.
  TensorView kv_c;       // [T, kv_lora_rank], normalised; where slot_mapping is given
  TensorView k_pe;       // [T, qk_rope_head_dim], rope applied; where slot_mapping is given
  TensorView kv_b_proj;  // weight [N * (nope + v_head_dim), kv_lora_rank]; per head first k_nope rows, then v rows
  KvCacheView cache;
  const int32_t* query_start_loc = nullptr;  // [B + 1]
  const int32_t* seq_lens = nullptr;         // [B]
  const int32_t* block_table = nullptr;      // [B, block_table_stride]
  int64_t block_table_stride = 0;
  // [T]; null: the cache already holds the new tokens, and every key is read from there. k and v (MLA: kv_c and k_pe)
  // are not looked at then. A negative slot: that token's key is not written. Decodes read every key from the cache all
  // the same; in longer requests of the MHA backends a token that has a key must have a slot, and MLA takes the new
  // keys from kv_c and k_pe.
  const int64_t* slot_mapping = nullptr;
  const float* q_scale = nullptr;       // fp8 queries: value = stored * q_scale, fp32 [num_q_scales]; null means 1
  int32_t num_q_scales = 1;             // 1 or Hkv
  const float* sinks = nullptr;         // [Hq] fp32
  const float* alibi_slopes = nullptr;  // [Hq] fp32
  // [T, 2] with spec.max_span_len > 0: (begin, end) of each token's span, as in BatchMetadata.
  const int32_t* token_spans = nullptr;
  void* workspace = nullptr;  // 256-byte aligned
  size_t workspace_bytes = 0;
  // The next layer of a step: query_start_loc, seq_lens and token_spans hold what they held in this plan's run before,
  // which had the same workspace and the same tensors present, and nothing else has used the workspace since. Work that
  // depends on lengths alone is then not divided anew (HIP; other devices do that when they plan).
  bool next_layer = false;
};

class Backend;

class Plan {
 public:
  virtual ~Plan() = default;
  // Checks everything, then launches. An error means that nothing was written, but for kInternal and kUnavailable,
  // which say that a launch failed. Where the host reads the device's memory (DeviceInfo::host_readable), lengths,
  // tables, slots and scales are checked too; on a GPU bad ones cannot reach memory outside the cache.
  Status run(const RunTensors& tensors, Stream stream) const;

  const Backend& backend() const { return *backend_; }
  size_t workspace_bytes() const { return workspace_bytes_; }
  // What run() will do, one line an op.
  const std::vector<std::string>& steps() const { return steps_; }
  const PlanRequest& request() const { return request_; }  // its batch spans point into the plan's own copies

 protected:
  friend class Backend;
  virtual Status launch(const RunTensors& tensors, Stream stream) const = 0;  // after the checks

  const Backend* backend_ = nullptr;
  std::shared_ptr<const Device> device_;  // null where no shared_ptr owns it
  bool host_readable_ = false;
  size_t workspace_bytes_ = 0;
  std::vector<std::string> steps_;
  PlanRequest request_;
  std::vector<int32_t> query_start_loc_, seq_lens_;
};
using PlanPtr = std::shared_ptr<const Plan>;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  // The cache layout that serves this backend best there. Every layout is served.
  virtual KvLayout preferred_layout(const DeviceInfo& device, DType cache_dtype) const = 0;
  // Every reason why this backend cannot serve the spec on the device; empty = it can.
  virtual std::vector<std::string> reasons_against(const AttentionSpec& spec, const KvCacheSpec& cache,
                                                   const Device& device) const = 0;
  Result<PlanPtr> plan(const Device& device, const PlanRequest& request) const;
  // plan.run(), for a plan of this backend.
  Status run(const Plan& plan, const RunTensors& tensors, Stream stream) const;

 private:
  Result<PlanPtr> checked_plan(const Device& device, const PlanRequest& asked) const;

 protected:
  // After the checks. `plan` already holds the request with spans into its own copies.
  virtual Result<std::shared_ptr<Plan>> make_plan(const Device& device, const PlanRequest& request) const = 0;
};

// The cache with the backend's own layout for blocks of its size where it says kPreferred.
KvCacheSpec with_layout(KvCacheSpec cache, const Backend& backend, const DeviceInfo& device);

std::span<const Backend* const> all_backends();  // in the article's order
// kNotFound with a "did you mean" for near misses.
Result<const Backend*> find_backend(std::string_view name);

}  // namespace sextant
