// Included by one translation unit per ISA, which defines SEXTANT_ISA and PROBE_NAME.
#include "cpu/vec_probe.h"
#include "devices/cpu/kernels/key_rows.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

template <class Function>
void for_vectors(const float* x, float* y, int64_t n, const Function& function) {
  for (int64_t i = 0; i < n; i += kLanes)
    store_first<DType::kF32>(y + i, function(load_first<DType::kF32>(x + i, n - i)), n - i);
}
void probe_exp2(int degree, const float* x, float* y, int64_t n) {
  for_vectors(x, y, n, [degree](F32 v) { return degree == 3 ? exp2<3>(v) : degree == 4 ? exp2<4>(v) : exp2<5>(v); });
}
void probe_tanh(int degree, const float* x, float* y, int64_t n) {
  for_vectors(x, y, n, [degree](F32 v) { return degree == 4 ? tanh<4>(v) : tanh<5>(v); });
}
void probe_widen(DType dtype, const uint8_t* codes, uint16_t* bf16, int64_t n) {
  widen_codes_row(dtype, reinterpret_cast<const char*>(codes), n, bf16);
}
void probe_reduce(const float* x, float* sums) {
  F32 rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(x + i * kLanes);
  store(sums, reduce_lanes(rows));
}
void probe_load_two(const uint16_t* x, float* two) {
  F32 a, b;
  load_two<DType::kBF16>(x, a, b);
  store(two, a);
  store(two + kLanes, b);
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA

namespace sextant::testing {
const VecProbe& PROBE_NAME() {
  using namespace cpu::SEXTANT_ISA;
  static const VecProbe kProbe = {
      .isa = PROBE_ISA,
      .lanes = kLanes,
      .exp2 = &probe_exp2,
      .tanh = &probe_tanh,
      .widen_fp8 = &probe_widen,
      .reduce_lanes = &probe_reduce,
      .load_two_bf16 = &probe_load_two,
  };
  return kProbe;
}
}  // namespace sextant::testing
