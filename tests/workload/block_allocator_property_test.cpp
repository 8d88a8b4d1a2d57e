// Random operations against a model that keeps everything in plain containers.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <set>

#include "sextant/block_allocator.h"

namespace sextant {
namespace {

struct Model {
  explicit Model(int blocks) : references(static_cast<size_t>(blocks), 0), hash_of(static_cast<size_t>(blocks), 0) {}
  std::vector<int> references;
  std::vector<uint64_t> hash_of;       // 0: none
  std::map<uint64_t, int32_t> cached;  // hash -> block
  std::list<int32_t> lru;              // cached and free, oldest first
  int64_t evictions = 0;

  int64_t free_blocks() const { return std::count(references.begin(), references.end(), 0); }
  // What an allocation of `block` must have meant.
  void allocated(int32_t block) {
    const size_t i = static_cast<size_t>(block);
    RC_ASSERT(references[i] == 0);
    if (hash_of[i] != 0) {
      // Only when no uncached block was free, and then the oldest.
      for (size_t other = 0; other < references.size(); ++other)
        RC_ASSERT(references[other] > 0 || hash_of[other] != 0);
      RC_ASSERT(lru.front() == block);
      lru.pop_front();
      cached.erase(hash_of[i]);
      hash_of[i] = 0;
      ++evictions;
    }
    references[i] = 1;
  }
  void released(int32_t block) {
    if (--references[static_cast<size_t>(block)] == 0 && hash_of[static_cast<size_t>(block)] != 0) lru.push_back(block);
  }
  void referenced(int32_t block) {
    if (references[static_cast<size_t>(block)]++ == 0) lru.remove(block);
  }
};

void check_same(const BlockAllocator& allocator, const Model& model) {
  RC_ASSERT(allocator.num_free() == model.free_blocks());
  RC_ASSERT(allocator.num_cached() == static_cast<int64_t>(model.cached.size()));
  RC_ASSERT(allocator.stats().evictions == model.evictions);
  for (size_t i = 0; i < model.references.size(); ++i)
    RC_ASSERT(allocator.ref_count(static_cast<int32_t>(i)).value() == model.references[i]);
  for (const auto& [hash, block] : model.cached)
    RC_ASSERT(allocator.cached_prefix(std::vector<BlockHash>{{hash, hash}}) == 1);
}

void allocate_one(BlockAllocator& allocator, Model& model) {
  const auto block = allocator.allocate();
  RC_ASSERT(block.is_ok() == (model.free_blocks() > 0));
  if (block) model.allocated(*block);
}

void release_one(BlockAllocator& allocator, Model& model, int32_t block) {
  const bool valid = model.references[static_cast<size_t>(block)] > 0;
  RC_ASSERT(allocator.release(block).is_ok() == valid);
  if (valid) model.released(block);
}

void publish_one(BlockAllocator& allocator, Model& model, int32_t block, uint64_t hash) {
  const size_t i = static_cast<size_t>(block);
  const bool valid = model.references[i] > 0 && (model.hash_of[i] == 0 || model.hash_of[i] == hash);
  RC_ASSERT(allocator.publish(block, {hash, hash}).is_ok() == valid);
  if (!valid || model.hash_of[i] == hash || model.cached.count(hash)) return;
  model.cached[hash] = block;
  model.hash_of[i] = hash;
}

void acquire(BlockAllocator& allocator, Model& model, const std::vector<uint64_t>& keys) {
  std::vector<BlockHash> hashes;
  for (const uint64_t key : keys) hashes.push_back({key, key});
  const auto found = allocator.acquire_prefix(hashes);
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto expected = model.cached.find(keys[i]);
    if (expected == model.cached.end()) {
      RC_ASSERT(found.size() == i);
      return;
    }
    RC_ASSERT(found.size() > i && found[i] == expected->second);
    model.referenced(found[i]);
  }
}

RC_GTEST_PROP(BlockAllocatorProperty, BehavesLikeItsModel, ()) {
  const int blocks = *rc::gen::inRange(1, 9);
  const int steps = *rc::gen::inRange(0, 120);
  BlockAllocator allocator = BlockAllocator::make({.num_blocks = blocks, .block_size = 1}).value();
  Model model(blocks);
  for (int step = 0; step < steps; ++step) {
    const int32_t block = *rc::gen::inRange(0, blocks);
    // Few hashes with the same low bits, so that probing and shifting back are exercised.
    const auto key = [] { return static_cast<uint64_t>(*rc::gen::inRange(1, 10)) * 16 + 1; };
    switch (*rc::gen::inRange(0, 6)) {
      case 0:
        allocate_one(allocator, model);
        break;
      case 1:
      case 2:
        release_one(allocator, model, block);
        break;
      case 3:
      case 4:
        publish_one(allocator, model, block, key());
        break;
      default:
        acquire(allocator, model, {key(), key(), key()});
    }
    check_same(allocator, model);
  }
}

RC_GTEST_PROP(BlockAllocatorProperty, LosesNoBlock, (const std::vector<uint8_t>& sizes)) {
  BlockAllocator allocator = BlockAllocator::make({.num_blocks = 64, .block_size = 1}).value();
  std::vector<std::vector<int32_t>> held;
  for (const uint8_t size : sizes) {
    std::vector<int32_t> blocks;
    if (allocator.allocate(size % 24, blocks).is_ok()) held.push_back(blocks);
    if (size % 3 == 0 && !held.empty()) {
      RC_ASSERT(allocator.release(held.front()).is_ok());
      held.erase(held.begin());
    }
  }
  std::set<int32_t> distinct;
  size_t total = 0;
  for (const auto& blocks : held) {
    distinct.insert(blocks.begin(), blocks.end());
    total += blocks.size();
  }
  RC_ASSERT(distinct.size() == total);
  RC_ASSERT(allocator.num_used() == static_cast<int64_t>(total));
}

}  // namespace
}  // namespace sextant
