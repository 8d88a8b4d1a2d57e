// What a backend serves on a device, found by asking it about one small spec a feature.
#pragma once

#include <string>
#include <vector>

#include "sextant/backend.h"

namespace sextant::cli {

struct FeatureProbe {
  std::string feature;  // "sliding window", "fp8 KV cache"
  bool served = false;
  std::vector<std::string> reasons;  // when not
};

// A plain request of the backend's category: bf16, head size 128 or DeepSeek's MLA, blocks of 16.
AttentionSpec plain_spec(BackendCategory category);
// Why the backend cannot even serve that there; empty: it can.
std::vector<std::string> reasons_against_plain(const Backend& backend, const Device& device);
std::vector<FeatureProbe> probe_features(const Backend& backend, const Device& device);

}  // namespace sextant::cli
