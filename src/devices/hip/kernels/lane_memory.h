// Memory in the language of lane.h: windows that give zeros outside, and shared memory filled and read in the ways that
// only some chips have.
#pragma once

#include "devices/hip/kernels/lane.h"

namespace sextant::hip {

// A lane asks with this offset for zeros; others are below half of the 32-bit range.
constexpr uint32_t kOutside = 0xfffffff0u;
// To be or-ed to an offset. A choice between two offsets would become a branch around each load, with a wait in it.
SEXTANT_DEVICE uint32_t outside_unless(bool exists) { return exists ? 0u : kOutside; }

#ifdef __AMDGCN__

// `bytes` of memory from a base on that is the same in all lanes; offsets are bytes and differ. One instruction
// reads `at` (a lane's own) + `step` (the same in all).
struct Window {
  __amdgpu_buffer_rsrc_t resource;
};
SEXTANT_DEVICE Window make_window(const void* base, uint32_t bytes = 0x80000000u) {
  return {__builtin_amdgcn_make_buffer_rsrc(const_cast<void*>(base), 0, static_cast<int>(bytes), 0x00020000)};
}
template <class Words>
SEXTANT_DEVICE Words load_words(const Window& w, uint32_t at, int32_t step) {
  if constexpr (sizeof(Words) == 16) {
    return bit_cast<Words>(__builtin_amdgcn_raw_buffer_load_b128(w.resource, static_cast<int>(at), step, 0));
  } else if constexpr (sizeof(Words) == 8) {
    return bit_cast<Words>(__builtin_amdgcn_raw_buffer_load_b64(w.resource, static_cast<int>(at), step, 0));
  } else if constexpr (sizeof(Words) == 4) {
    return bit_cast<Words>(__builtin_amdgcn_raw_buffer_load_b32(w.resource, static_cast<int>(at), step, 0));
  } else {
    return bit_cast<Words>(__builtin_amdgcn_raw_buffer_load_b16(w.resource, static_cast<int>(at), step, 0));
  }
}

// Hints for the order of instructions; kinds are those of sched_group_barrier.
constexpr int kMatrixGroup = 0x8, kVectorGroup = 0x2, kScalarGroup = 0x4, kSharedReadGroup = 0x100,
              kSharedWriteGroup = 0x200;
template <int kKind, int kCount>
SEXTANT_DEVICE void order_next() {
  __builtin_amdgcn_sched_group_barrier(kKind, kCount, 0);
}
// In a branch: it stays one, instead of selects in the way of those that pass by.
SEXTANT_DEVICE void seldom() { asm volatile(""); }
// `x`; what is made of it is made anew here, and not kept in registers through a loop.
SEXTANT_DEVICE int made_here(int x) {  // the same in all lanes
  x = uniform(x);
  asm volatile("" : "+s"(x));
  return x;
}
SEXTANT_DEVICE float made_here(float x) { return bit_cast<float>(made_here(bit_cast<int>(x))); }
template <class X>
SEXTANT_DEVICE X made_here_by_lane(X x) {
  asm volatile("" : "+v"(x));
  return x;
}
// Nothing moves past this.
SEXTANT_DEVICE void order_fence() { __builtin_amdgcn_sched_barrier(0); }

// Where shared memory is meant, the low half of a pointer is the place there. A cast to its address space would ask
// whether the pointer is null, each time.
SEXTANT_DEVICE uint32_t shared_place(const char* p) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p)); }

#if defined(__gfx950__)
// 16 bytes a lane straight to shared memory: lane l's go to `to` + 16 l. They are there after wait_for_loads().
// Inline assembly, because the compiler would wait for all such loads before every read of shared memory.
SEXTANT_DEVICE void load_to_shared(const Window& w, uint32_t at, int32_t step, char* to) {
  // A load to shared memory may not follow a change of M0 at once.
  asm volatile("s_mov_b32 m0, %0\n\ts_nop 0\n\tbuffer_load_dwordx4 %1, %2, %3 offen lds"
               :
               : "s"(uniform(static_cast<int>(shared_place(to)))), "v"(at), "s"(w.resource), "s"(step)
               : "memory");
}
#endif
// All but the last `kLeft` loads of this wave have arrived.
template <int kLeft>
SEXTANT_DEVICE void wait_for_loads() {
  static_assert(kLeft < 16);
  __builtin_amdgcn_s_waitcnt(0x0f70 | kLeft);  // vmcnt; the other counters at their most
}
// Sixteen lanes read a matrix of 4 rows and 16 columns of 16-bit elements, lane i four columns from 4 (i % 4) on of row
// i / 4, and lane i gets column i.
SEXTANT_DEVICE u32x2 read_transposed(const char* from) {
#if defined(__gfx950__)
  using x4 = short __attribute__((vector_size(8)));
  return bit_cast<u32x2>(
      __builtin_amdgcn_ds_read_tr16_b64_v4i16((__attribute__((address_space(3))) x4*)shared_place(from)));
#else
  return *reinterpret_cast<const u32x2*>(from);
#endif
}

#else

struct Window {
  const char* base;
  uint32_t bytes;
};
inline Window make_window(const void* base, uint32_t bytes = 0x80000000u) {
  return {static_cast<const char*>(base), bytes};
}
template <class Words>
inline Words load_words(const Window& w, uint32_t at, int32_t step) {
  Words words{};
  if (at < w.bytes) std::memcpy(&words, w.base + at + step, sizeof(words));
  return words;
}
constexpr int kMatrixGroup = 0, kVectorGroup = 0, kScalarGroup = 0, kSharedReadGroup = 0, kSharedWriteGroup = 0;
template <int kKind, int kCount>
inline void order_next() {}
inline void order_fence() {}
inline void seldom() {}
inline int made_here(int x) { return x; }
inline float made_here(float x) { return x; }
template <class X>
inline X made_here_by_lane(X x) {
  return x;
}
inline void load_to_shared(const Window& w, uint32_t at, int32_t step, char* to) {
  const auto words = load_words<u32x4>(w, at, step);
  std::memcpy(to + lane_index() * 16, &words, sizeof(words));
}
template <int kLeft>
inline void wait_for_loads() {}
inline u32x2 read_transposed(const char* from) { return bit_cast<u32x2>(emulator::transpose(from)); }

#endif

}  // namespace sextant::hip
