// The LDS of a workgroup, with who touched what when: what a wave may see of the others' work.
//
// A write reaches others, and a read is over, when its wave has waited for it and all have met at a barrier since. So
// each access keeps its number in its wave's queue, and each queue says in which epoch (barriers passed) that number
// was waited for. No order of the waves can hide a race from this: it does not look at the order in which they ran.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace sextant::hip::isa {

constexpr int kMaxWaves = 16;
// LDS accesses come back in order; loads from memory to LDS in the order of vector memory.
enum class LdsQueue : uint8_t { kLocal, kVectorMemory };

class LocalMemory {
 public:
  // `cell`: bytes that are watched together.
  void reset(uint32_t bytes, uint32_t cell);
  uint32_t size() const { return static_cast<uint32_t>(bytes_.size()); }
  void begin_epoch() { ++epoch_; }

  // The number of a new access of the wave.
  int begin_access(int wave, LdsQueue queue);
  void retire(int wave, LdsQueue queue, int number);

  // Empty, or why this may not be done now. `bytes` is 1 or a multiple of 2.
  std::string read(int wave, int number, uint32_t address, uint32_t bytes, void* to);
  std::string write(int wave, LdsQueue queue, int number, uint32_t address, uint32_t bytes, const void* from);

 private:
  struct Cell {
    int run = 0;  // of which reset; older ones say nothing
    int8_t writer = -1;
    LdsQueue queue = LdsQueue::kLocal;
    int number = -1;
    std::array<int, kMaxWaves> reads{};  // number of the wave's last read, plus 1; 0: none
  };
  int retired(int wave, LdsQueue queue, int number) const {
    return retired_[static_cast<size_t>(wave)][static_cast<size_t>(queue)][static_cast<size_t>(number)];
  }
  Cell& cell(uint32_t index);
  std::string check_writer(int wave, LdsQueue queue, const Cell& cell, uint32_t address, const char* what) const;

  std::vector<unsigned char> bytes_;
  std::vector<Cell> cells_;
  std::array<std::array<std::vector<int>, 2>, kMaxWaves> retired_;  // epoch, or kOnItsWay
  int epoch_ = 0, run_ = 0;
  uint32_t cell_bytes_ = 4;
};

}  // namespace sextant::hip::isa
