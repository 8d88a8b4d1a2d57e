// Hands out the blocks of a paged KV cache: reference counts, a prefix cache over block hashes, LRU eviction.
// Usable alone: it knows block ids and hashes, never memory. Every operation is O(1) a block. Not thread-safe.
//
//   auto allocator = BlockAllocator::make({.num_blocks = 1024, .block_size = 16}).value();
//   const BlockHasher& hasher = BlockHasher::of_process();
//   auto hashes = hasher.blocks(tokens, 16, hasher.root(tenant));  // one a full block, each covering all tokens before
//   it std::vector<int32_t> blocks = allocator.acquire_prefix(hashes, tokens);  // cached blocks, now referenced
//   SEXTANT_RETURN_IF_ERROR(allocator.allocate(more, blocks));               // new ones, all or none
//   ... write keys and values ...
//   SEXTANT_RETURN_IF_ERROR(allocator.publish(blocks[i], hashes[i], tokens of block i));
//   SEXTANT_RETURN_IF_ERROR(allocator.release(blocks));      // stays cached until its memory is needed
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "sextant/status.h"

namespace sextant {

// 128 bits, so that two prefixes meet by chance about once in 2^64 blocks.
struct BlockHash {
  uint64_t high = 0;
  uint64_t low = 0;
  friend bool operator==(const BlockHash&, const BlockHash&) = default;
};

// Whoever makes two different prefixes meet reads another's keys and values, so hashes must not be foreseeable
// (docs/prefix-caching.md says what each choice protects from, and what it costs).
enum class HashAlgorithm : uint8_t {
  kXxh3,    // XXH3-128, seeded: fast; safe from those who neither know the seed nor see hashes
  kSha256,  // SHA-256 of seed and block, the first 128 bits: safe from those who see hashes as well
};

// Hashes blocks by what is in them and in all blocks before them. Copies are equal; threads may share one.
class BlockHasher {
 public:
  // With a random seed of its own: another process, and another hasher, makes other hashes.
  explicit BlockHasher(HashAlgorithm algorithm);
  // With a seed that is given, for caches that several processes share. Keep it secret.
  BlockHasher(HashAlgorithm algorithm, uint64_t seed) : algorithm_(algorithm), seed_(seed) {}
  // XXH3-128 with this process's random seed.
  static const BlockHasher& of_process();

  // Where chains begin: the salt keeps apart what must not be shared, such as tenants, models and adapters.
  BlockHash root(std::string_view salt) const;
  // Of a block's tokens after everything before it: `parent` is the hash of the previous block, or a root.
  BlockHash chain(const BlockHash& parent, std::span<const int32_t> tokens) const;
  // The same for content that is named rather than known (a trace's hash ids).
  BlockHash chain(const BlockHash& parent, uint64_t content_id) const;
  // Chained hashes of all full blocks of a token sequence.
  std::vector<BlockHash> blocks(std::span<const int32_t> tokens, int32_t block_size, const BlockHash& root) const;

  HashAlgorithm algorithm() const { return algorithm_; }
  uint64_t seed() const { return seed_; }

 private:
  HashAlgorithm algorithm_;
  uint64_t seed_;
};

struct BlockAllocatorOptions {
  int64_t num_blocks = 0;   // 0: unbounded, for simulations; the pool grows and nothing is evicted
  int32_t block_size = 16;  // tokens a block
  // Keeps the tokens of cached blocks and compares them on a hit, so that a forged or chance collision is a miss.
  bool verify_tokens = false;
};

struct BlockAllocatorStats {
  int64_t lookups = 0;     // blocks asked for by acquire_prefix
  int64_t hits = 0;        // of these, found
  int64_t evictions = 0;   // cached free blocks whose memory was taken
  int64_t collisions = 0;  // equal hash, other tokens (verify_tokens)
  double hit_rate() const { return lookups == 0 ? 0.0 : static_cast<double>(hits) / static_cast<double>(lookups); }
  int64_t misses() const { return lookups - hits; }
};

class BlockAllocator {
 public:
  static Result<BlockAllocator> make(const BlockAllocatorOptions& options);

