#include "sextant/block_allocator.h"

namespace sextant {
namespace {

// A 64 x 64 -> 128 bit product folded in half: every input bit reaches every output bit in two rounds.
uint64_t fold(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Digits of pi: constants without a choice of ours in them.
constexpr uint64_t kPi[4] = {0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89};

// Two lanes with separate keys, so that one lane's fixed points are not the other's.
void absorb(BlockHash& state, uint64_t word) {
  const uint64_t high = fold(state.high ^ word ^ kPi[0], state.low ^ kPi[1]);
  const uint64_t low = fold(state.low + word + kPi[2], (state.high ^ kPi[3]) | 1);
  state = {high + word, low ^ (word << 1)};
}

}  // namespace

BlockHash chain_hash(const BlockHash& parent, std::span<const int32_t> tokens) {
  BlockHash state = parent;
  absorb(state, tokens.size());
  for (const int32_t token : tokens) absorb(state, static_cast<uint32_t>(token));
  absorb(state, kPi[0]);
  return state;
}

BlockHash chain_hash(const BlockHash& parent, uint64_t content_id) {
  BlockHash state = parent;
  absorb(state, ~uint64_t{0});  // no token block has this length: names and tokens never meet
  absorb(state, content_id);
  absorb(state, kPi[0]);
  return state;
}

std::vector<BlockHash> hash_blocks(std::span<const int32_t> tokens, int32_t block_size, const BlockHash& root) {
  std::vector<BlockHash> hashes;
  if (block_size < 1) return hashes;
  const size_t size = static_cast<size_t>(block_size);
  hashes.reserve(tokens.size() / size);
  BlockHash parent = root;
  for (size_t begin = 0; begin + size <= tokens.size(); begin += size) {
    parent = chain_hash(parent, tokens.subspan(begin, size));
    hashes.push_back(parent);
  }
  return hashes;
}

}  // namespace sextant
