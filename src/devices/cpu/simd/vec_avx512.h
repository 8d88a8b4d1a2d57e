// Sixteen floats: AVX-512 F, BW, VL, DQ. See vec.h for the contract.
namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int kLanes = 16;
// 6 rows x 4 panels = 24 accumulators, 4 panel vectors, a broadcast: 29 of 32. Ten loads for 24 products; 12 rows x 2
// panels would be 14, and a Zen 4 core then waits for its loads (bf16 215 instead of 229 GFLOP/s).
constexpr int kIsaRows = 6;

struct F32 {
  __m512 v;
};
using Mask = __mmask16;

inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline F32 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 fmadd(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Of numbers from 1 to 2^100, to about a unit in the last place.
inline F32 reciprocal(F32 a) {
  const __m512 r = _mm512_rcp14_ps(a.v);
  return {_mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1.0f)), r)};
}
inline F32 absolute(F32 a) { return {_mm512_abs_ps(a.v)}; }
inline F32 copy_sign(F32 magnitude, F32 sign) {
  const __m512i bit = _mm512_set1_epi32(INT32_MIN);
  return {_mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign.v), _mm512_castps_si512(magnitude.v), 0xca))};
}
inline F32 round_even(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F32 lane_numbers() { return {_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)}; }
// The mask also spares the slow subnormal results; "not less" is true for NaN.
inline F32 exp2_domain(F32 x) { return x; }
inline F32 times_pow2(F32 a, F32 n, F32 x) {
  return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), a.v, n.v)};
}
// Written out: the sequence of GCC's _mm512_reduce_* is not specified, and the order of a sum is part of a result's
// bits.
inline __m256 upper_half(__m512 a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
inline float reduce_max(F32 a) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a.v), upper_half(a.v));
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline float reduce_add(F32 a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), upper_half(a.v));
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

// Sums pairs of vectors; lanes of a and b alternate in the result.
inline __m512 add_in_lanes(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}
inline __m512 add_pairs_in_lanes(__m512 a, __m512 b) {
  const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}
inline __m512 add_lanes(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
inline __attribute__((always_inline)) F32 reduce_lanes(const F32 (&a)[kLanes]) {
  __m512 quads[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    quads[i] =
        add_pairs_in_lanes(add_in_lanes(a[4 * i].v, a[4 * i + 1].v), add_in_lanes(a[4 * i + 2].v, a[4 * i + 3].v));
  return {add_lanes(add_lanes(quads[0], quads[1]), add_lanes(quads[2], quads[3]))};
}

inline Mask first_lanes(int64_t n) { return static_cast<Mask>(n <= 0 ? 0u : n >= kLanes ? 0xffffu : (1u << n) - 1u); }
inline Mask lanes_between(int64_t lo, int64_t hi) { return static_cast<Mask>(first_lanes(hi) & ~first_lanes(lo)); }
inline Mask less(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline F32 select(Mask m, F32 a, F32 b) { return {_mm512_mask_blend_ps(m, b.v, a.v)}; }

// See vec_avx2.h for the way through fp16.
template <DType T>
inline F32 widen_fp8(__m128i codes) {
  const __m256i code = _mm256_cvtepu8_epi16(codes);
  if constexpr (T == DType::kF8E5M2) return {_mm512_cvtph_ps(_mm256_slli_epi16(code, 8))};
  const __m256i low = _mm256_and_si256(code, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(code, _mm256_set1_epi16(0x80)), 8);
  __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(low, 7));
  const __mmask16 nan = T == DType::kF8E4M3FN ? _mm256_cmpeq_epi16_mask(low, _mm256_set1_epi16(0x7f))
                                              : _mm256_cmpeq_epi16_mask(code, _mm256_set1_epi16(0x80));
  half = _mm256_mask_blend_epi16(nan, half, _mm256_set1_epi16(0x7e00));
  return {_mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(T == DType::kF8E4M3FN ? 256.0f : 128.0f))};
}

// 32 codes of fp8 -> bf16.
template <DType T>
inline void widen_fp8_to_bf16(const char* src, uint16_t* dst) {
  using F = Fp8AsBf16<T>;
  alignas(64) static constexpr uint16_t kSubnormal[32] = {
      subnormal_as_bf16<T>(0), subnormal_as_bf16<T>(1), subnormal_as_bf16<T>(2), subnormal_as_bf16<T>(3),
      subnormal_as_bf16<T>(4), subnormal_as_bf16<T>(5), subnormal_as_bf16<T>(6), subnormal_as_bf16<T>(7)};
  const __m512i code = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(src)));
  const __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi16(0x7f));
  __m512i bits = _mm512_add_epi16(_mm512_slli_epi16(magnitude, F::kShift), _mm512_set1_epi16(F::kRebias));
  bits = _mm512_mask_permutexvar_epi16(bits, _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(F::kFirstNormal)),
                                       magnitude, _mm512_load_si512(kSubnormal));
  if constexpr (T == DType::kF8E5M2) {  // infinity and NaN have the largest exponent
    const __mmask32 special = _mm512_cmpge_epu16_mask(magnitude, _mm512_set1_epi16(0x7c));
    bits = _mm512_mask_blend_epi16(special, bits, _mm512_or_si512(bits, _mm512_set1_epi16(0x7f80)));
  } else {
    const __mmask32 nan = T == DType::kF8E4M3FN ? _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f))
                                                : _mm512_cmpeq_epi16_mask(code, _mm512_set1_epi16(0x80));
    bits = _mm512_mask_mov_epi16(bits, nan, _mm512_set1_epi16(F::kNan));
  }
  // bits | (code << 8 & sign)
  bits = _mm512_ternarylogic_epi32(bits, _mm512_slli_epi16(code, 8), _mm512_set1_epi16(INT16_MIN), 0xf8);
  _mm512_storeu_si512(dst, bits);
}

