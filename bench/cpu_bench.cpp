// Micro-benchmarks of the CPU device: decode, prefill, cache write and merge, per backend and ISA.
//
//   sextant_cpu_bench --benchmark_filter=decode/ROCM_ATTN
//
// Names end in the number of threads. Counters: TFLOP/s of the two products (causal), GB/s of K and V read once; decode
// also says which part that is of the speed at which the same memory is read in order, run by run in turns.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "cpu_bench_setup.h"

namespace sextant::bench {
namespace {

std::shared_ptr<Device> device_of(const std::string& isa, int threads) {
  auto device = make_cpu_device({.executor = make_thread_pool(threads), .isa = isa});
  return device ? *device : nullptr;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Attention and a plain read of its memory in turns: machines in the cloud change their memory's speed from one second
// to the next.
double part_of_read_speed(const Workload& work, int threads) {
  const auto pool = make_thread_pool(threads);
  std::vector<double> parts;
  for (int i = 0; i < 15; ++i) {
    const double read = seconds_of([&] { work.read_cache(*pool); });
    const double attention = seconds_of([&] { (void)work.run(); });
    parts.push_back(read / attention);
  }
  return median(parts);
}

struct Case {
  std::string isa;
  const Backend* backend;
  AttentionSpec spec;
  DType cache_dtype;
  BatchShape shape;
  int threads;
};

void attention(benchmark::State& state, const Case& c) {
  const std::shared_ptr<Device> device = device_of(c.isa, c.threads);
  if (device == nullptr) return state.SkipWithError("this machine lacks the ISA");
  const Workload work(device, *c.backend, c.spec, c.cache_dtype, c.shape);
  if (!work.error().empty()) return state.SkipWithError(work.error().c_str());
  for (auto _ : state)
    if (!work.run()) return state.SkipWithError("run failed");
  state.counters["TFLOP/s"] =
      benchmark::Counter(work.operations() * 1e-12, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] = benchmark::Counter(work.kv_bytes() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  if (c.shape.query_len == 1) state.counters["of_read_%"] = 100 * part_of_read_speed(work, c.threads);
  state.counters["workspace_MB"] = static_cast<double>(work.plan().workspace_bytes()) * 1e-6;
}

void cache_write(benchmark::State& state, const Case& c) {
  const std::shared_ptr<Device> device = device_of(c.isa, c.threads);
  const Workload work(device, *c.backend, c.spec, c.cache_dtype, c.shape);
  if (!work.error().empty()) return state.SkipWithError(work.error().c_str());
  for (auto _ : state)
    if (!work.write_cache(*device)) return state.SkipWithError("write failed");
  state.counters["GB/s"] =
      benchmark::Counter(work.written_bytes() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void merge(benchmark::State& state, int threads) {
  constexpr int64_t kTokens = 2048, kHeads = 32, kDim = 128;
  const std::shared_ptr<Device> device = device_of("", threads);
  std::vector<float> prefix(kTokens * kHeads * kDim, 1.0F), suffix(prefix), lse_a(kTokens * kHeads, 0.5F), lse_b(lse_a),
      lse(lse_a);
  std::vector<uint16_t> out(prefix.size());
  MergeAttnStatesArgs args;
  args.prefix_out = make_view(prefix.data(), DType::kF32, {kTokens, kHeads, kDim});
  args.suffix_out = make_view(suffix.data(), DType::kF32, {kTokens, kHeads, kDim});
  args.out = make_view(out.data(), DType::kBF16, {kTokens, kHeads, kDim});
  args.prefix_lse = make_view(lse_a.data(), DType::kF32, {kHeads, kTokens});
  args.suffix_lse = make_view(lse_b.data(), DType::kF32, {kHeads, kTokens});
  args.lse = make_view(lse.data(), DType::kF32, {kHeads, kTokens});
  for (auto _ : state)
    if (!device->ops(KernelFamily::kTuned).merge_attn_states(args, {})) return state.SkipWithError("merge failed");
  state.counters["GB/s"] =
      benchmark::Counter(static_cast<double>(prefix.size()) * 10e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void add(const std::string& name, const Case& c, void (*function)(benchmark::State&, const Case&)) {
  benchmark::RegisterBenchmark((name + "/" + std::to_string(c.threads)).c_str(),
                               [c, function](benchmark::State& state) { function(state, c); })
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime()
      ->MeasureProcessCPUTime();
}

void add_backends(int threads) {
  for (const Backend* backend : all_backends()) {
    const std::string& name = backend->info().name;
    if (backend->info().category == BackendCategory::kMla) {
      for (int32_t heads : {16, 128})
        add("decode/" + name + "/heads" + std::to_string(heads) + "/8x8k",
            {"", backend, mla_spec(heads), DType::kBF16, {8, 1, 8192}, threads}, attention);
      for (int32_t heads : {16, 128})
        for (int32_t keys : {256, 1024})  // the difference is attention alone: the products with kv_b_proj are in both
          add("decode_cached/" + name + "/heads" + std::to_string(heads) + "/1x" + std::to_string(keys),
              {"", backend, mla_spec(heads), DType::kBF16, {1, 1, keys}, threads}, attention);
      add("prefill/" + name + "/heads16/1k", {"", backend, mla_spec(16), DType::kBF16, {1, 1024, 1024}, threads},
          attention);
      continue;
    }
    const AttentionSpec llama = mha_spec(32, 8, 128);
    add("decode/" + name + "/8x8k", {"", backend, llama, DType::kBF16, {8, 1, 8192}, threads}, attention);
    add("decode_cached/" + name + "/1x256", {"", backend, llama, DType::kBF16, {1, 1, 256}, threads}, attention);
    add("decode_fp8/" + name + "/8x8k", {"", backend, llama, DType::kF8E4M3FN, {8, 1, 8192}, threads}, attention);
    add("prefill/" + name + "/2k", {"", backend, llama, DType::kBF16, {1, 2048, 2048}, threads}, attention);
    add("extend/" + name + "/q512s8k", {"", backend, llama, DType::kBF16, {1, 512, 8192}, threads}, attention);
    add("cache_write/" + name, {"", backend, llama, DType::kBF16, {1, 2048, 2048}, threads}, cache_write);
  }
}

// One KV head of Llama (4 query heads) for prefill, all 8 for decode.
void add_lengths(int threads) {
  for (const char* name : {"TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN"}) {
    const Backend* backend = *find_backend(name);
    for (int32_t length = 1; length <= 1024; length *= 4)
      add("length_decode/" + std::string(name) + "/" + std::to_string(length) + "k",
          {"", backend, mha_spec(32, 8, 128), DType::kBF16, {1, 1, length * 1024}, threads}, attention);
    for (int32_t length = 512; length <= 65536; length *= 2)
      add("length_prefill/" + std::string(name) + "/" + std::to_string(length),
          {"", backend, mha_spec(4, 1, 128), DType::kBF16, {1, length, length}, threads}, attention);
  }
}

// The same strategy on every ISA.
void add_isas(int threads) {
  const AttentionSpec llama = mha_spec(32, 8, 128);
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512_bf16", "amx"})
    for (const char* name : {"TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN"}) {
      const Backend* backend = *find_backend(name);
      const std::string suffix = std::string("/") + isa + "/" + name;
      add("isa_decode" + suffix, {isa, backend, llama, DType::kBF16, {4, 1, 8192}, threads}, attention);
      add("isa_prefill" + suffix, {isa, backend, llama, DType::kBF16, {1, 1024, 1024}, threads}, attention);
    }
}

}  // namespace
}  // namespace sextant::bench

int main(int argc, char** argv) {
  using namespace sextant::bench;
  for (int threads : {1, sextant::usable_threads()}) {
    add_backends(threads);
    add_lengths(threads);
    add_isas(threads);
    benchmark::RegisterBenchmark(("merge/" + std::to_string(threads)).c_str(),
                                 [threads](benchmark::State& state) { merge(state, threads); })
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
