// One case of `verify --random`: a backend, a whole batch at the sizes at which engines run, and how it is planned and
// run. A case is its text: whoever has the text has the same data, on every device.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sextant/backend.h"
#include "verify/case.h"

namespace sextant::verify {

// What a second run must say of the first, where no reference is needed (docs/verification.md).
enum class Relation : uint8_t {
  kNone,
  kTwice,      // the same plan again, over another workspace's remains: same bits
  kPermuted,   // requests in another order
  kReblocked,  // another block size, other block ids
  kChunked,    // long queries cut in two steps
  kJoined,     // other requests in the batch
  kPlanned,    // what a plan for other lengths gave, by a plan for these
};

// One attention op instead of a whole backend.
struct RandomOp {
  std::string name;  // "mla_decode"; empty: a whole backend
  KernelFamily family = KernelFamily::kTuned;
  SplitPolicy split;
  RequestFilter filter;  // by query length
  int64_t key_begin = 0;
  int64_t key_end = 0;  // 0: all
  bool out_f32 = false;
  int32_t size = 0;  // of a simple op (simple_ops.h): about how many tokens
};

// Query tokens of all requests.
int64_t count_tokens(const std::vector<RequestShape>& requests);

struct RandomCase {
  std::string backend;  // "TRITON_ATTN"; empty with op.name
  RandomOp op;
  std::string isa;  // of the CPU; empty: the device as it is
  AttentionSpec spec;
  DType cache_dtype = DType::kBF16;
  KvLayout layout = KvLayout::kNHD;
  int32_t block_size = 16;
  int32_t num_scales = 1;              // of an fp8 cache, of fp8 queries
  bool token_scales = false;           // KvScales::kTokenHead; what the cache holds before the call
  std::vector<RequestShape> requests;  // what runs
  std::vector<RequestShape> planned;   // what was planned for, with options.bounds; empty: requests
  PlanOptions options;
  int32_t shared_prefix_len = 0;
  bool writes = true;       // the call writes the new tokens; else the cache holds them
  bool host_tables = true;  // the plan sees the block table and the slots
  bool graph = false;       // CUDA: captured with the planned lengths, replayed with these
  int32_t padding_tokens = 0;
  int32_t row_padding = 0;  // elements between the rows of q, k, v and out
  double magnitude = 1;     // spread of the scores
  Relation relation = Relation::kNone;
  uint64_t seed = 1;  // of the data

  bool replays() const { return !planned.empty(); }
  bool is_op() const { return !op.name.empty(); }
  DType out_dtype() const { return op.out_f32 ? DType::kF32 : spec.dtype; }
  int64_t num_tokens() const { return count_tokens(requests); }
};

Result<AttentionOp> parse_attention_op(std::string_view name);

// "3q1s1024_q5s18": the batch grammar of the other verbs, with zeros allowed.
std::string batch_text(const std::vector<RequestShape>& requests);
Result<std::vector<RequestShape>> parse_batch_text(std::string_view text);

// One line of JSON; fields that have their usual value are left out.
std::string to_text(const RandomCase& test);
Result<RandomCase> parse_random_case(const std::string& text);

}  // namespace sextant::verify
