/* Sextant's C ABI: the backends, the ops that engines call alone, and the selector.
 *
 * Every function that can fail returns a sextant_status; sextant_last_error() then names the field, its value and what
 * is allowed (per thread, valid until the next failing call). Nothing is written before the input has been checked.
 * Shapes and meanings are those of the C++ headers: sextant/spec.h, kv_cache.h, batch.h, backend.h and ops.h.
 *
 * Structs start with a size so that they can grow: set it to sizeof, and everything else to zero before you fill in
 * what you need. Zero means the default, which the field's comment names where it is not 0. A caller built with an
 * older header passes smaller sizes and gets the defaults of what came later, also where one struct lies inside
 * another. Fields are only ever appended, after the padding of the size before; sextant_kv_cache grows through its
 * spec.
 *
 * Lifetime: a plan keeps its device open and copies the lengths; what sextant_run_tensors points to must live until the
 * work on the stream has ended. Threads may share devices and plans, each run with a workspace and outputs of its own.
 */
#ifndef SEXTANT_SEXTANT_H_
#define SEXTANT_SEXTANT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SEXTANT_VERSION_MAJOR 0
#define SEXTANT_VERSION_MINOR 1
#define SEXTANT_VERSION_PATCH 0

typedef enum sextant_status {
  SEXTANT_OK = 0,
  SEXTANT_INVALID_ARGUMENT = 1,
  SEXTANT_UNSUPPORTED = 2,
  SEXTANT_NOT_FOUND = 3,
  SEXTANT_RESOURCE_EXHAUSTED = 4,
  SEXTANT_UNAVAILABLE = 5,
  SEXTANT_INTERNAL = 6
} sextant_status;

typedef enum sextant_dtype {
  SEXTANT_FP32 = 0,
  SEXTANT_FP16 = 1,
  SEXTANT_BF16 = 2,
  SEXTANT_FP8_E4M3FN = 3,
  SEXTANT_FP8_E4M3FNUZ = 4,
  SEXTANT_FP8_E5M2 = 5,
  SEXTANT_INT32 = 6,
  SEXTANT_INT64 = 7,
  SEXTANT_INT8 = 8 /* of caches with a scale a token and head */
} sextant_dtype;

typedef enum sextant_device_kind {
  SEXTANT_CPU = 0,
  SEXTANT_CUDA = 1,
  SEXTANT_HIP = 2,
  SEXTANT_HIP_EMULATED = 3
} sextant_device_kind;
typedef enum sextant_kernel_family { SEXTANT_PORTABLE = 0, SEXTANT_TUNED = 1 } sextant_kernel_family;
typedef enum sextant_kv_layout {
  SEXTANT_PREFERRED = -1, /* the backend's own, where one is named or looked for */
  SEXTANT_NHD = 0,
  SEXTANT_HND = 1,
  SEXTANT_SPLIT_K = 2,
  SEXTANT_SHUFFLED = 3,
  SEXTANT_PACKED = 4,
  SEXTANT_LATENT = 5
} sextant_kv_layout;

/* Where the scales of a quantized cache come from: the caller's, or one a token and KV head, which the cache write
 * finds and stores (fp8 and int8, not latent). */
typedef enum sextant_kv_scales { SEXTANT_SCALES_SHARED = 0, SEXTANT_SCALES_TOKEN_HEAD = 1 } sextant_kv_scales;

#define SEXTANT_MAX_RANK 6
/* A strided view; strides in elements. Absent: data == NULL. */
typedef struct sextant_tensor {
  void* data;
  int32_t dtype; /* sextant_dtype */
  int32_t rank;
  int64_t shape[SEXTANT_MAX_RANK];
  int64_t stride[SEXTANT_MAX_RANK];
} sextant_tensor;

typedef struct sextant_attention_spec {
  size_t size;
  int32_t num_heads, num_kv_heads, head_dim, head_dim_v; /* head_dim_v 0: head_dim */
  float softmax_scale;
  int32_t causal;         /* 0 or 1; say which */
  int32_t sliding_window; /* causal only: the W newest keys, own position included; 0: none */
  float logits_soft_cap;
  int32_t has_sinks, has_alibi;
  int32_t dtype;
  int32_t kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim; /* MLA, else 0 */
  int32_t reserved;                                                     /* 0 */
  int32_t query_dtype;                                                  /* of q: 0 for dtype, or an fp8 type */
  int32_t reserved_after_query_dtype;                                   /* 0 */
  /* 1: a query sees window_left keys before its position and window_right after it at most, -1: all; causal sees none
   * after it. 0: the next two do not count. */
  int32_t has_window, window_left, window_right;
  int32_t attention_chunk_size; /* > 0: positions see their own chunk of so many alone; 0: no chunks */
  int32_t max_span_len; /* > 0: tokens may have a span, of so many positions at most (batch, run: token_spans) */
} sextant_attention_spec;

