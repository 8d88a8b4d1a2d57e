// Hashes of blocks for the prefix cache: XXH3-128 with a secret seed, or SHA-256.
#include <openssl/evp.h>

#include <cstring>
#include <memory>
#include <new>
#include <random>

#include "sextant/block_allocator.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sextant {
namespace {

// What is hashed first, so that blocks of tokens, named content and roots never meet.
enum class Domain : uint64_t { kTokens = 1, kContent = 2, kRoot = 3 };
struct Head {
  BlockHash parent;
  Domain domain;
  uint64_t size;  // tokens, or bytes of a salt
};

BlockHash xxh3(uint64_t seed, const Head& head, const void* data, size_t bytes) {
  constexpr size_t kAtOnce = 1024;
  XXH128_hash_t hash;
  if (bytes <= kAtOnce) {
    char buffer[sizeof(Head) + kAtOnce];
    std::memcpy(buffer, &head, sizeof(Head));
    if (bytes > 0) std::memcpy(buffer + sizeof(Head), data, bytes);
    hash = XXH3_128bits_withSeed(buffer, sizeof(Head) + bytes, seed);
  } else {
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_128bits_reset_withSeed(&state, seed);
    XXH3_128bits_update(&state, &head, sizeof(Head));
    XXH3_128bits_update(&state, data, bytes);
    hash = XXH3_128bits_digest(&state);
  }
  return {hash.high64, hash.low64};
}

// The first half of the digest; the seed goes in front. OpenSSL fails only without memory.
BlockHash sha256(uint64_t seed, const Head& head, const void* data, size_t bytes) {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  thread_local const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  static const EVP_MD* const kSha256 = EVP_sha256();
  unsigned char digest[EVP_MAX_MD_SIZE];
  if (context == nullptr || EVP_DigestInit_ex(context.get(), kSha256, nullptr) != 1 ||
      EVP_DigestUpdate(context.get(), &seed, sizeof(seed)) != 1 ||
      EVP_DigestUpdate(context.get(), &head, sizeof(head)) != 1 || EVP_DigestUpdate(context.get(), data, bytes) != 1 ||
      EVP_DigestFinal_ex(context.get(), digest, nullptr) != 1)
    throw std::bad_alloc();
  BlockHash hash;
  std::memcpy(&hash, digest, sizeof(hash));
  return hash;
}

uint64_t random_seed() {
  std::random_device device;  // the system's, not a generator of ours
  return uint64_t{device()} << 32 | device();
}

BlockHash hash_of(const BlockHasher& hasher, const Head& head, const void* data, size_t bytes) {
  return hasher.algorithm() == HashAlgorithm::kSha256 ? sha256(hasher.seed(), head, data, bytes)
                                                      : xxh3(hasher.seed(), head, data, bytes);
}

}  // namespace

BlockHasher::BlockHasher(HashAlgorithm algorithm) : BlockHasher(algorithm, random_seed()) {}

const BlockHasher& BlockHasher::of_process() {
  static const BlockHasher kHasher(HashAlgorithm::kXxh3);
  return kHasher;
}

BlockHash BlockHasher::root(std::string_view salt) const {
  return hash_of(*this, {{}, Domain::kRoot, salt.size()}, salt.data(), salt.size());
}

BlockHash BlockHasher::chain(const BlockHash& parent, std::span<const int32_t> tokens) const {
  return hash_of(*this, {parent, Domain::kTokens, tokens.size()}, tokens.data(), tokens.size_bytes());
}

BlockHash BlockHasher::chain(const BlockHash& parent, uint64_t content_id) const {
  return hash_of(*this, {parent, Domain::kContent, content_id}, nullptr, 0);
}

std::vector<BlockHash> BlockHasher::blocks(std::span<const int32_t> tokens, int32_t block_size,
                                           const BlockHash& root) const {
  std::vector<BlockHash> hashes;
  if (block_size < 1) return hashes;
  const auto size = static_cast<size_t>(block_size);
  hashes.reserve(tokens.size() / size);
  BlockHash parent = root;
  for (size_t begin = 0; begin + size <= tokens.size(); begin += size) {
    parent = chain(parent, tokens.subspan(begin, size));
    hashes.push_back(parent);
  }
  return hashes;
}

}  // namespace sextant
