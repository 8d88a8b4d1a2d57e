// Asks the device for its ceilings, and finds the one that applies to a format.
#include "ceilings.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "devices/cpu/ceilings.h"
#include "verify/device_buffer.h"

namespace sextant::cli {
namespace {

constexpr int kSamples = 7, kRunsASample = 4;

// Median seconds of one call of `run`, which launches on the default stream.
template <class Run>
Result<double> median_seconds(Device& device, const Run& run) {
  std::vector<double> seconds;
  for (int sample = -1; sample < kSamples; ++sample) {  // the first warms up
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kRunsASample; ++i) SEXTANT_RETURN_IF_ERROR(run());
    SEXTANT_RETURN_IF_ERROR(device.synchronize({}));
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (sample >= 0) seconds.push_back(taken.count() / kRunsASample);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kSamples / 2, seconds.end());
  return seconds[kSamples / 2];
}

// A square product of numbers that differ in every bit: a product of zeros would run at a higher clock.
Result<double> gemm_tflops(Device& device, DType dtype) {
  const int64_t n = dtype == DType::kF32 ? 4096 : 8192;
  const auto bytes = static_cast<size_t>(n * n) * size_of(dtype);
  std::vector<uint32_t> numbers(bytes / sizeof(uint32_t));
  uint32_t state = 1;
  for (uint32_t& x : numbers) {
    state = state * 1664525u + 1013904223u;
    x = (state & 0x807f807fu) | 0x3c003c00u;  // small normal numbers in fp32, fp16 and bf16
  }
  auto a = DeviceBuffer::make(device, numbers.data(), bytes), b = DeviceBuffer::make(device, numbers.data(), bytes);
  auto c = DeviceBuffer::make(device, bytes);
  const Ops& ops = device.ops(KernelFamily::kTuned);
  auto workspace = DeviceBuffer::make(device, ops.gemm_workspace_bytes(n, n, n));
  for (const auto* made : {&a, &b, &c, &workspace})
    if (!*made) return made->status();
  GemmArgs args;
  args.a = make_view(a->data(), dtype, {1, n, n});
  args.b = make_view(b->data(), dtype, {1, n, n});
  args.c = make_view(c->data(), dtype, {1, n, n});
  args.workspace = workspace->data();
  args.workspace_bytes = workspace->bytes();
  auto seconds = median_seconds(device, [&] { return ops.gemm(args, {}); });
  if (!seconds) return seconds.status();
  const auto side = static_cast<double>(n);
  return 2 * side * side * side / *seconds * 1e-12;
}

// The faster of a fill and a copy of KV blocks.
Result<double> memory_gbs(Device& device) {
  constexpr int64_t kPairs = 512;
  KvCacheSpec cache;  // K and V: 1 GiB together, blocks of 512 KiB each
  cache.num_blocks = 2 * kPairs;
  cache.block_size = 256;
  cache.num_kv_heads = 8;
  cache.head_dim = cache.head_dim_v = 128;
  const auto bytes = static_cast<size_t>(k_elements(cache)) * size_of(cache.dtype);
  std::vector<int64_t> pairs;
  for (int64_t i = 0; i < kPairs; ++i) pairs.insert(pairs.end(), {i, kPairs + i});
  auto k = DeviceBuffer::make(device, bytes), v = DeviceBuffer::make(device, bytes);
  auto mapping = DeviceBuffer::make(device, pairs.data(), pairs.size() * sizeof(int64_t));
  for (const auto* made : {&k, &v, &mapping})
    if (!*made) return made->status();
  const CopyBlocksArgs args{make_kv_cache_view(cache, k->data(), v->data()), mapping->as<int64_t>(), kPairs};
  const Ops& ops = device.ops(KernelFamily::kTuned);
  auto copy = median_seconds(device, [&] { return ops.copy_blocks(args, {}); });
  if (!copy) return copy.status();
  auto fill = median_seconds(device, [&] { return device.fill(k->data(), 1, bytes, {}); });
  if (!fill) return fill.status();
  // A copy of half the blocks of K and V reads and writes each byte of both once.
  return std::max(2 * static_cast<double>(bytes) / *copy, static_cast<double>(bytes) / *fill) * 1e-9;
}

Ceilings gpu_ceilings(Device& device, DType dtype) {
  Ceilings ceilings;
  auto tflops = gemm_tflops(device, dtype);
  auto gbs = memory_gbs(device);
  if (!tflops || !gbs) {
    ceilings.note = "no ceilings: " + (tflops ? gbs.status() : tflops.status()).message();
    return ceilings;
  }
  ceilings.tflops = *tflops;
  ceilings.gbs = *gbs;
  ceilings.matrix_unit = std::string(to_string(dtype)) + " gemm";
  return ceilings;
}

}  // namespace

Ceilings measure_ceilings(Device& device, DType dtype) {
  const DeviceKind kind = device.info().kind;
  if (kind == DeviceKind::kCuda || kind == DeviceKind::kHip) return gpu_ceilings(device, dtype);
  Ceilings ceilings;
  if (kind != DeviceKind::kCpu) {
    ceilings.note = std::string("no ceilings are measured on ") + to_string(kind);
    return ceilings;
  }
  const auto executor = make_thread_pool();
  const cpu::Ceilings measured = cpu::cpu_ceilings(*executor);
  const bool pairs = dtype == DType::kBF16;
  ceilings.tflops = pairs ? measured.matrix_tflops : measured.fma_tflops;
  ceilings.gbs = measured.read_gbs;
  ceilings.matrix_unit = pairs ? "bf16 products" : "fp32 multiply-add";
  return ceilings;
}

Json to_json(const Ceilings& c) {
  return {{"tflops", c.tflops}, {"gbs", c.gbs}, {"matrix_unit", c.matrix_unit}, {"note", c.note}};
}

}  // namespace sextant::cli