inline __m256i narrow_bf16(F32 a) {
#ifdef __AVX512BF16__
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v));
#else
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}

// float_to_fp8, sixteen at a time.
template <DType T>
inline __m128i narrow_fp8(F32 x) {
  using F = Fp8Format<T>;
  constexpr int kShift = 23 - F::kMantissa;
  constexpr auto kRebias = static_cast<int>((127u - F::kBias) << F::kMantissa);
  const auto all = [](int n) { return _mm512_set1_epi32(n); };
  const __m512 step = _mm512_castsi512_ps(all((128 - F::kBias - F::kMantissa + 23) << 23));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(x.v), 24), all(0x80));
  const __m512 magnitude = _mm512_min_ps(_mm512_abs_ps(x.v), _mm512_set1_ps(F::kMax));
  const __m512i low = _mm512_castps_si512(magnitude);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(low, kShift), all(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(low, odd), all((1 << (kShift - 1)) - 1));
  const __m512i normal = _mm512_sub_epi32(_mm512_srli_epi32(rounded, kShift), all(kRebias));
  const __m512i subnormal =
      _mm512_sub_epi32(_mm512_castps_si512(_mm512_add_ps(magnitude, step)), _mm512_castps_si512(step));
  const __mmask16 small = _mm512_cmp_ps_mask(magnitude, _mm512_castsi512_ps(all((128 - F::kBias) << 23)), _CMP_LT_OQ);
  __m512i code = _mm512_mask_blend_epi32(small, normal, subnormal);
  if constexpr (T == DType::kF8E4M3FNUZ) {  // no negative zero
    code = _mm512_mask_or_epi32(code, _mm512_test_epi32_mask(code, code), code, sign);
    code = _mm512_mask_mov_epi32(code, nan, all(F::kNan));
  } else {
    code = _mm512_or_si512(_mm512_mask_mov_epi32(code, nan, all(F::kNan)), sign);
  }
  return _mm512_cvtepi32_epi8(code);
}

