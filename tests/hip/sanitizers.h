// Sanitizers do not follow the emulator's fibers.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SKIP_UNDER_SANITIZERS() GTEST_SKIP() << "lanes are fibers, which sanitizers do not follow"
#else
#define SKIP_UNDER_SANITIZERS() static_cast<void>(0)
#endif
