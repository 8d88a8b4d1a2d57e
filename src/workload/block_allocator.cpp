// Blocks of a cache by reference count, with prefixes found by their hashes.
#include "sextant/block_allocator.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace sextant {
namespace {

constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
constexpr size_t kSmallestIndex = 16;

}  // namespace

Result<BlockAllocator> BlockAllocator::make(const BlockAllocatorOptions& options) {
  if (options.num_blocks < 0 || options.num_blocks > kMaxBlocks)
    return invalid_argument(
        fmt::format("num_blocks is {}; allowed: 1..{}, or 0 for an unbounded pool", options.num_blocks, kMaxBlocks));
  if (options.block_size < 1)
    return invalid_argument(fmt::format("block_size is {}; allowed: >= 1", options.block_size));
  return BlockAllocator(options);
}

BlockAllocator::BlockAllocator(const BlockAllocatorOptions& options)
    : options_(options), index_(kSmallestIndex, kNone) {
  blocks_.resize(static_cast<size_t>(options.num_blocks));
  if (options.verify_tokens) tokens_.resize(blocks_.size() * static_cast<size_t>(options.block_size));
  for (int32_t block = 0; block < static_cast<int32_t>(blocks_.size()); ++block) append(fresh_, block);
  num_free_ = num_blocks();
}

Status BlockAllocator::check_id(const char* what, int32_t block) const {
  if (block < 0 || block >= num_blocks())
    return invalid_argument(
        fmt::format("{}: block is {}; allowed: 0..{} (num_blocks {})", what, block, num_blocks() - 1, num_blocks()));
  if (blocks_[static_cast<size_t>(block)].references == 0)
    return invalid_argument(
        fmt::format("{}: block {} is free; allowed: a block with a reference (is it a double free?)", what, block));
  return Status::ok();
}

Status BlockAllocator::exhausted(int64_t wanted) const {
  return Status(StatusCode::kResourceExhausted,
                fmt::format("allocate: {} blocks wanted; allowed: <= {} (free now, num_blocks {})", wanted, num_free_,
                            num_blocks()));
}

void BlockAllocator::append(FreeList& list, int32_t block) {
  Block& b = blocks_[static_cast<size_t>(block)];
  b.previous = list.tail;
  b.next = kNone;
  (list.tail == kNone ? list.head : blocks_[static_cast<size_t>(list.tail)].next) = block;
  list.tail = block;
}

void BlockAllocator::remove(FreeList& list, int32_t block) {
  Block& b = blocks_[static_cast<size_t>(block)];
  (b.previous == kNone ? list.head : blocks_[static_cast<size_t>(b.previous)].next) = b.next;
  (b.next == kNone ? list.tail : blocks_[static_cast<size_t>(b.next)].previous) = b.previous;
  b.previous = b.next = kNone;
}

// A free block out of its list; kNone when there is none and the pool is bounded.
int32_t BlockAllocator::take_free() {
  if (fresh_.head != kNone) {
    const int32_t block = fresh_.head;
    remove(fresh_, block);
    --num_free_;
    return block;
  }
  if (unbounded()) {
    if (num_blocks() == kMaxBlocks) return kNone;
    blocks_.emplace_back();
    if (options_.verify_tokens) tokens_.resize(tokens_.size() + static_cast<size_t>(options_.block_size));
    return static_cast<int32_t>(num_blocks() - 1);
  }
  if (cached_free_.head == kNone) return kNone;
  const int32_t block = cached_free_.head;
  remove(cached_free_, block);
  erase(block);
  blocks_[static_cast<size_t>(block)].cached = false;
  ++stats_.evictions;
  --num_free_;
  return block;
}

Result<int32_t> BlockAllocator::allocate() {
  const int32_t block = take_free();
  if (block == kNone) return exhausted(1);
  blocks_[static_cast<size_t>(block)].references = 1;
  return block;
}

Status BlockAllocator::allocate(int64_t count, std::vector<int32_t>& blocks) {
  if (count < 0) return invalid_argument(fmt::format("allocate: count is {}; allowed: >= 0", count));
  if (!can_allocate(count) || (unbounded() && num_used() + count > kMaxBlocks)) return exhausted(count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t block = take_free();
    blocks_[static_cast<size_t>(block)].references = 1;
    blocks.push_back(block);
  }
  return Status::ok();
}

void BlockAllocator::reference(int32_t block) {
  Block& b = blocks_[static_cast<size_t>(block)];
  if (b.references++ > 0) return;
  remove(cached_free_, block);  // a free block that is found by its hash
  --num_free_;
}