typedef struct sextant_kv_cache_spec {
  size_t size;
  int32_t layout; /* sextant_kv_layout */
  int32_t dtype;
  int64_t num_blocks;
  int32_t block_size, num_kv_heads, head_dim, head_dim_v; /* block_size 0: 16; head_dim_v 0: head_dim */
  int32_t scales;                                         /* sextant_kv_scales */
  int32_t reserved_after_scales;                          /* 0 */
  /* Elements from one block's, token's and head's scale to the next; all 0: dense [num_blocks, block_size,
   * num_kv_heads] */
  int64_t scale_block_stride, scale_token_stride, scale_head_stride;
} sextant_kv_cache_spec;

typedef struct sextant_kv_cache {
  sextant_kv_cache_spec spec;
  void* k;
  void* v;              /* NULL for the latent layout */
  const float* k_scale; /* with SEXTANT_SCALES_TOKEN_HEAD written by the cache write, all the same */
  const float* v_scale;
  int32_t num_scales; /* 1 (or 0) or num_kv_heads */
} sextant_kv_cache;

typedef struct sextant_batch {
  size_t size;
  int32_t num_requests;
  const int32_t* query_start_loc; /* host [num_requests + 1] */
  const int32_t* seq_lens;        /* host [num_requests] */
  const int32_t* block_table;     /* host [num_requests, max_blocks_per_request], or NULL */
  int64_t max_blocks_per_request;
  const int64_t* slot_mapping; /* host [query_start_loc[num_requests]], or NULL */
  int32_t shared_prefix_len;
  /* With spec.max_span_len: host [query_start_loc[num_requests], 2], (begin, end) of each token's span in positions of
   * its request, begin >= end: none; or NULL. Tokens of a span see all of it, whatever the mask says. */
  const int32_t* token_spans;
} sextant_batch;

typedef struct sextant_plan_options {
  size_t size;
  int32_t deterministic, lse_out;
  int32_t max_query_len, max_seq_len; /* bounds for graph replay; 0: this batch's. Decode requests keep their rows */
  int32_t decode_max_query_len;       /* 0: 1; -1: no request takes the decode path */
  int64_t chunk_workspace_rows;
} sextant_plan_options;

typedef struct sextant_run_tensors {
  size_t size;
  sextant_tensor q, k, v, out, lse;
  sextant_tensor kv_c, k_pe, kv_b_proj; /* MLA */
  sextant_kv_cache cache;
  const int32_t* query_start_loc; /* device, as are all pointers from here on */
  const int32_t* seq_lens;
  const int32_t* block_table;
  int64_t block_table_stride;
  const int64_t* slot_mapping; /* NULL: the cache holds every key; k and v are not read then, and may be absent.
                                  Negative: not written, for decodes whose key the cache holds (sextant/backend.h) */
  const float* sinks;
  const float* alibi_slopes;
  void* workspace;
  size_t workspace_bytes;
  /* fp8 queries. */
  const float* q_scale;       /* NULL: 1 */
  int32_t num_q_scales;       /* 1 (or 0) or num_kv_heads */
  const int32_t* token_spans; /* [tokens, 2] with spec.max_span_len, as in sextant_batch */
  /* 1: the next layer of a step: lengths, spans and workspace are as this plan's run before left them (backend.h). */
  int32_t next_layer;
} sextant_run_tensors;

typedef struct sextant_device sextant_device;
typedef struct sextant_plan sextant_plan;

/* Message of this thread's last failing call. Never NULL. */
const char* sextant_last_error(void);
/* A log of plans and runs: `sink` gets one JSON object a call, on one line, in the thread of that call; the text ends
 * with it. NULL switches the log off. */
typedef void (*sextant_log_sink)(const char* json, void* user);
void sextant_set_log(sextant_log_sink sink, void* user);
const char* sextant_version(void);

sextant_status sextant_device_open(int32_t kind, int32_t index, sextant_device** device);
void sextant_device_close(sextant_device* device);
/* "cpu", "NVIDIA H100 80GB HBM3", ... valid while the device is open. */
const char* sextant_device_name(const sextant_device* device);
const char* sextant_device_architecture(const sextant_device* device);

int32_t sextant_backend_count(void);
const char* sextant_backend_name(int32_t index); /* NULL past the end */

/* Chooses a backend: `name` (or NULL), else VLLM_ATTENTION_BACKEND, else automatically. `*chosen` is a static string;
 * `explanation`, if not NULL, receives JSON {chosen, source, candidates, warnings}: free it with sextant_free_string.
 */
sextant_status sextant_select(const sextant_device* device, const sextant_attention_spec* spec,
                              const sextant_kv_cache_spec* cache, const char* name, const char** chosen,
                              char** explanation);
void sextant_free_string(char* text);

