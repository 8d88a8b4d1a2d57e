// The language that HIP kernels are written in: what one lane of a wave can do. Two meanings of one source:
//
//   on the GPU (clang or hipcc, device only)   each function is one or two machine instructions
//   on the CPU (any C++ compiler)              each lane is a fiber; lanes meet at barriers, at cross-lane operations
//                                              and at MFMA, where the emulator does the operation for the whole wave
//
// Rules for kernels: every lane of a wave takes part in every cross-lane operation and MFMA (the emulator reports it
// otherwise); lanes talk through shared memory only with a barrier() or wave_sync() between.
#pragma once

#include <cstdint>

#include "devices/gpu/device_code.h"
#include "types/ceil_div.h"

#ifndef __AMDGCN__
#include <cmath>
#include <cstring>

#include "devices/hip/emulator/lane_api.h"
#endif

namespace sextant::hip {

constexpr int kWaveSize = 64;
using gpu::exp2;
using gpu::kNegInf;
using gpu::log2;
using gpu::max;
using gpu::min;

using f32x2 = float __attribute__((vector_size(8)));
using f32x4 = float __attribute__((vector_size(16)));
using f32x16 = float __attribute__((vector_size(64)));
using u32x4 = uint32_t __attribute__((vector_size(16)));
using u32x2 = uint32_t __attribute__((vector_size(8)));

// 16-bit elements as they lie in memory.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

#ifdef __AMDGCN__

#define SEXTANT_DEVICE_MEMBER __attribute__((device, always_inline))
#define SEXTANT_NO_INLINE __attribute__((device, noinline))
#define SEXTANT_UNROLL _Pragma("unroll")
#define SEXTANT_KEEP_LOOP _Pragma("unroll 1")
// `waves`: waves a SIMD that the register budget must allow.
#define SEXTANT_KERNEL(threads, waves) \
  extern "C"                           \
      __attribute__((global, amdgpu_flat_work_group_size(threads, threads), amdgpu_waves_per_eu(waves, waves))) void

#if defined(__gfx950__)
constexpr bool kHasWideMfma = true;
#else
constexpr bool kHasWideMfma = false;
#endif

SEXTANT_DEVICE int thread_index() { return static_cast<int>(__builtin_amdgcn_workitem_id_x()); }
SEXTANT_DEVICE int block_index() { return static_cast<int>(__builtin_amdgcn_workgroup_id_x()); }
// A value that is the same in all lanes of the wave.
SEXTANT_DEVICE int uniform(int x) { return __builtin_amdgcn_readfirstlane(x); }

SEXTANT_DEVICE void barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
SEXTANT_DEVICE void wave_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
// Favours this wave's instructions over those of the SIMD's other waves.
template <int kPriority>
SEXTANT_DEVICE void set_priority() {
  __builtin_amdgcn_s_setprio(kPriority);
}

template <int kBytes>
SEXTANT_DEVICE char* shared_memory() {
  __attribute__((shared, aligned(16))) static char bytes[kBytes];
  return bytes;
}

template <class To, class From>
SEXTANT_DEVICE To bit_cast(From from) {
  return __builtin_bit_cast(To, from);
}

SEXTANT_DEVICE int shuffle_bits(int x, int lane) { return __builtin_amdgcn_ds_bpermute(lane * 4, x); }
SEXTANT_DEVICE uint64_t ballot(bool x) { return __builtin_amdgcn_ballot_w64(x); }

SEXTANT_DEVICE float reciprocal(float x) { return __builtin_amdgcn_rcpf(x); }

// Halves of two words: low(a, b) = a.low | b.low << 16, high(a, b) = a.high | b.high << 16.
SEXTANT_DEVICE uint32_t low_halves(uint32_t a, uint32_t b) { return __builtin_amdgcn_perm(b, a, 0x05040100u); }
SEXTANT_DEVICE uint32_t high_halves(uint32_t a, uint32_t b) { return __builtin_amdgcn_perm(b, a, 0x07060302u); }

SEXTANT_DEVICE float half_to_float(uint16_t x) { return static_cast<float>(__builtin_bit_cast(_Float16, x)); }
SEXTANT_DEVICE uint16_t float_to_half(float x) { return __builtin_bit_cast(uint16_t, static_cast<_Float16>(x)); }
// Two halves, rounded towards zero.
SEXTANT_DEVICE uint32_t cut_to_halves(float a, float b) { return bit_cast<uint32_t>(__builtin_amdgcn_cvt_pkrtz(a, b)); }
SEXTANT_DEVICE float max_of(float a, float b) { return __builtin_fmaxf(a, b); }

// A value that is the same in all lanes, from memory that nothing writes while the kernel runs.
SEXTANT_DEVICE int32_t scalar_load(const int32_t* at) {
  return *reinterpret_cast<const __attribute__((address_space(4))) int32_t*>(reinterpret_cast<uintptr_t>(at));
}

using s16x4 = short __attribute__((vector_size(8)));
using h16x4 = _Float16 __attribute__((vector_size(8)));

// D = A B + C with A [16 rows][16 k], B [16 k][16 columns] and so on; layouts in mfma_layout.h.
SEXTANT_DEVICE f32x4 mfma_16x16x16(bf16, u32x2 a, u32x2 b, f32x4 c) {
  return __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(bit_cast<s16x4>(a), bit_cast<s16x4>(b), c, 0, 0, 0);
}
SEXTANT_DEVICE f32x4 mfma_16x16x16(f16, u32x2 a, u32x2 b, f32x4 c) {
  return __builtin_amdgcn_mfma_f32_16x16x16f16(bit_cast<h16x4>(a), bit_cast<h16x4>(b), c, 0, 0, 0);
}
SEXTANT_DEVICE f32x4 mfma_16x16x4(float a, float b, f32x4 c) {
  return __builtin_amdgcn_mfma_f32_16x16x4f32(a, b, c, 0, 0, 0);
}
SEXTANT_DEVICE f32x16 mfma_32x32x8(bf16, u32x2 a, u32x2 b, f32x16 c) {
  return __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(bit_cast<s16x4>(a), bit_cast<s16x4>(b), c, 0, 0, 0);
}
SEXTANT_DEVICE f32x16 mfma_32x32x8(f16, u32x2 a, u32x2 b, f32x16 c) {
  return __builtin_amdgcn_mfma_f32_32x32x8f16(bit_cast<h16x4>(a), bit_cast<h16x4>(b), c, 0, 0, 0);
}
#if defined(__gfx950__)
SEXTANT_DEVICE f32x16 mfma_32x32x16(bf16, u32x4 a, u32x4 b, f32x16 c) {
  using x8 = __bf16 __attribute__((vector_size(16)));
  return __builtin_amdgcn_mfma_f32_32x32x16_bf16(bit_cast<x8>(a), bit_cast<x8>(b), c, 0, 0, 0);
}
SEXTANT_DEVICE f32x16 mfma_32x32x16(f16, u32x4 a, u32x4 b, f32x16 c) {
  using x8 = _Float16 __attribute__((vector_size(16)));
  return __builtin_amdgcn_mfma_f32_32x32x16_f16(bit_cast<x8>(a), bit_cast<x8>(b), c, 0, 0, 0);
}
SEXTANT_DEVICE f32x4 mfma_16x16x32(bf16, u32x4 a, u32x4 b, f32x4 c) {
  using x8 = __bf16 __attribute__((vector_size(16)));
  return __builtin_amdgcn_mfma_f32_16x16x32_bf16(bit_cast<x8>(a), bit_cast<x8>(b), c, 0, 0, 0);
}
SEXTANT_DEVICE f32x4 mfma_16x16x32(f16, u32x4 a, u32x4 b, f32x4 c) {
  using x8 = _Float16 __attribute__((vector_size(16)));
  return __builtin_amdgcn_mfma_f32_16x16x32_f16(bit_cast<x8>(a), bit_cast<x8>(b), c, 0, 0, 0);
}
#endif

#else  // the CPU

#define SEXTANT_DEVICE_MEMBER inline
#define SEXTANT_NO_INLINE inline
#define SEXTANT_UNROLL
#define SEXTANT_KEEP_LOOP
#define SEXTANT_KERNEL(threads, waves) inline void

inline int thread_index() { return emulator::lane().thread; }
inline int block_index() { return emulator::lane().block; }
inline int uniform(int x) { return x; }
inline void barrier() { emulator::barrier(); }
inline void wave_sync() { emulator::wave_sync(); }
template <int kPriority>
inline void set_priority() {}

template <int kBytes>
inline char* shared_memory() {
  static_assert(kBytes <= emulator::kSharedBytes, "a CU of gfx950 has 160 KiB of LDS");
  return emulator::lane().shared;
}

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline int shuffle_bits(int x, int lane) { return emulator::shuffle(x, lane); }
inline uint64_t ballot(bool x) { return emulator::ballot(x); }

inline float reciprocal(float x) { return 1.0f / x; }

inline uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
inline uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }

