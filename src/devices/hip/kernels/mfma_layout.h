// Which element of a matrix a lane holds in an MFMA of shape 16x16xK or 32x32xK. The emulator computes with these
// functions and a test checks them against the matrix product that defines the instruction.
//
//   A [16 rows][K], B [K][16 columns]: element e of lane l is row (column) l % 16, k = n * (l / 16) + e, e < n = K / 4
//   C, D [16 rows][16 columns]:        element r of lane l is row 4 * (l / 16) + r, column l % 16
//
// and of shape 32x32xK (tall):
//
//   A [32 rows][K], B [K][32 columns]: element e of lane l is row (column) l % 32, k = n * (l / 32) + e, e < n = K / 2
//   C, D [32 rows][32 columns]:        element r of lane l is row 8 * (r / 4) + 4 * (l / 32) + r % 4, column l % 32
//
// AMD, "CDNA3 Instruction Set Architecture", section 7.1.
#pragma once

namespace sextant::hip {

struct MfmaPosition {
  int row, column;  // A: row, k; B: k, column; D: row, column
};
constexpr MfmaPosition mfma_a(int k_extent, int lane, int element) {
  return {lane % 16, k_extent / 4 * (lane / 16) + element};
}
constexpr MfmaPosition mfma_b(int k_extent, int lane, int element) {
  return {k_extent / 4 * (lane / 16) + element, lane % 16};
}
constexpr MfmaPosition mfma_d(int lane, int element) { return {4 * (lane / 16) + element, lane % 16}; }

constexpr MfmaPosition mfma_tall_a(int k_extent, int lane, int element) {
  return {lane % 32, k_extent / 2 * (lane / 32) + element};
}
constexpr MfmaPosition mfma_tall_b(int k_extent, int lane, int element) {
  return {k_extent / 2 * (lane / 32) + element, lane % 32};
}
constexpr MfmaPosition mfma_tall_d(int lane, int element) {
  return {8 * (element / 4) + 4 * (lane / 32) + element % 4, lane % 32};
}

}  // namespace sextant::hip
