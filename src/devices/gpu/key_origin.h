#pragma once

#include <cstdint>

namespace sextant::gpu {

// Where an attention kernel finds keys and values.
enum class KeyOrigin : uint8_t {
  kCache,            // every key from the paged cache
  kPacked,           // every key from packed rows
  kCacheThenPacked,  // context from the cache, new tokens from packed rows
};

}  // namespace sextant::gpu
