// The wgmma shapes of the forward kernel: scores S [64][N] = Q [64][16] K^T and outputs O [64][N] += P [64][16] V. The
// accumulators of a thread are rows lane / 4 and lane / 4 + 8 of its warp's 16: d[4 * j + 2 * half + e] is column
// 8 * j + 2 * (lane % 4) + e (PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16").
#pragma once

#include "devices/cuda/hopper/wgmma.cuh"

namespace sextant::cuda {

// clang-format off
#define SEXTANT_REGISTERS_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SEXTANT_ACCUMULATORS_32 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])

#define SEXTANT_REGISTERS_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SEXTANT_ACCUMULATORS_64 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
  "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
  "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
  "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])

#define SEXTANT_REGISTERS_48 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SEXTANT_ACCUMULATORS_48 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
  "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
  "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])

#define SEXTANT_REGISTERS_96 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SEXTANT_ACCUMULATORS_96 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
  "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
  "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
  "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), \
  "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
  "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), \
  "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), \
  "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])

// clang-format on

#define SEXTANT_WGMMA_KEYS(N, COUNT, TYPE, A, B, P)                                                           \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P                                                         \
               ", 0;\n"                                                                                       \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" SEXTANT_REGISTERS_##COUNT \
               "}, %" A ", %" B ", p, 1, 1, 0, 0;\n}\n"                                                       \
               : SEXTANT_ACCUMULATORS_##COUNT                                                                 \
               : "l"(a), "l"(b), "r"(accumulate ? 1 : 0))

// d (+)= a b^T; a and b are K-major in shared memory.
template <class T, int kN>
__device__ __forceinline__ void wgmma_scores(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kN == 64 || kN == 96 || kN == 128);
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  if constexpr (kN == 96 && kBf16) {
    SEXTANT_WGMMA_KEYS(96, 48, "bf16", "48", "49", "50");
  } else if constexpr (kN == 96) {
    SEXTANT_WGMMA_KEYS(96, 48, "f16", "48", "49", "50");
  } else if constexpr (kN == 128 && kBf16) {
    SEXTANT_WGMMA_KEYS(128, 64, "bf16", "64", "65", "66");
  } else if constexpr (kN == 128) {
    SEXTANT_WGMMA_KEYS(128, 64, "f16", "64", "65", "66");
  } else if constexpr (kBf16) {
    SEXTANT_WGMMA_KEYS(64, 32, "bf16", "32", "33", "34");
  } else {
    SEXTANT_WGMMA_KEYS(64, 32, "f16", "32", "33", "34");
  }
}
#undef SEXTANT_WGMMA_KEYS

#define SEXTANT_WGMMA_VALUES(N, COUNT, TYPE, A, B)                                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" SEXTANT_REGISTERS_##COUNT \
               "}, " A ", %" B ", 1, 1, 1, 1;\n"                                                              \
               : SEXTANT_ACCUMULATORS_##COUNT                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

// d += a b; a in registers, b MN-major in shared memory (its rows are k).
template <class T, int kN>
__device__ __forceinline__ void wgmma_values(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b) {
  static_assert(kN == 64 || kN == 96 || kN == 128 || kN == 192);
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  if constexpr (kN == 192 && kBf16) {
    SEXTANT_WGMMA_VALUES(192, 96, "bf16", "{%96, %97, %98, %99}", "100");
  } else if constexpr (kN == 192) {
    SEXTANT_WGMMA_VALUES(192, 96, "f16", "{%96, %97, %98, %99}", "100");
  } else if constexpr (kN == 96 && kBf16) {
    SEXTANT_WGMMA_VALUES(96, 48, "bf16", "{%48, %49, %50, %51}", "52");
  } else if constexpr (kN == 96) {
    SEXTANT_WGMMA_VALUES(96, 48, "f16", "{%48, %49, %50, %51}", "52");
  } else if constexpr (kN == 128 && kBf16) {
    SEXTANT_WGMMA_VALUES(128, 64, "bf16", "{%64, %65, %66, %67}", "68");
  } else if constexpr (kN == 128) {
    SEXTANT_WGMMA_VALUES(128, 64, "f16", "{%64, %65, %66, %67}", "68");
  } else if constexpr (kBf16) {
    SEXTANT_WGMMA_VALUES(64, 32, "bf16", "{%32, %33, %34, %35}", "36");
  } else {
    SEXTANT_WGMMA_VALUES(64, 32, "f16", "{%32, %33, %34, %35}", "36");
  }
}
#undef SEXTANT_WGMMA_VALUES

// fp8: k is 32, all operands are e4m3 and K-major, which is all that 8-bit wgmma knows.
// d (+)= a b^T; a and b in shared memory.
__device__ __forceinline__ void wgmma_fp8_scores(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" SEXTANT_REGISTERS_64 "}, %64, %65, p, 1, 1;\n}\n"
      : SEXTANT_ACCUMULATORS_64
      : "l"(a), "l"(b), "r"(accumulate ? 1 : 0));
}
__device__ __forceinline__ void wgmma_fp8_scores(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" SEXTANT_REGISTERS_32 "}, %32, %33, p, 1, 1;\n}\n"
      : SEXTANT_ACCUMULATORS_32
      : "l"(a), "l"(b), "r"(accumulate ? 1 : 0));
}
// d (+)= a b^T; a in registers, b in shared memory.
__device__ __forceinline__ void wgmma_fp8_values(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" SEXTANT_REGISTERS_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1;\n}\n"
      : SEXTANT_ACCUMULATORS_32
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate ? 1 : 0));
}
#undef SEXTANT_REGISTERS_32
#undef SEXTANT_REGISTERS_48
#undef SEXTANT_REGISTERS_96
#undef SEXTANT_ACCUMULATORS_48
#undef SEXTANT_ACCUMULATORS_96
#undef SEXTANT_REGISTERS_64
#undef SEXTANT_ACCUMULATORS_32
#undef SEXTANT_ACCUMULATORS_64

}  // namespace sextant::cuda
