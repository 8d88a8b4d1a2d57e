#include "sextant/block_allocator.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace sextant {
namespace {

BlockAllocator allocator_of(int64_t num_blocks, int32_t block_size = 4, bool verify = false) {
  return BlockAllocator::make({.num_blocks = num_blocks, .block_size = block_size, .verify_tokens = verify}).value();
}

std::vector<int32_t> tokens_from(int32_t first, int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Allocates and publishes a block for each full block of the tokens.
std::vector<int32_t> cache_tokens(BlockAllocator& allocator, const std::vector<int32_t>& tokens) {
  const int32_t size = allocator.options().block_size;
  const auto hashes = BlockHasher::of_process().blocks(tokens, size, {});
  std::vector<int32_t> blocks;
  EXPECT_TRUE(allocator.allocate(static_cast<int64_t>(hashes.size()), blocks).is_ok());
  for (size_t i = 0; i < hashes.size(); ++i)
    EXPECT_TRUE(allocator
                    .publish(blocks[i], hashes[i],
                             std::span(tokens).subspan(i * static_cast<size_t>(size), static_cast<size_t>(size)))
                    .is_ok());
  return blocks;
}

TEST(BlockAllocator, RefusesBadOptions) {
  EXPECT_EQ(BlockAllocator::make({.num_blocks = -1}).status().message(),
            "num_blocks is -1; allowed: 1..2147483647, or 0 for an unbounded pool");
  EXPECT_EQ(BlockAllocator::make({.num_blocks = 4, .block_size = 0}).status().message(),
            "block_size is 0; allowed: >= 1");
}

TEST(BlockAllocator, HandsOutEveryBlockOnceAndThenSaysSo) {
  BlockAllocator allocator = allocator_of(3);
  std::set<int32_t> seen;
  for (int i = 0; i < 3; ++i) seen.insert(allocator.allocate().value());
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2}));
  const Status status = allocator.allocate().status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "allocate: 1 blocks wanted; allowed: <= 0 (free now, num_blocks 3)");
}

