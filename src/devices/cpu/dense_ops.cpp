// Ops on dense tensors: merging states, strided copies, matrix products.
#include <algorithm>
#include <cmath>
#include <limits>

#include "devices/cpu/cpu_ops.h"

namespace sextant::cpu {
namespace {

constexpr int64_t kRowsPerTask = 32;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

char* at(const TensorView& view, int64_t i, int64_t j) {
  return static_cast<char*>(view.data) +
         (i * view.stride[0] + j * view.stride[1]) * static_cast<int64_t>(size_of(view.dtype));
}

char* element(const TensorView& view, int64_t i, int64_t row, int64_t column) {
  return at(view, i, row) + column * view.stride[2] * static_cast<int64_t>(size_of(view.dtype));
}

float lse_at(const TensorView& lse, int64_t head, int64_t token) {
  const float x = lse.as<float>()[head * lse.stride[0] + token * lse.stride[1]];
  return x == -kMinusInfinity ? kMinusInfinity : x;
}

// Calls range(begin, end) for the tokens of each run of requests that pass the filter; once for all without one.
template <class Range>
void for_token_ranges(const MergeAttnStatesArgs& a, const Range& range) {
  if (a.query_start_loc == nullptr) return range(int64_t{0}, a.out.shape[0]);
  int64_t begin = 0, end = 0;
  for (int32_t b = 0; b < a.num_requests; ++b) {
    if (!a.filter.matches(a.query_start_loc[b + 1] - a.query_start_loc[b], a.seq_lens[b])) continue;
    if (end != a.query_start_loc[b]) {
      range(begin, end);
      begin = a.query_start_loc[b];
    }
    end = a.query_start_loc[b + 1];
  }
  range(begin, end);
}

// What all products of the batch share: everything but the pointers.
GemmItem any_product(const GemmArgs& a) {
  GemmItem item;
  item.dtype = a.a.dtype;
  item.c_dtype = a.c.dtype;
  item.m = a.a.shape[1];
  item.n = a.b.shape[2];
  item.k = a.a.shape[2];
  item.a_row_stride = a.a.stride[1];
  item.a_col_stride = a.a.stride[2];
  item.b_row_stride = a.b.stride[1];
  item.b_col_stride = a.b.stride[2];
  item.c_row_stride = a.c.stride[1];
  return item;
}

}  // namespace

Status CpuOps::merge_attn_states(const MergeAttnStatesArgs& a, Stream) const {
  const int64_t heads = a.out.shape[1], dim = a.out.shape[2];
  for_token_ranges(a, [&](int64_t first_token, int64_t end_token) {
    for_ranges((end_token - first_token) * heads, kRowsPerTask, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t t = first_token + i / heads, h = i % heads;
        const float p = lse_at(a.prefix_lse, h, t), s = lse_at(a.suffix_lse, h, t);
        const float max = std::max(p, s);
        const float wp = max == kMinusInfinity ? 0.0F : std::exp(p - max),
                    ws = max == kMinusInfinity ? 0.0F : std::exp(s - max);
        const float sum = wp + ws;
        kernels_.merge_row({at(a.prefix_out, t, h), at(a.suffix_out, t, h), at(a.out, t, h), a.prefix_out.dtype,
                            a.suffix_out.dtype, a.out.dtype, sum > 0 ? wp / sum : 0.0F, sum > 0 ? ws / sum : 0.0F,
                            dim});
        if (a.lse.present())
          a.lse.as<float>()[h * a.lse.stride[0] + t * a.lse.stride[1]] = sum > 0 ? std::log(sum) + max : kMinusInfinity;
      }
    });
  });
  return Status::ok();
}

Status CpuOps::copy_pad(const CopyPadArgs& a, Stream) const {
  const int64_t heads = a.dst.shape[1], dim = a.src.shape[2], padding = a.dst.shape[2] - dim;
  const auto src_bytes = static_cast<int64_t>(size_of(a.src.dtype)),
             dst_bytes = static_cast<int64_t>(size_of(a.dst.dtype));
  for_ranges(a.dst.shape[0] * heads, kRowsPerTask, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const char* src = at(a.src, i / heads, i % heads);
      char* dst = at(a.dst, i / heads, i % heads);
      const float scale = a.src_scale != nullptr ? a.src_scale[i % heads / (heads / a.num_src_scales)] : 1.0F;
      if (a.src.stride[2] == 1)
        kernels_.convert_mul(src, a.src.dtype, dst, a.dst.dtype, dim, scale);
      else
        for (int64_t d = 0; d < dim; ++d)
          kernels_.convert_mul(src + d * a.src.stride[2] * src_bytes, a.src.dtype, dst + d * dst_bytes, a.dst.dtype, 1,
                               scale);
      std::fill_n(dst + dim * dst_bytes, padding * dst_bytes, '\0');
    }
  });
  return Status::ok();
}

size_t CpuOps::gemm_workspace_bytes(int64_t, int64_t, int64_t) const { return 0; }

bool CpuOps::gemm_in_place(const GemmArgs& a, const AttentionKernels& products) const {
  const int64_t batch = a.a.shape[0];
  if (products.gemm_in_place == nullptr || batch == 1) return false;
  GemmItem all = any_product(a);
  all.a_batch_stride = a.a.stride[0];
  all.b_batch_stride = a.b.stride[0];
  all.c_batch_stride = a.c.stride[0];
  if (!products.takes_in_place(all)) return false;
  // Matrices next to each other to one worker, which fetches the next while it multiplies one.
  const int64_t workers = executor_->concurrency(),
                parts = std::min(batch, batch < 32 * workers ? workers : 4 * workers);
  const auto product = [&](int64_t part, int worker) {
    const int64_t first = batch * part / parts;
    GemmItem item = all;
    item.a = element(a.a, first, 0, 0);
    item.b = element(a.b, first, 0, 0);
    item.c = element(a.c, first, 0, 0);
    item.batch = batch * (part + 1) / parts - first;
    item.scratch = gemm_scratch_->of(worker);
    products.gemm_in_place(item);
  };
  executor_->parallel_for(parts, std::cref(product));
  return true;
}

Status CpuOps::gemm(const GemmArgs& a, Stream) const {
  const AttentionKernels& products = products_for(a.a.dtype);
  if (gemm_in_place(a, products)) return Status::ok();
  const int64_t batch = a.a.shape[0], m = a.a.shape[1], n = a.b.shape[2];
  const int64_t row_tiles = (m + products.gemm_rows - 1) / products.gemm_rows;
  const int64_t column_tiles = (n + products.gemm_columns - 1) / products.gemm_columns;
  const GemmItem any = any_product(a);
  const auto product = [&](int64_t index, int worker) {
    const int64_t i = index / (row_tiles * column_tiles);
    const int64_t r = index / column_tiles % row_tiles * products.gemm_rows,
                  c = index % column_tiles * products.gemm_columns;
    GemmItem item = any;
    item.a = element(a.a, i, r, 0);
    item.b = element(a.b, i, 0, c);
    item.c = element(a.c, i, r, c);
    item.m = std::min<int64_t>(products.gemm_rows, m - r);
    item.n = std::min<int64_t>(products.gemm_columns, n - c);
    item.scratch = gemm_scratch_->of(worker);
    products.gemm(item);
  };
  executor_->parallel_for(batch * row_tiles * column_tiles, std::cref(product));
  return Status::ok();
}

}  // namespace sextant::cpu
