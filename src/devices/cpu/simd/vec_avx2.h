// Eight floats: AVX2, FMA and F16C. See vec.h for the contract.
namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int kLanes = 8;
constexpr int kIsaRows = 6;  // 6 rows x 2 vectors of a panel = 12 accumulators, 2 panel vectors, 1 broadcast: 15 of 16

struct F32 {
  __m256 v;
};
struct Mask {
  __m256 v;
};

inline F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, F32 a) { _mm256_storeu_ps(p, a.v); }
inline F32 set1(float x) { return {_mm256_set1_ps(x)}; }
inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F32 fmadd(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 reciprocal(F32 a) { return div(set1(1.0f), a); }
inline F32 absolute(F32 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline F32 copy_sign(F32 magnitude, F32 sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}
inline F32 round_even(F32 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F32 lane_numbers() { return {_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)}; }
// maxps returns its second operand when one is NaN.
inline F32 exp2_domain(F32 x) { return {_mm256_max_ps(_mm256_set1_ps(-127.0f), x.v)}; }
inline F32 times_pow2(F32 a, F32 n, F32) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)))};
}
inline float reduce_max(F32 a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline float reduce_add(F32 a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline __attribute__((always_inline)) F32 reduce_lanes(const F32 (&a)[kLanes]) {
  const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(a[0].v, a[1].v), _mm256_hadd_ps(a[2].v, a[3].v));
  const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(a[4].v, a[5].v), _mm256_hadd_ps(a[6].v, a[7].v));
  return {_mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31))};
}

inline Mask lanes_between(int64_t lo, int64_t hi) {
  const int l = static_cast<int>(lo < 0 ? 0 : lo > kLanes ? kLanes : lo);
  const int h = static_cast<int>(hi < 0 ? 0 : hi > kLanes ? kLanes : hi);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(l - 1)),
                                               _mm256_cmpgt_epi32(_mm256_set1_epi32(h), lane)))};
}
inline Mask less(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline F32 select(Mask m, F32 a, F32 b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }

// fp8 goes through fp16, whose conversion to fp32 is exact for subnormals: e5m2 is the high byte of an fp16; e4m3 has
// the same fields one bit lower and another exponent bias.
template <DType T>
inline F32 load_as(const void* p) {
  if constexpr (T == DType::kF32) {
    return load(static_cast<const float*>(p));
  } else if constexpr (T == DType::kBF16) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  } else if constexpr (T == DType::kF16) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
  } else {
    const __m128i code = _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    if constexpr (T == DType::kF8E5M2) return {_mm256_cvtph_ps(_mm_slli_epi16(code, 8))};
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(code, _mm_set1_epi16(0x80)), 8);
    const __m128i low = _mm_and_si128(code, _mm_set1_epi16(0x7f));
    __m128i half = _mm_or_si128(sign, _mm_slli_epi16(low, 7));
    const __m128i nan = T == DType::kF8E4M3FN ? _mm_cmpeq_epi16(low, _mm_set1_epi16(0x7f))
                                              : _mm_cmpeq_epi16(code, _mm_set1_epi16(0x80));
    half = _mm_blendv_epi8(half, _mm_set1_epi16(0x7e00), nan);
    return {_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(T == DType::kF8E4M3FN ? 256.0f : 128.0f))};
  }
}

template <DType T>
inline void load_two(const void* p, F32& x, F32& y) {
  if constexpr (T == DType::kBF16) {
    const __m256i pairs = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    x = {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))};
    y = {_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(INT32_MIN >> 15)))};
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
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
  } else if constexpr (T == DType::kBF16) {
    const __m256i bits = _mm256_castps_si256(a.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 nan = _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), _mm256_castps_si256(nan));
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
  } else {
    float lanes[kLanes];
    store(lanes, a);
    for (int i = 0; i < kLanes; ++i) store_element<T>(p, i, lanes[i]);
  }
}

// 16 codes of fp8 -> bf16.
template <DType T>
inline void widen_fp8_to_bf16(const char* src, uint16_t* dst) {
  using F = Fp8AsBf16<T>;
  struct alignas(16) Table {
    uint8_t low[16] = {}, high[16] = {};
    constexpr Table() {
      for (int i = 0; i < 8; ++i) {
        low[i] = static_cast<uint8_t>(subnormal_as_bf16<T>(i) & 0xff);
        high[i] = static_cast<uint8_t>(subnormal_as_bf16<T>(i) >> 8);
      }
    }
  };
  static constexpr Table kSubnormal;
  const auto broadcast = [](const uint8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  };
  const __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src)));
  const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi16(0x7f));
  __m256i bits = _mm256_add_epi16(_mm256_slli_epi16(magnitude, F::kShift), _mm256_set1_epi16(F::kRebias));
  const __m256i subnormal =
      _mm256_or_si256(_mm256_shuffle_epi8(broadcast(kSubnormal.low), magnitude),
                      _mm256_slli_epi16(_mm256_shuffle_epi8(broadcast(kSubnormal.high), magnitude), 8));
  bits = _mm256_blendv_epi8(bits, subnormal, _mm256_cmpgt_epi16(_mm256_set1_epi16(F::kFirstNormal), magnitude));
  if constexpr (T == DType::kF8E5M2) {  // infinity and NaN have the largest exponent
    const __m256i special = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(0x7b));
    bits = _mm256_or_si256(bits, _mm256_and_si256(special, _mm256_set1_epi16(0x7f80)));
  } else {
    const __m256i nan = T == DType::kF8E4M3FN ? _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f))
                                              : _mm256_cmpeq_epi16(code, _mm256_set1_epi16(0x80));
    bits = _mm256_blendv_epi8(bits, _mm256_set1_epi16(F::kNan), nan);
  }
  bits = _mm256_or_si256(bits, _mm256_and_si256(_mm256_slli_epi16(code, 8), _mm256_set1_epi16(INT16_MIN)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst), bits);
}

// rows[i] lane j -> dst[j * stride + i]
inline void transpose_store(const F32 (&rows)[kLanes], float* dst, int64_t stride) {
  __m256 pairs[8], quads[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    _mm256_storeu_ps(dst + j * stride, _mm256_permute2f128_ps(quads[j], quads[j + 4], 0x20));
    _mm256_storeu_ps(dst + (j + 4) * stride, _mm256_permute2f128_ps(quads[j], quads[j + 4], 0x31));
  }
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
