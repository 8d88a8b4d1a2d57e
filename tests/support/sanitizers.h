// What is left out of builds with sanitizers.
#pragma once

namespace sextant::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kUnderSanitizers = true;
#else
inline constexpr bool kUnderSanitizers = false;
#endif

}  // namespace sextant::testing

// Sanitizers do not follow the emulator's fibers.
#define SKIP_UNDER_SANITIZERS() \
  if (::sextant::testing::kUnderSanitizers) GTEST_SKIP() << "lanes are fibers, which sanitizers do not follow"
