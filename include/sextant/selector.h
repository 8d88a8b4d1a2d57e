// Which backend, and why not the others.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sextant/backend.h"

namespace sextant {

inline constexpr char kBackendVariable[] = "VLLM_ATTENTION_BACKEND";

struct SelectRequest {
  AttentionSpec spec;
  KvCacheSpec cache;                   // of each candidate's own layout with kPreferred
  std::optional<std::string> backend;  // explicit choice; wins over the environment, or is refused with the reason
  bool read_environment = true;        // VLLM_ATTENTION_BACKEND
  // What the traffic looks like, for the automatic choice; zero: a general mix.
  int64_t typical_query_len = 0;
  int64_t typical_context_len = 0;
};

struct Candidate {
  std::string name;
  bool chosen = false;
  std::vector<std::string> reasons;  // why chosen, or every reason why not
};

struct Selection {
  const Backend* backend = nullptr;
  std::string source;                 // "argument", "VLLM_ATTENTION_BACKEND", "automatic"
  std::vector<Candidate> candidates;  // all six, in the article's order
  std::vector<std::string> warnings;  // near misses of the variable's name, ...
};

// kNotFound: unknown name (with "did you mean"); kUnsupported: the explicit choice cannot serve, with every reason.
Result<Selection> select_backend(const Device& device, const SelectRequest& request);
// The same, without refusing: for `sextant select`, which shows all candidates also when none fits.
std::vector<Candidate> explain_candidates(const Device& device, const SelectRequest& request);
// Environment variables that look like a misspelt VLLM_ATTENTION_BACKEND, as warnings.
std::vector<std::string> near_miss_warnings();

}  // namespace sextant