template <DType T>
inline F32 load_as(const void* p) {
  if constexpr (T == DType::kF32) {
    return load(static_cast<const float*>(p));
  } else if constexpr (T == DType::kBF16) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  } else if constexpr (T == DType::kF16) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
  } else {
    return widen_fp8<T>(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
}

template <DType T>
inline void load_two(const void* p, F32& x, F32& y) {
  if constexpr (T == DType::kBF16) {
    const __m512i pairs = _mm512_loadu_si512(p);
    x = {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))};
    y = {_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(INT32_MIN >> 15)))};
  } else {
    x = load_as<T>(p);
    y = load_as<T>(static_cast<const char*>(p) + kLanes * kElementBytes<T>);
  }
}

template <DType T>
inline void store_as(void* p, F32 a) {
  if constexpr (T == DType::kF32) {
    store(static_cast<float*>(p), a);
  } else if constexpr (T == DType::kF16) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
  } else if constexpr (T == DType::kBF16) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), narrow_bf16(a));
  } else {
    _mm_storeu_si128(static_cast<__m128i*>(p), narrow_fp8<T>(a));
  }
}

// Stores that leave the caches alone; p is aligned to the stored vector.
template <DType T>
inline void stream_as(void* p, F32 a) {
  if constexpr (T == DType::kF32) {
    _mm512_stream_ps(static_cast<float*>(p), a.v);
  } else {
    static_assert(T == DType::kF16 || T == DType::kBF16);
    const __m256i x = T == DType::kF16 ? _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT) : narrow_bf16(a);
    _mm256_stream_si256(static_cast<__m256i*>(p), x);
  }
}
inline void stream_fence() { _mm_sfence(); }

template <DType T>
inline F32 load_part(const void* p, int64_t n) {
  const Mask some = first_lanes(n);
  if constexpr (T == DType::kF32)
    return {_mm512_maskz_loadu_ps(some, p)};
  else if constexpr (T == DType::kBF16)
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, p)), 16))};
  else if constexpr (T == DType::kF16)
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, p))};
  else
    return widen_fp8<T>(_mm_maskz_loadu_epi8(some, p));
}
template <DType T>
inline void store_part(void* p, F32 a, int64_t n) {
  const Mask some = first_lanes(n);
  if constexpr (T == DType::kF32)
    _mm512_mask_storeu_ps(p, some, a.v);
  else if constexpr (T == DType::kF16)
    _mm256_mask_storeu_epi16(p, some, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
  else if constexpr (T == DType::kBF16)
    _mm256_mask_storeu_epi16(p, some, narrow_bf16(a));
  else
    _mm_mask_storeu_epi8(p, some, narrow_fp8<T>(a));
}
template <DType T>
inline void load_two_part(const void* p, int64_t n, F32& x, F32& y) {
  if constexpr (T == DType::kBF16) {
    const __m512i pairs = _mm512_maskz_loadu_epi16((1u << n) - 1u, p);
    x = {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))};
    y = {_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(INT32_MIN >> 15)))};
  } else if (n <= kLanes) {
    x = n == kLanes ? load_as<T>(p) : load_part<T>(p, n);
    y = set1(0.0f);
  } else {
    x = load_as<T>(p);
    y = load_part<T>(static_cast<const char*>(p) + kLanes * kElementBytes<T>, n - kLanes);
  }
}

// 16 x 16 transposition of 32-bit elements, in place.
inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// The even and the odd elements of two vectors, in their order again.
struct VectorPair {
  __m512 first, second;
};
inline VectorPair join_even_odd(__m512 even, __m512 odd) {
  alignas(64) static constexpr int32_t kFirst[16] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const __m512i first = _mm512_load_si512(kFirst), second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  return {_mm512_permutex2var_ps(even, first, odd), _mm512_permutex2var_ps(even, second, odd)};
}

// rows[i] lane j -> dst[j * stride + i]
inline void transpose_store(const F32 (&rows)[kLanes], float* dst, int64_t stride) {
  __m512i r[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_castps_si512(rows[i].v);
  transpose(r);
  for (int j = 0; j < 16; ++j) _mm512_storeu_si512(dst + j * stride, r[j]);
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
