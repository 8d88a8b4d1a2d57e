// Each backend's one instance, defined in its own file.
#pragma once

#include "sextant/backend.h"

namespace sextant {

const Backend* triton_attn();
const Backend* rocm_aiter_unified_attn();
const Backend* rocm_attn();
const Backend* rocm_aiter_fa();
const Backend* triton_mla();
const Backend* rocm_aiter_mla();

}  // namespace sextant