TEST(BlockAllocator, AllocatesAllOrNothing) {
  BlockAllocator allocator = allocator_of(3);
  std::vector<int32_t> blocks = {7};
  EXPECT_EQ(allocator.allocate(4, blocks).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(blocks, (std::vector<int32_t>{7}));
  EXPECT_EQ(allocator.num_free(), 3);
  EXPECT_FALSE(allocator.allocate(-1, blocks).is_ok());
}

TEST(BlockAllocator, NamesDoubleFreesAndUnknownIds) {
  BlockAllocator allocator = allocator_of(2);
  const int32_t block = allocator.allocate().value();
  ASSERT_TRUE(allocator.release(block).is_ok());
  EXPECT_EQ(allocator.release(block).message(),
            "release: block 0 is free; allowed: a block with a reference (is it a double free?)");
  EXPECT_EQ(allocator.release(9).message(), "release: block is 9; allowed: 0..1 (num_blocks 2)");
  EXPECT_EQ(allocator.share(-1).message(), "share: block is -1; allowed: 0..1 (num_blocks 2)");
  EXPECT_FALSE(allocator.publish(block, {1, 2}).is_ok());
  EXPECT_FALSE(allocator.ref_count(2).is_ok());
}

TEST(BlockAllocator, ReleasesAListOnlyWhenAllOfItIsValid) {
  BlockAllocator allocator = allocator_of(4);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(allocator.allocate(2, blocks).is_ok());
  EXPECT_FALSE(allocator.release(std::vector<int32_t>{blocks[0], blocks[1], 3}).is_ok());
  EXPECT_FALSE(allocator.release(std::vector<int32_t>{blocks[0], blocks[0]}).is_ok());
  EXPECT_EQ(allocator.ref_count(blocks[0]).value(), 1);
  ASSERT_TRUE(allocator.share(blocks[0]).is_ok());
  EXPECT_TRUE(allocator.release(std::vector<int32_t>{blocks[0], blocks[0]}).is_ok());
  EXPECT_EQ(allocator.num_used(), 1);
}

TEST(BlockAllocator, SharesACachedPrefix) {
  BlockAllocator allocator = allocator_of(8);
  const auto tokens = tokens_from(0, 12);
  const auto blocks = cache_tokens(allocator, tokens);
  auto longer = tokens;
  longer[9] = 99;  // differs in its third block
  const auto found = allocator.acquire_prefix(BlockHasher::of_process().blocks(longer, 4, {}));
  EXPECT_EQ(found, (std::vector<int32_t>{blocks[0], blocks[1]}));
  EXPECT_EQ(allocator.ref_count(blocks[0]).value(), 2);
  EXPECT_EQ(allocator.ref_count(blocks[2]).value(), 1);
  EXPECT_EQ(allocator.stats().lookups, 3);
  EXPECT_EQ(allocator.stats().hits, 2);
  EXPECT_EQ(allocator.stats().misses(), 1);
}

TEST(BlockAllocator, KeepsReleasedBlocksUntilTheirMemoryIsNeeded) {
  BlockAllocator allocator = allocator_of(3);
  const auto tokens = tokens_from(0, 12);
  const auto blocks = cache_tokens(allocator, tokens);
  ASSERT_TRUE(allocator.release(blocks).is_ok());
  EXPECT_EQ(allocator.num_free(), 3);
  EXPECT_EQ(allocator.num_cached(), 3);
  // The end of the prefix was released first, so it goes first.
  EXPECT_EQ(allocator.allocate().value(), blocks[2]);
  EXPECT_EQ(allocator.stats().evictions, 1);
  EXPECT_EQ(allocator.cached_prefix(BlockHasher::of_process().blocks(tokens, 4, {})), 2);
}

TEST(BlockAllocator, EvictsTheLeastRecentlyUsedBlock) {
  BlockAllocator allocator = allocator_of(2);
  const auto a = tokens_from(0, 4), b = tokens_from(100, 4);
  ASSERT_TRUE(allocator.release(cache_tokens(allocator, a)).is_ok());
  ASSERT_TRUE(allocator.release(cache_tokens(allocator, b)).is_ok());
  ASSERT_TRUE(allocator.release(allocator.acquire_prefix(BlockHasher::of_process().blocks(a, 4, {})))
                  .is_ok());  // a is younger now
  ASSERT_TRUE(allocator.allocate().is_ok());
  EXPECT_EQ(allocator.cached_prefix(BlockHasher::of_process().blocks(a, 4, {})), 1);
  EXPECT_EQ(allocator.cached_prefix(BlockHasher::of_process().blocks(b, 4, {})), 0);
}

TEST(BlockAllocator, PrefersBlocksThatWereNeverCached) {
  BlockAllocator allocator = allocator_of(3);
  ASSERT_TRUE(allocator.release(cache_tokens(allocator, tokens_from(0, 8))).is_ok());
  ASSERT_TRUE(allocator.allocate().is_ok());
  EXPECT_EQ(allocator.stats().evictions, 0);
}

TEST(BlockAllocator, PublishesOnceAndKeepsTheFirst) {
  BlockAllocator allocator = allocator_of(4);
  const auto first = cache_tokens(allocator, tokens_from(0, 4));
  const auto second = cache_tokens(allocator, tokens_from(0, 4));  // same content in another block
  EXPECT_EQ(allocator.num_cached(), 1);
  EXPECT_EQ(allocator.acquire_prefix(BlockHasher::of_process().blocks(tokens_from(0, 4), 4, {})), first);
  EXPECT_TRUE(allocator.publish(first[0], BlockHasher::of_process().blocks(tokens_from(0, 4), 4, {})[0]).is_ok());
  EXPECT_FALSE(allocator.publish(first[0], {1, 2}).is_ok());
  EXPECT_NE(first, second);
}

TEST(BlockAllocator, TreatsACollisionAsAMissWhenItVerifies) {
  BlockAllocator allocator = allocator_of(4, 2, true);
  const int32_t block = allocator.allocate().value();
  const std::vector<int32_t> mine = {1, 2}, forged = {3, 4};
  ASSERT_TRUE(allocator.publish(block, {5, 5}, mine).is_ok());
  const std::vector<BlockHash> hashes = {{5, 5}};
  EXPECT_TRUE(allocator.acquire_prefix(hashes, forged).empty());
  EXPECT_EQ(allocator.stats().collisions, 1);
  EXPECT_EQ(allocator.acquire_prefix(hashes, mine).size(), 1u);
  EXPECT_TRUE(allocator.acquire_prefix(hashes, std::span(mine).first(1)).empty());
  EXPECT_FALSE(allocator.publish(allocator.allocate().value(), {6, 6}).is_ok());
}

TEST(BlockAllocator, ForgetsItsCacheOnRequest) {
  BlockAllocator allocator = allocator_of(4);
  const auto held = cache_tokens(allocator, tokens_from(0, 4));
  ASSERT_TRUE(allocator.release(cache_tokens(allocator, tokens_from(50, 8))).is_ok());
  allocator.clear_cache();
  EXPECT_EQ(allocator.num_cached(), 0);
  EXPECT_EQ(allocator.num_used(), 1);
  EXPECT_TRUE(allocator.publish(held[0], {8, 8}).is_ok());
  std::vector<int32_t> rest;
  EXPECT_TRUE(allocator.allocate(3, rest).is_ok());
  EXPECT_EQ(allocator.stats().evictions, 0);
}

TEST(BlockAllocator, GrowsWithoutBound) {
  BlockAllocator allocator = allocator_of(0);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(allocator.allocate(1000, blocks).is_ok());
  for (size_t i = 0; i < blocks.size(); ++i) ASSERT_TRUE(allocator.publish(blocks[i], {i, i * 7}).is_ok());
  ASSERT_TRUE(allocator.release(blocks).is_ok());
  ASSERT_TRUE(allocator.allocate(10, blocks).is_ok());
  EXPECT_EQ(allocator.num_blocks(), 1010);
  EXPECT_EQ(allocator.stats().evictions, 0);
  EXPECT_EQ(allocator.num_cached(), 1000);
}

TEST(BlockHashes, DependOnEveryTokenBefore) {
  const auto tokens = tokens_from(0, 16);
  const auto hashes = BlockHasher::of_process().blocks(tokens, 4, {});
  ASSERT_EQ(hashes.size(), 4u);
  auto changed = tokens;
  changed[0] ^= 1;
  const auto others = BlockHasher::of_process().blocks(changed, 4, {});
  for (size_t i = 0; i < 4; ++i) EXPECT_FALSE(hashes[i] == others[i]);
  EXPECT_FALSE(BlockHasher::of_process().blocks(tokens, 4, {1, 0})[0] == hashes[0]);  // another root, another cache
  EXPECT_EQ(BlockHasher::of_process().blocks(std::span(tokens).first(7), 4, {}).size(), 1u);
  EXPECT_TRUE(BlockHasher::of_process().blocks(tokens, 0, {}).empty());
}

// Hashes cannot be foreseen: they change from hasher to hasher (a process has one) and from tenant to tenant.
TEST(BlockHashes, AreSeededAndSalted) {
  const std::vector<int32_t> tokens = tokens_from(3, 40);
  for (const HashAlgorithm algorithm : {HashAlgorithm::kXxh3, HashAlgorithm::kSha256}) {
    const BlockHasher one(algorithm), other(algorithm), same(algorithm, one.seed());
    EXPECT_NE(one.seed(), other.seed());
    EXPECT_FALSE(one.chain({}, tokens) == other.chain({}, tokens));
    EXPECT_TRUE(one.chain({}, tokens) == same.chain({}, tokens));
    EXPECT_FALSE(one.root("a") == one.root("b"));
    EXPECT_FALSE(one.root("") == BlockHash{});
    const auto mine = one.blocks(tokens, 4, one.root("a")), yours = one.blocks(tokens, 4, one.root("b"));
    for (size_t i = 0; i < mine.size(); ++i) EXPECT_FALSE(mine[i] == yours[i]);
    // Long blocks are hashed piece by piece.
    std::vector<int32_t> block(700, 7);
    const BlockHash before = one.chain({}, block);
    block.back() = 8;
    EXPECT_FALSE(one.chain({}, block) == before);
  }
}

// A salt of another length and tokens of the same bytes are other things.
TEST(BlockHashes, KindsOfContentNeverMeet) {
  const BlockHasher hasher(HashAlgorithm::kXxh3, 1);
  const std::vector<int32_t> zero = {0};
  EXPECT_FALSE(hasher.chain({}, zero) == hasher.root(std::string_view("\0\0\0\0", 4)));
  EXPECT_FALSE(hasher.chain({}, uint64_t{1}) == hasher.chain({}, zero));
  EXPECT_FALSE(hasher.chain({}, std::span<const int32_t>()) == hasher.chain({}, uint64_t{0}));
}

// The libraries' own values: what is stored under a shared seed stays findable by later versions.
TEST(BlockHashes, StayTheSameForASeed) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  EXPECT_EQ(BlockHasher(HashAlgorithm::kXxh3, 42).chain({5, 6}, tokens),
            (BlockHash{0x8757c8d903e0979b, 0x9eac8788a33c6a3f}));
  EXPECT_EQ(BlockHasher(HashAlgorithm::kSha256, 42).chain({5, 6}, tokens),
            (BlockHash{0x715a4faf4dd3f295, 0x62522dee4ff36ccf}));
}

TEST(BlockHashes, DoNotMeetOnSmallInputs) {
  std::set<std::pair<uint64_t, uint64_t>> seen;
  for (int32_t a = 0; a < 300; ++a)
    for (int32_t b = 0; b < 300; ++b) {
      const BlockHash hash = BlockHasher::of_process().chain({}, std::vector<int32_t>{a, b});
      seen.insert({hash.high, hash.low});
    }
  for (uint64_t id = 0; id < 1000; ++id) {
    const BlockHash hash = BlockHasher::of_process().chain({}, id);
    seen.insert({hash.high, hash.low});
  }
  EXPECT_EQ(seen.size(), 300u * 300u + 1000u);
}

}  // namespace
}  // namespace sextant
