#include "hip/isa/local_memory.h"

#include <cstring>

namespace sextant::hip::isa {
namespace {

constexpr int kOnItsWay = -1;

std::string at(uint32_t address) { return "LDS byte " + std::to_string(address); }

}  // namespace

void LocalMemory::reset(uint32_t bytes, uint32_t cell) {
  cell_bytes_ = cell;
  bytes_.assign(bytes, 0xff);  // NaN: reading what nobody wrote shows
  cells_.resize((bytes + cell - 1) / cell);
  ++run_;
  for (auto& queues : retired_)
    for (auto& queue : queues) queue.clear();
  epoch_ = 0;
}

LocalMemory::Cell& LocalMemory::cell(uint32_t index) {
  Cell& cell = cells_[index];
  if (cell.run != run_) {
    cell = {};
    cell.run = run_;
  }
  return cell;
}

int LocalMemory::begin_access(int wave, LdsQueue queue) {
  auto& numbers = retired_[static_cast<size_t>(wave)][static_cast<size_t>(queue)];
  numbers.push_back(kOnItsWay);
  return static_cast<int>(numbers.size()) - 1;
}

void LocalMemory::retire(int wave, LdsQueue queue, int number) {
  retired_[static_cast<size_t>(wave)][static_cast<size_t>(queue)][static_cast<size_t>(number)] = epoch_;
}

std::string LocalMemory::check_writer(int wave, LdsQueue queue, const Cell& cell, uint32_t address,
                                      const char* what) const {
  if (cell.writer < 0 || (cell.writer == wave && cell.queue == queue)) return "";
  const int epoch = retired(cell.writer, cell.queue, cell.number);
  if (cell.writer == wave)
    return epoch != kOnItsWay ? "" : what + at(address) + ", which its own load from memory has not been waited for";
  if (epoch == kOnItsWay)
    return what + at(address) + ", which wave " + std::to_string(cell.writer) + " has written and not waited for";
  if (epoch == epoch_)
    return what + at(address) + ", which wave " + std::to_string(cell.writer) + " has written with no barrier between";
  return "";
}

std::string LocalMemory::read(int wave, int number, uint32_t address, uint32_t bytes, void* to) {
  if (address + bytes > bytes_.size() || address % (bytes == 1 ? 1 : 2) != 0)
    return "reads " + at(address) + ", outside the kernel's " + std::to_string(bytes_.size()) + " or not aligned";
  for (uint32_t c = address / cell_bytes_; c <= (address + bytes - 1) / cell_bytes_; ++c) {
    Cell& cell = this->cell(c);
    if (std::string fault = check_writer(wave, LdsQueue::kLocal, cell, cell_bytes_ * c, "reads "); !fault.empty())
      return fault;
    cell.reads[static_cast<size_t>(wave)] = number + 1;
  }
  std::memcpy(to, bytes_.data() + address, bytes);
  return "";
}

std::string LocalMemory::write(int wave, LdsQueue queue, int number, uint32_t address, uint32_t bytes,
                               const void* from) {
  if (address + bytes > bytes_.size() || address % (bytes == 1 ? 1 : 2) != 0)
    return "writes " + at(address) + ", outside the kernel's " + std::to_string(bytes_.size()) + " or not aligned";
  for (uint32_t c = address / cell_bytes_; c <= (address + bytes - 1) / cell_bytes_; ++c) {
    Cell& cell = this->cell(c);
    if (std::string fault = check_writer(wave, queue, cell, cell_bytes_ * c, "writes "); !fault.empty()) return fault;
    for (int other = 0; other < kMaxWaves; ++other) {
      const int read = cell.reads[static_cast<size_t>(other)];
      if (read == 0 || (other == wave && queue == LdsQueue::kLocal)) continue;
      const int epoch = retired(other, LdsQueue::kLocal, read - 1);
      if (epoch == kOnItsWay)
        return "writes " + at(cell_bytes_ * c) + ", which wave " + std::to_string(other) +
               " has read and not waited for";
      if (epoch == epoch_ && other != wave)
        return "writes " + at(cell_bytes_ * c) + ", which another wave has read with no barrier between";
    }
    cell.reads = {};
    cell.writer = static_cast<int8_t>(wave);
    cell.queue = queue;
    cell.number = number;
  }
  std::memcpy(bytes_.data() + address, from, bytes);
  return "";
}

}  // namespace sextant::hip::isa
