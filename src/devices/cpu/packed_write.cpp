// Writes runs of tokens into panels.
#include "devices/cpu/packed_write.h"

#include <cstring>

namespace sextant::cpu {
namespace {

constexpr int64_t kPanel = 16;

// One pair of dims of kCount tokens lies together: a cache line, or half of one, for 16.
template <class Element, int64_t kCount>
void write_pairs(const char* rows, int64_t row_stride, int64_t count, int64_t dim, int64_t pair_stride, Element* to) {
  constexpr size_t kPairBytes = 2 * sizeof(Element);
  const int64_t tokens = kCount > 0 ? kCount : count;
  for (int64_t d = 0; d < dim; d += 2, to += pair_stride)
    for (int64_t i = 0; i < tokens; ++i)
      std::memcpy(to + 2 * i, rows + i * row_stride + d * static_cast<int64_t>(sizeof(Element)), kPairBytes);
}

template <class Element>
void write_keys(const char* rows, int64_t row_stride, int64_t count, int64_t dim, const KvAddressing& a, Element* to) {
  if (count == kPanel)
    write_pairs<Element, kPanel>(rows, row_stride, count, dim, a.dim_outer_stride, to);
  else
    write_pairs<Element, 0>(rows, row_stride, count, dim, a.dim_outer_stride, to);
}

template <class Element>
void interleave(const Element* __restrict a, const Element* __restrict b, int64_t n, Element* __restrict to) {
  for (int64_t i = 0; i < n; ++i) {
    to[2 * i] = a[i];
    to[2 * i + 1] = b[i];
  }
}

template <class Element>
void write_values(const char* rows, int64_t row_stride, int64_t count, int64_t dim, const KvAddressing& a,
                  Element* head, int64_t token) {
  const auto row = [&](int64_t i) { return reinterpret_cast<const Element*>(rows + i * row_stride); };
  for (int64_t i = 0; i < count;) {
    Element* to = head + a.offset(0, 0, token + i, 0);
    if ((token + i) % 2 == 0 && i + 1 < count) {
      interleave(row(i), row(i + 1), dim, to);
      i += 2;
    } else {
      for (int64_t d = 0; d < dim; ++d) to[2 * d] = row(i)[d];
      i += 1;
    }
  }
}

}  // namespace

bool packs_keys(const KvAddressing& a, DType dtype) {
  return size_of(dtype) <= 2 && a.dim_tile == 2 && a.dim_inner_stride == 1 && a.token_tile == kPanel &&
         a.token_inner_stride == 2;
}

bool packs_values(const KvAddressing& a, DType dtype) {
  return size_of(dtype) <= 2 && a.dim_tile == 1 && a.dim_outer_stride == 2 && a.token_tile == 2 &&
         a.token_inner_stride == 1;
}

int64_t run_of_slots(const int64_t* slot_mapping, int64_t first, int64_t end, int64_t block_size) {
  const int64_t slot = slot_mapping[first], token = slot % block_size;
  const int64_t panel_left = kPanel - token % kPanel, block_left = block_size - token;
  const int64_t most = panel_left < block_left ? panel_left : block_left;
  int64_t count = 1;
  while (count < most && first + count < end && slot_mapping[first + count] == slot + count) ++count;
  return count;
}

void write_key_run(const char* rows, int64_t row_stride, int64_t count, int64_t dim, size_t bytes,
                   const KvAddressing& a, char* head, int64_t token) {
  const int64_t first = a.offset(0, 0, token, 0);
  if (bytes == 2)
    write_keys(rows, row_stride, count, dim, a, reinterpret_cast<uint16_t*>(head) + first);
  else
    write_keys(rows, row_stride, count, dim, a, reinterpret_cast<uint8_t*>(head) + first);
}

void write_value_run(const char* rows, int64_t row_stride, int64_t count, int64_t dim, size_t bytes,
                     const KvAddressing& a, char* head, int64_t token) {
  if (bytes == 2)
    write_values(rows, row_stride, count, dim, a, reinterpret_cast<uint16_t*>(head), token);
  else
    write_values(rows, row_stride, count, dim, a, reinterpret_cast<uint8_t*>(head), token);
}

}  // namespace sextant::cpu