inline float max_of(float a, float b) { return std::fmax(a, b); }
inline int32_t scalar_load(const int32_t* at) { return *at; }

inline float half_to_float(uint16_t x) { return emulator::half_to_float(x); }
inline uint16_t float_to_half(float x) { return emulator::float_to_half(x); }
inline uint32_t cut_to_halves(float a, float b) {
  return emulator::cut_to_half(a) | uint32_t{emulator::cut_to_half(b)} << 16;
}

inline f32x4 mfma_16x16x16(bf16, u32x2 a, u32x2 b, f32x4 c) {
  return emulator::mfma<f32x4>(emulator::MfmaShape::kBf16x16, a, b, c);
}
inline f32x4 mfma_16x16x16(f16, u32x2 a, u32x2 b, f32x4 c) {
  return emulator::mfma<f32x4>(emulator::MfmaShape::kF16x16, a, b, c);
}
inline f32x4 mfma_16x16x4(float a, float b, f32x4 c) {
  return emulator::mfma<f32x4>(emulator::MfmaShape::kF32x4, a, b, c);
}
inline f32x4 mfma_16x16x32(bf16, u32x4 a, u32x4 b, f32x4 c) {
  return emulator::mfma<f32x4>(emulator::MfmaShape::kBf16x32, a, b, c);
}
inline f32x4 mfma_16x16x32(f16, u32x4 a, u32x4 b, f32x4 c) {
  return emulator::mfma<f32x4>(emulator::MfmaShape::kF16x32, a, b, c);
}
inline f32x16 mfma_32x32x8(bf16, u32x2 a, u32x2 b, f32x16 c) {
  return emulator::mfma<f32x16>(emulator::MfmaShape::kBf16x8Tall, a, b, c);
}
inline f32x16 mfma_32x32x8(f16, u32x2 a, u32x2 b, f32x16 c) {
  return emulator::mfma<f32x16>(emulator::MfmaShape::kF16x8Tall, a, b, c);
}
inline f32x16 mfma_32x32x16(bf16, u32x4 a, u32x4 b, f32x16 c) {
  return emulator::mfma<f32x16>(emulator::MfmaShape::kBf16x16Tall, a, b, c);
}
inline f32x16 mfma_32x32x16(f16, u32x4 a, u32x4 b, f32x16 c) {
  return emulator::mfma<f32x16>(emulator::MfmaShape::kF16x16Tall, a, b, c);
}
// The emulated device can be any chip, so that all paths run in tests.
#define kHasWideMfma (::sextant::hip::emulator::lane().chip.wide_mfma)

#endif

SEXTANT_DEVICE float uniform(float x) { return bit_cast<float>(uniform(bit_cast<int>(x))); }
SEXTANT_DEVICE int lane_index() { return thread_index() & (kWaveSize - 1); }
SEXTANT_DEVICE int wave_index() { return uniform(thread_index() / kWaveSize); }

SEXTANT_DEVICE float shuffle_xor(float x, int mask) {
  return bit_cast<float>(shuffle_bits(bit_cast<int>(x), lane_index() ^ mask));
}

}  // namespace sextant::hip