  // A block with one reference and unknown content. Never-cached free blocks go first, then the cached free block that
  // was released longest ago. kResourceExhausted when every block is referenced.
  Result<int32_t> allocate();
  // Appends `count` blocks, or none and kResourceExhausted.
  Status allocate(int64_t count, std::vector<int32_t>& blocks);

  Status share(int32_t block);    // one more reference
  Status release(int32_t block);  // one less; the last one frees the block, which stays cached if published
  // Releases a request's blocks from the last to the first, so that the end of a prefix is evicted before its start.
  // Checks all ids first and releases nothing on an error.
  Status release(std::span<const int32_t> blocks);

  // Makes a referenced, completely written block findable. Where the hash already has a block, that one stays and this
  // one remains private. `tokens` is needed with verify_tokens only.
  Status publish(int32_t block, const BlockHash& hash, std::span<const int32_t> tokens = {});
  // The longest cached prefix, each block referenced once more for the caller. `tokens` (all of them, in order) is
  // needed with verify_tokens only.
  std::vector<int32_t> acquire_prefix(std::span<const BlockHash> hashes, std::span<const int32_t> tokens = {});
  // How many leading blocks acquire_prefix would find; takes no reference, counts nothing.
  int64_t cached_prefix(std::span<const BlockHash> hashes) const;

  // Forgets all hashes (new weights). Referenced blocks stay allocated.
  void clear_cache();

  bool unbounded() const { return options_.num_blocks == 0; }
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }  // unbounded: made so far
  int64_t num_free() const { return num_free_; }                               // cached ones included
  int64_t num_cached() const { return num_cached_; }                           // findable, free or referenced
  int64_t num_used() const { return num_blocks() - num_free_; }
  bool can_allocate(int64_t count) const { return unbounded() || count <= num_free_; }
  Result<int32_t> ref_count(int32_t block) const;
  const BlockAllocatorStats& stats() const { return stats_; }
  const BlockAllocatorOptions& options() const { return options_; }

 private:
  static constexpr int32_t kNone = -1;

  struct Block {
    BlockHash hash;
    int32_t previous = kNone;  // neighbours in the free list it is in
    int32_t next = kNone;
    int32_t references = 0;
    bool cached = false;  // its hash is in the index
  };
  struct FreeList {  // intrusive: any block leaves it in O(1)
    int32_t head = kNone;
    int32_t tail = kNone;
  };

  explicit BlockAllocator(const BlockAllocatorOptions& options);
  Status check_id(const char* what, int32_t block) const;
  Status check_releases(std::span<const int32_t> blocks);
  Status exhausted(int64_t wanted) const;
  void append(FreeList& list, int32_t block);
  void remove(FreeList& list, int32_t block);
  int32_t take_free();
  void reference(int32_t block);
  void drop_reference(int32_t block);

  // Open addressing over block ids; the keys live in blocks_. Linear probing, deletion by shifting back.
  int32_t find(const BlockHash& hash) const;
  size_t home_of(const BlockHash& hash) const { return static_cast<size_t>(hash.low) & (index_.size() - 1); }
  void insert(int32_t block);
  void erase(int32_t block);
  void grow_index();
  bool same_tokens(int32_t block, std::span<const int32_t> tokens, size_t position) const;

  BlockAllocatorOptions options_;
  std::vector<Block> blocks_;
  std::vector<int32_t> index_;   // a power of two slots, at most half full
  std::vector<int32_t> tokens_;  // [num_blocks, block_size] with verify_tokens
  FreeList fresh_;               // free, content unknown
  FreeList cached_free_;         // free, findable; head = released longest ago
  int64_t num_free_ = 0;
  int64_t num_cached_ = 0;
  BlockAllocatorStats stats_;
};

}  // namespace sextant
