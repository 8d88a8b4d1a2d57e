// config.json of a model: whatever is accepted gives layers that a backend can be asked about, and what cannot be
// served is said.
#include <cstdlib>
#include <string_view>

#include "sextant/model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto model = sextant::parse_model_config({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!model) return model.status().message().empty() ? std::abort(), 0 : 0;
  for (const sextant::LayerKind& kind : sextant::layer_kinds(*model))
    if (kind.layers.empty() || (!sextant::validate(kind.spec) && sextant::validate(kind.spec).message().empty()))
      std::abort();
  return 0;
}
