// Times of the CUDA device's cache ops, of the merge and of a product of matrices.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cuda_bench_cases.h"
#include "cuda_bench_device.h"

namespace sextant::cuda_bench {

// Cache ops: bytes read and written over time, next to the device's own copy.
void run_cache_cases(const Ops& ops, const std::string& only, int replays) {
  const auto report = [&](const char* name, double bytes, const std::function<void(cudaStream_t)>& launch) {
    if (!only.empty() && std::string(name).find(only) == std::string::npos) return;
    const int launches = std::clamp(static_cast<int>(4e-3 / (bytes / 2.5e12)), 2, 40);
    const double us = time_graph([&](int, cudaStream_t s) { launch(s); }, launches, replays);
    std::printf("%-34s %9.1f us %6.2f TB/s (read + write)\n", name, us, bytes / us / 1e6);
  };
  Arena arena;
  constexpr size_t kCopy = size_t{1} << 30;
  void *from = arena.take(kCopy), *to = arena.take(kCopy);
  report("copy 1 GiB", 2.0 * kCopy,
         [&](cudaStream_t s) { cudaMemcpyAsync(to, from, kCopy, cudaMemcpyDeviceToDevice, s); });

  for (int64_t tokens : {int64_t{8}, int64_t{65536}}) {
    const int64_t slots = std::max<int64_t>(tokens, 4096);
    for (DType kv : {DType::kBF16, DType::kF8E4M3FN}) {
      KvCacheSpec spec{KvLayout::kNHD, kv, slots / 16, 16, 8, 128, 128};
      ReshapeAndCacheArgs a;
      a.k = make_view(from, DType::kBF16, {tokens, 8, 128});
      a.v = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {tokens, 8, 128});
      std::vector<int64_t> slot(static_cast<size_t>(slots));
      for (size_t i = 0; i < slot.size(); ++i) slot[i] = static_cast<int64_t>(i);
      std::shuffle(slot.begin(), slot.end(), std::mt19937_64(3));
      a.slot_mapping = arena.upload(slot);
      a.num_tokens = tokens;
      a.cache = make_kv_cache_view(spec, to, static_cast<char*>(to) + kCopy / 2);
      const double bytes = static_cast<double>(tokens) * 2 * 8 * 128 * (2.0 + static_cast<double>(size_of(kv)));
      const std::string name = "reshape_and_cache " + std::string(to_string(kv)) + " T" + std::to_string(tokens);
      report(name.c_str(), bytes, [&](cudaStream_t s) { check(ops.reshape_and_cache(a, {s}), "reshape_and_cache"); });
    }
    KvCacheSpec spec{KvLayout::kLatent, DType::kBF16, slots / 64, 64, 1, 576, 512};
    ConcatAndCacheMlaArgs a;
    a.kv_c = make_view(from, DType::kBF16, {tokens, 512});
    a.k_pe = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {tokens, 64});
    std::vector<int64_t> slot(static_cast<size_t>(tokens));
    for (size_t i = 0; i < slot.size(); ++i) slot[i] = static_cast<int64_t>(i);
    a.slot_mapping = arena.upload(slot);
    a.num_tokens = tokens;
    a.cache = make_kv_cache_view(spec, to, nullptr);
    report(("concat_and_cache_mla T" + std::to_string(tokens)).c_str(), static_cast<double>(tokens) * 576 * 4,
           [&](cudaStream_t s) { check(ops.concat_and_cache_mla(a, {s}), "concat_and_cache_mla"); });
  }
  {
    constexpr int64_t kRows = 65536;
    GatherCacheArgs a;
    KvCacheSpec spec{KvLayout::kNHD, DType::kBF16, kRows / 16, 16, 8, 128, 128};
    a.cache = make_kv_cache_view(spec, from, static_cast<char*>(from) + kCopy / 2);
    std::vector<int32_t> table(kRows / 16);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    std::shuffle(table.begin(), table.end(), std::mt19937_64(3));
    a.block_table = arena.upload(table);
    a.block_table_stride = static_cast<int64_t>(table.size());
    a.num_requests = 1;
    a.key_start_loc = arena.upload(std::vector<int32_t>{0, static_cast<int32_t>(kRows)});
    a.max_rows = kRows;
    a.k = make_view(to, DType::kBF16, {kRows, 8, 128});
    a.v = make_view(static_cast<char*>(to) + kCopy / 2, DType::kBF16, {kRows, 8, 128});
    report("gather_cache 65536 rows", kRows * 2.0 * 8 * 128 * 4,
           [&](cudaStream_t s) { check(ops.gather_cache(a, {s}), "gather_cache"); });
  }
  {
    constexpr int64_t kTokens = 16384, kHeads = 32, kDim = 128;
    MergeAttnStatesArgs a;
    a.prefix_out = make_view(from, DType::kBF16, {kTokens, kHeads, kDim});
    a.suffix_out = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {kTokens, kHeads, kDim});
    a.out = make_view(to, DType::kBF16, {kTokens, kHeads, kDim});
    a.prefix_lse = make_view(arena.take(kTokens * kHeads * 4), DType::kF32, {kHeads, kTokens});
    a.suffix_lse = make_view(arena.take(kTokens * kHeads * 4), DType::kF32, {kHeads, kTokens});
    a.lse = make_view(arena.take(kTokens * kHeads * 4), DType::kF32, {kHeads, kTokens});
    cudaMemset(a.prefix_lse.data, 0, kTokens * kHeads * 4);
    cudaMemset(a.suffix_lse.data, 0, kTokens * kHeads * 4);
    report("merge_attn_states 16384 x 32", kTokens * kHeads * (kDim * 6.0 + 12),
           [&](cudaStream_t s) { check(ops.merge_attn_states(a, {s}), "merge"); });
  }
  {
    constexpr int64_t kHeads = 128, kTokens = 64;
    GemmArgs a;
    a.a = make_view(from, DType::kBF16, {kHeads, kTokens, 128});
    a.b = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {kHeads, 128, 512});
    a.c = make_view(to, DType::kBF16, {kHeads, kTokens, 512});
    a.workspace_bytes = ops.gemm_workspace_bytes(kTokens, 512, 128);
    a.workspace = arena.take(a.workspace_bytes);
    report("gemm 128 x [64,128]x[128,512]", kHeads * (64.0 * 128 + 128 * 512 + 64 * 512) * 2,
           [&](cudaStream_t s) { check(ops.gemm(a, {s}), "gemm"); });
  }
}

}  // namespace sextant::cuda_bench
