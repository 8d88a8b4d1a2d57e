// The judge's steps on the host: plain loops, the range divided over the cores.
#include "sextant/executor.h"
#include "verify/random/launch.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)
#define SEXTANT_FOR_EACH_CHIP __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SEXTANT_FOR_EACH_CHIP
#endif

namespace sextant::verify {

// Eight sums side by side, so that the compiler may use vectors without changing what is computed.
SEXTANT_FOR_EACH_CHIP DotSums dot_on_host(const double* q, const float* k, int32_t dim) {
  double sum[8] = {}, squares[8] = {};
  int32_t d = 0;
  for (; d + 8 <= dim; d += 8)
    for (int i = 0; i < 8; ++i) {
      const double product = q[d + i] * static_cast<double>(k[d + i]);
      sum[i] += product;
      squares[i] += product * product;
    }
  DotSums s;
  for (; d < dim; ++d) {
    const double product = q[d] * static_cast<double>(k[d]);
    s.sum += product;
    s.squares += product * product;
  }
  for (int i = 0; i < 8; ++i) {
    s.sum += sum[i];
    s.squares += squares[i];
  }
  return s;
}

SEXTANT_FOR_EACH_CHIP void add_on_host(double weight, const float* v, int32_t width, double* sum, double* squares) {
  for (int32_t d = 0; d < width; ++d) {
    const double term = weight * static_cast<double>(v[d]);
    sum[d] += term;
    squares[d] += term * term;
  }
}

template <class Step>
Status launch_on_host(int64_t count, const Step& step) {
  static const std::shared_ptr<Executor> pool = make_thread_pool();
  constexpr int64_t kIndicesAPart = 64;
  pool->parallel_for((count + kIndicesAPart - 1) / kIndicesAPart, [&](int64_t part, int) {
    const int64_t end = std::min(count, (part + 1) * kIndicesAPart);
    for (int64_t i = part * kIndicesAPart; i < end; ++i) step(i);
  });
  return Status::ok();
}

#define SEXTANT_INSTANTIATE(Step) template Status launch_on_host<Step>(int64_t, const Step&);
SEXTANT_FOR_EACH_STEP(SEXTANT_INSTANTIATE)

}  // namespace sextant::verify
