// A hipBLASLt that multiplies the host's memory, as the stand-in for the runtime hands it out, by the library's own
// rules: column-major, leading dimensions, transposes, strided batches, fp32 sums. It counts its products.
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kFloat = 0, kHalf = 2, kBfloat16 = 14, kCompute32 = 2, kTransposed = 112;

struct Matrix {
  int type;
  uint64_t rows, columns;
  int64_t leading;
  int32_t batch = 1;
  int64_t stride = 0;
};
struct Product {
  int32_t transposes[2] = {111, 111};
};
int64_t products = 0;

float read(const Matrix& m, const void* data, int64_t batch, uint64_t row, uint64_t column) {
  const auto at = static_cast<size_t>(batch * m.stride + static_cast<int64_t>(column) * m.leading) + row;
  if (m.type == kFloat) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  if (m.type == kHalf) {
    _Float16 half;
    std::memcpy(&half, &bits, sizeof(half));
    return static_cast<float>(half);
  }
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}
void write(const Matrix& m, void* data, int64_t batch, uint64_t row, uint64_t column, float value) {
  const auto at = static_cast<size_t>(batch * m.stride + static_cast<int64_t>(column) * m.leading) + row;
  if (m.type == kFloat) {
    static_cast<float*>(data)[at] = value;
  } else if (m.type == kHalf) {
    const auto half = static_cast<_Float16>(value);
    std::memcpy(static_cast<uint16_t*>(data) + at, &half, sizeof(half));
  } else {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

}  // namespace

extern "C" {

int64_t sextant_stand_in_products() { return products; }

int hipblasLtCreate(void** handle) {
  static int one;
  *handle = &one;
  return 0;
}
int hipblasLtMatmulDescCreate(void** product, int compute, int scale) {
  if (compute != kCompute32 || scale != kFloat) return 3;
  *product = new Product;
  return 0;
}
int hipblasLtMatmulDescDestroy(void* product) {
  delete static_cast<Product*>(product);
  return 0;
}
int hipblasLtMatmulDescSetAttribute(void* product, int attribute, const void* value, size_t bytes) {
  if (attribute < 0 || attribute > 1 || bytes != 4) return 3;
  std::memcpy(&static_cast<Product*>(product)->transposes[attribute], value, 4);
  return 0;
}
int hipblasLtMatrixLayoutCreate(void** matrix, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  if ((type != kFloat && type != kHalf && type != kBfloat16) || leading < static_cast<int64_t>(rows)) return 3;
  *matrix = new Matrix{type, rows, columns, leading};
  return 0;
}
int hipblasLtMatrixLayoutDestroy(void* matrix) {
  delete static_cast<Matrix*>(matrix);
  return 0;
}
int hipblasLtMatrixLayoutSetAttribute(void* matrix, int attribute, const void* value, size_t bytes) {
  auto& m = *static_cast<Matrix*>(matrix);
  if (attribute == 0 && bytes == sizeof(m.batch)) return std::memcpy(&m.batch, value, bytes), 0;
  if (attribute == 1 && bytes == sizeof(m.stride)) return std::memcpy(&m.stride, value, bytes), 0;
  return 3;
}
int hipblasLtMatmulPreferenceCreate(void** preference) {
  *preference = new uint64_t{~uint64_t{0}};
  return 0;
}
int hipblasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<uint64_t*>(preference);
  return 0;
}
int hipblasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  if (attribute != 1 || bytes != sizeof(uint64_t)) return 3;
  std::memcpy(preference, value, bytes);
  return 0;
}
// Its only algorithm begins with a mark that the product must bring back.
int hipblasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void* preference, int most, void* results,
                                    int* found) {
  *found = 0;
  if (most < 1 || *static_cast<uint64_t*>(preference) != 0) return 3;
  std::memset(results, 0x5a, 56);
  *found = 1;
  return 0;
}
int hipblasLtMatmul(void*, void* product, const float* alpha, const void* a, void* a_matrix, const void* b,
                    void* b_matrix, const float* beta, const void*, void*, void* d, void* d_matrix,
                    const unsigned char* algorithm, void*, size_t workspace, void*) {
  const auto& p = *static_cast<Product*>(product);
  const auto &ma = *static_cast<Matrix*>(a_matrix), &mb = *static_cast<Matrix*>(b_matrix),
             &md = *static_cast<Matrix*>(d_matrix);
  const bool ta = p.transposes[0] == kTransposed, tb = p.transposes[1] == kTransposed;
  const uint64_t inner = ta ? ma.rows : ma.columns;
  if ((ta ? ma.columns : ma.rows) != md.rows || (tb ? mb.columns : mb.rows) != inner ||
      (tb ? mb.rows : mb.columns) != md.columns || *alpha != 1 || *beta != 0 || algorithm[0] != 0x5a || workspace != 0)
    return 3;
  ++products;
  for (int32_t i = 0; i < md.batch; ++i)
    for (uint64_t column = 0; column < md.columns; ++column)
      for (uint64_t row = 0; row < md.rows; ++row) {
        float sum = 0;
        for (uint64_t k = 0; k < inner; ++k)
          sum += (ta ? read(ma, a, i, k, row) : read(ma, a, i, row, k)) *
                 (tb ? read(mb, b, i, column, k) : read(mb, b, i, k, column));
        write(md, d, i, row, column, sum);
      }
  return 0;
}

}  // extern "C"
