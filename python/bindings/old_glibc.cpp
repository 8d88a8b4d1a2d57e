// Two symbols that GCC 12's static libstdc++ takes from a glibc newer than the one that wheels are made for
// (scripts/build_wheels). Hidden: no other library sees them.
#include <sys/random.h>

#include <cstdint>

extern "C" {

// Never "single threaded": reference counts are always atomic.
[[gnu::visibility("hidden")]] char __libc_single_threaded = 0;

// Behind std::random_device.
[[gnu::visibility("hidden")]] uint32_t arc4random() {
  uint32_t value = 0;
  while (getrandom(&value, sizeof(value), 0) != static_cast<ssize_t>(sizeof(value))) {
  }
  return value;
}

}  // extern "C"