/* Resolves layout -1 and gives the number of elements of K and V for spec->num_blocks. */
sextant_status sextant_kv_cache_layout(const sextant_device* device, const char* backend,
                                       const sextant_kv_cache_spec* spec, int32_t* layout, int64_t* k_elements,
                                       int64_t* v_elements);

sextant_status sextant_plan_make(const sextant_device* device, const char* backend, const sextant_attention_spec* spec,
                                 const sextant_kv_cache_spec* cache, const sextant_batch* batch,
                                 const sextant_plan_options* options, sextant_plan** plan);
void sextant_plan_free(sextant_plan* plan);
size_t sextant_plan_workspace_bytes(const sextant_plan* plan);
const char* sextant_plan_describe(const sextant_plan* plan); /* one line an op */

/* Launches on `stream` (cudaStream_t, hipStream_t; ignored on the CPU). May be captured in a graph. */
sextant_status sextant_plan_run(const sextant_plan* plan, const sextant_run_tensors* tensors, void* stream);

/* Ops that engines call alone; see ops.h. */
sextant_status sextant_reshape_and_cache(const sextant_device* device, int32_t family, const sextant_tensor* k,
                                         const sextant_tensor* v, const int64_t* slot_mapping, int64_t num_tokens,
                                         const sextant_kv_cache* cache, void* stream);
sextant_status sextant_concat_and_cache_mla(const sextant_device* device, int32_t family, const sextant_tensor* kv_c,
                                            const sextant_tensor* k_pe, const int64_t* slot_mapping, int64_t num_tokens,
                                            const sextant_kv_cache* cache, void* stream);
sextant_status sextant_merge_attn_states(const sextant_device* device, int32_t family, const sextant_tensor* prefix_out,
                                         const sextant_tensor* prefix_lse, const sextant_tensor* suffix_out,
                                         const sextant_tensor* suffix_lse, const sextant_tensor* out,
                                         const sextant_tensor* lse, void* stream);
sextant_status sextant_gather_cache(const sextant_device* device, int32_t family, const sextant_kv_cache* cache,
                                    const int32_t* block_table, int64_t block_table_stride, int32_t num_requests,
                                    const int32_t* key_start_loc, int64_t chunk_begin, int64_t max_rows,
                                    const sextant_tensor* k, const sextant_tensor* v, void* stream);
sextant_status sextant_copy_blocks(const sextant_device* device, int32_t family, const sextant_kv_cache* cache,
                                   const int64_t* mapping, int64_t num_pairs, void* stream);

/* Dense (varlen) attention over packed q, k, v: q [T, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv]; causal is bottom-right.
 * fp8 queries have no scale of their own here: multiply softmax_scale by it. spec.max_span_len is 0. The start
 * locations are host arrays for the plan and device arrays for the run. */
typedef struct sextant_attention_plan sextant_attention_plan;
sextant_status sextant_varlen_plan_make(const sextant_device* device, int32_t family,
                                        const sextant_attention_spec* spec, int32_t num_requests,
                                        const int32_t* query_start_loc, const int32_t* key_start_loc, int32_t lse_out,
                                        sextant_attention_plan** plan);
void sextant_attention_plan_free(sextant_attention_plan* plan);
size_t sextant_attention_plan_workspace_bytes(const sextant_attention_plan* plan);
/* seq_lens: device int32 [num_requests], the keys of each request. */
sextant_status sextant_varlen_run(const sextant_attention_plan* plan, const sextant_tensor* q, const sextant_tensor* k,
                                  const sextant_tensor* v, const sextant_tensor* out, const sextant_tensor* lse,
                                  const int32_t* query_start_loc, const int32_t* key_start_loc, const int32_t* seq_lens,
                                  const float* sinks, const float* alibi_slopes, void* workspace, void* stream);

/* mla_decode over a latent cache: q [T, N, rank + rope], out [T, N, rank]; spec.num_kv_heads 1, spec.max_span_len 0.
 * fp8 queries have no scale of their own here: multiply softmax_scale by it. The batch on the host for the plan and on
 * the device for the run. */
sextant_status sextant_mla_decode_plan_make(const sextant_device* device, int32_t family,
                                            const sextant_attention_spec* spec, const sextant_kv_cache_spec* cache,
                                            int32_t num_requests, const int32_t* query_start_loc,
                                            const int32_t* seq_lens, int32_t lse_out, sextant_attention_plan** plan);
sextant_status sextant_mla_decode_run(const sextant_attention_plan* plan, const sextant_tensor* q,
                                      const sextant_kv_cache* cache, const int32_t* block_table,
                                      int64_t block_table_stride, const sextant_tensor* out, const sextant_tensor* lse,
                                      const int32_t* query_start_loc, const int32_t* seq_lens, void* workspace,
                                      void* stream);

#ifdef __cplusplus
}
#endif

#endif /* SEXTANT_SEXTANT_H_ */
