// The prefix cache's index: BlockHash -> block id.
#include "sextant/block_allocator.h"

namespace sextant {

int32_t BlockAllocator::find(const BlockHash& hash) const {
  const size_t mask = index_.size() - 1;
  for (size_t slot = home_of(hash); index_[slot] != kNone; slot = (slot + 1) & mask)
    if (blocks_[static_cast<size_t>(index_[slot])].hash == hash) return index_[slot];
  return kNone;
}

void BlockAllocator::insert(int32_t block) {
  if (static_cast<size_t>(num_cached_ + 1) * 2 > index_.size()) grow_index();
  const size_t mask = index_.size() - 1;
  size_t slot = home_of(blocks_[static_cast<size_t>(block)].hash);
  while (index_[slot] != kNone) slot = (slot + 1) & mask;
  index_[slot] = block;
  ++num_cached_;
}

void BlockAllocator::erase(int32_t block) {
  const size_t mask = index_.size() - 1;
  size_t hole = home_of(blocks_[static_cast<size_t>(block)].hash);
  while (index_[hole] != block) hole = (hole + 1) & mask;
  // Shifts later entries of the run back over the hole unless that would put one before its home.
  for (size_t slot = (hole + 1) & mask; index_[slot] != kNone; slot = (slot + 1) & mask) {
    const size_t home = home_of(blocks_[static_cast<size_t>(index_[slot])].hash);
    if (((slot - home) & mask) < ((slot - hole) & mask)) continue;
    index_[hole] = index_[slot];
    hole = slot;
  }
  index_[hole] = kNone;
  --num_cached_;
}

void BlockAllocator::grow_index() {
  std::vector<int32_t> old(index_.size() * 2, kNone);
  old.swap(index_);
  num_cached_ = 0;
  for (const int32_t block : old)
    if (block != kNone) insert(block);
}

}  // namespace sextant
