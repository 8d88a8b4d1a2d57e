// Four floats in plain C++: what any compiler makes of it on any machine. See vec.h for the contract.
namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int kIsaRows = 2;  // accumulator rows a micro-kernel can keep in registers beside one panel

struct F32 {
  float v[kLanes];
};
struct Mask {
  bool v[kLanes];
};

#define SEXTANT_LANES(expression)                           \
  do {                                                      \
    F32 r;                                                  \
    for (int i = 0; i < kLanes; ++i) r.v[i] = (expression); \
    return r;                                               \
  } while (false)

inline F32 load(const float* p) { SEXTANT_LANES(p[i]); }
inline void store(float* p, F32 a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
inline F32 set1(float x) { SEXTANT_LANES(x); }
inline F32 add(F32 a, F32 b) { SEXTANT_LANES(a.v[i] + b.v[i]); }
inline F32 sub(F32 a, F32 b) { SEXTANT_LANES(a.v[i] - b.v[i]); }
inline F32 mul(F32 a, F32 b) { SEXTANT_LANES(a.v[i] * b.v[i]); }
inline F32 div(F32 a, F32 b) { SEXTANT_LANES(a.v[i] / b.v[i]); }
inline F32 max(F32 a, F32 b) { SEXTANT_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline F32 fmadd(F32 a, F32 b, F32 c) { SEXTANT_LANES(a.v[i] * b.v[i] + c.v[i]); }
inline F32 reciprocal(F32 a) { SEXTANT_LANES(1.0f / a.v[i]); }
inline F32 absolute(F32 a) { SEXTANT_LANES(__builtin_fabsf(a.v[i])); }
inline F32 copy_sign(F32 magnitude, F32 sign) { SEXTANT_LANES(__builtin_copysignf(magnitude.v[i], sign.v[i])); }
// Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even, for |x| < 2^22.
inline F32 round_even(F32 a) { SEXTANT_LANES((a.v[i] + 12582912.0f) - 12582912.0f); }
inline F32 lane_numbers() { SEXTANT_LANES(static_cast<float>(i)); }
inline F32 exp2_domain(F32 a) { SEXTANT_LANES(a.v[i] < -127.0f ? -127.0f : a.v[i]); }
#undef SEXTANT_LANES

inline F32 times_pow2(F32 a, F32 n, F32) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t bits = static_cast<uint32_t>(n.v[i] == n.v[i] ? static_cast<int32_t>(n.v[i]) + 127 : 0) << 23;
    float factor;
    __builtin_memcpy(&factor, &bits, 4);
    r.v[i] = a.v[i] * factor;
  }
  return r;
}
inline float reduce_max(F32 a) {
  const float x = a.v[0] > a.v[1] ? a.v[0] : a.v[1], y = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return x > y ? x : y;
}
inline float reduce_add(F32 a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
inline __attribute__((always_inline)) F32 reduce_lanes(const F32 (&a)[kLanes]) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = reduce_add(a[i]);
  return r;
}

inline Mask lanes_between(int64_t lo, int64_t hi) {
  Mask m;
  for (int i = 0; i < kLanes; ++i) m.v[i] = i >= lo && i < hi;
  return m;
}
inline Mask less(F32 a, F32 b) {
  Mask m;
  for (int i = 0; i < kLanes; ++i) m.v[i] = a.v[i] < b.v[i];
  return m;
}
inline F32 select(Mask m, F32 a, F32 b) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = m.v[i] ? a.v[i] : b.v[i];
  return r;
}

template <DType T>
inline F32 load_as(const void* p) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = load_element<T>(p, i);
  return r;
}
template <DType T>
inline void load_two(const void* p, F32& x, F32& y) {
  for (int i = 0; i < kLanes; ++i) {
    x.v[i] = load_element<T>(p, T == DType::kBF16 ? 2 * i : i);
    y.v[i] = load_element<T>(p, T == DType::kBF16 ? 2 * i + 1 : kLanes + i);
  }
}
template <DType T>
inline void store_as(void* p, F32 a) {
  for (int i = 0; i < kLanes; ++i) store_element<T>(p, i, a.v[i]);
}

template <DType T>
inline void widen_fp8_to_bf16(const char* src, uint16_t* dst) {
  for (int i = 0; i < 2 * kLanes; ++i)
    dst[i] = static_cast<uint16_t>(bits_of(fp8_to_float<T>(static_cast<uint8_t>(src[i]))) >> 16);
}

// rows[i] lane j -> dst[j * stride + i]
inline void transpose_store(const F32 (&rows)[kLanes], float* dst, int64_t stride) {
  for (int j = 0; j < kLanes; ++j)
    for (int i = 0; i < kLanes; ++i) dst[j * stride + i] = rows[i].v[j];
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
