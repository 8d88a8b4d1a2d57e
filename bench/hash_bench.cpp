// Cost of hashing a block for the prefix cache (docs/prefix-caching.md).
#include <benchmark/benchmark.h>

#include <vector>

#include "sextant/block_allocator.h"

namespace {

void hash_blocks(benchmark::State& state, sextant::HashAlgorithm algorithm) {
  const sextant::BlockHasher hasher(algorithm);
  const std::vector<int32_t> tokens(static_cast<size_t>(state.range(0)), 7);
  sextant::BlockHash parent = hasher.root("tenant");
  for (auto _ : state) benchmark::DoNotOptimize(parent = hasher.chain(parent, tokens));
}
BENCHMARK_CAPTURE(hash_blocks, xxh3, sextant::HashAlgorithm::kXxh3)->Arg(16)->Arg(64)->Arg(256);
BENCHMARK_CAPTURE(hash_blocks, sha256, sextant::HashAlgorithm::kSha256)->Arg(16)->Arg(64)->Arg(256);

}  // namespace

BENCHMARK_MAIN();