void BlockAllocator::drop_reference(int32_t block) {
  Block& b = blocks_[static_cast<size_t>(block)];
  if (--b.references > 0) return;
  append(b.cached ? cached_free_ : fresh_, block);
  ++num_free_;
}

Status BlockAllocator::share(int32_t block) {
  SEXTANT_RETURN_IF_ERROR(check_id("share", block));
  reference(block);
  return Status::ok();
}

Status BlockAllocator::release(int32_t block) {
  SEXTANT_RETURN_IF_ERROR(check_id("release", block));
  drop_reference(block);
  return Status::ok();
}

// A block may be in the list as often as it has references: counts them down on trial, then back up.
Status BlockAllocator::check_releases(std::span<const int32_t> blocks) {
  Status status;
  size_t counted = 0;
  for (; counted < blocks.size() && status.is_ok(); ++counted) {
    status = check_id("release", blocks[counted]);
    if (!status.is_ok()) break;
    --blocks_[static_cast<size_t>(blocks[counted])].references;
  }
  while (counted-- > 0) ++blocks_[static_cast<size_t>(blocks[counted])].references;
  return status;
}

Status BlockAllocator::release(std::span<const int32_t> blocks) {
  SEXTANT_RETURN_IF_ERROR(check_releases(blocks));
  for (size_t i = blocks.size(); i-- > 0;) drop_reference(blocks[i]);
  return Status::ok();
}

Status BlockAllocator::publish(int32_t block, const BlockHash& hash, std::span<const int32_t> tokens) {
  SEXTANT_RETURN_IF_ERROR(check_id("publish", block));
  if (options_.verify_tokens && tokens.size() != static_cast<size_t>(options_.block_size))
    return invalid_argument(fmt::format("publish: {} tokens given; allowed: {} (block_size, with verify_tokens)",
                                        tokens.size(), options_.block_size));
  Block& b = blocks_[static_cast<size_t>(block)];
  if (b.cached && b.hash == hash) return Status::ok();
  if (b.cached)
    return invalid_argument(
        fmt::format("publish: block {} already has another hash; allowed: once after allocate", block));
  if (find(hash) != kNone) return Status::ok();
  b.hash = hash;
  b.cached = true;
  insert(block);
  if (options_.verify_tokens)
    std::copy(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<int64_t>(block) * options_.block_size);
  return Status::ok();
}

bool BlockAllocator::same_tokens(int32_t block, std::span<const int32_t> tokens, size_t position) const {
  const size_t size = static_cast<size_t>(options_.block_size);
  if (tokens.size() < (position + 1) * size) return false;
  return std::equal(tokens.begin() + static_cast<int64_t>(position * size),
                    tokens.begin() + static_cast<int64_t>((position + 1) * size),
                    tokens_.begin() + static_cast<int64_t>(block) * options_.block_size);
}

std::vector<int32_t> BlockAllocator::acquire_prefix(std::span<const BlockHash> hashes,
                                                    std::span<const int32_t> tokens) {
  std::vector<int32_t> found;
  stats_.lookups += static_cast<int64_t>(hashes.size());
  for (const BlockHash& hash : hashes) {
    const int32_t block = find(hash);
    if (block == kNone) break;
    if (options_.verify_tokens && !same_tokens(block, tokens, found.size())) {
      ++stats_.collisions;
      break;
    }
    reference(block);
    found.push_back(block);
  }
  stats_.hits += static_cast<int64_t>(found.size());
  return found;
}

int64_t BlockAllocator::cached_prefix(std::span<const BlockHash> hashes) const {
  int64_t length = 0;
  for (const BlockHash& hash : hashes) {
    if (find(hash) == kNone) break;
    ++length;
  }
  return length;
}

void BlockAllocator::clear_cache() {
  while (cached_free_.head != kNone) {
    const int32_t block = cached_free_.head;
    remove(cached_free_, block);
    append(fresh_, block);
  }
  for (Block& block : blocks_) block.cached = false;
  std::fill(index_.begin(), index_.end(), kNone);
  num_cached_ = 0;
}

Result<int32_t> BlockAllocator::ref_count(int32_t block) const {
  if (block < 0 || block >= num_blocks())
    return invalid_argument(
        fmt::format("ref_count: block is {}; allowed: 0..{} (num_blocks {})", block, num_blocks() - 1, num_blocks()));
  return blocks_[static_cast<size_t>(block)].references;
}

}  // namespace sextant
