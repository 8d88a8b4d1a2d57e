// Runs the lanes of a workgroup in turns from one meeting point to the next.
#include "devices/hip/emulator/workgroup.h"

#include <sys/mman.h>

#include <array>
#include <cstring>

#include "devices/hip/emulator/fiber.h"
#include "devices/hip/emulator/lane_api.h"
#include "devices/hip/emulator/mfma.h"

namespace sextant::hip::emulator {

constinit thread_local LaneState current_lane;

namespace {

constexpr int kWaveSize = 64;
constexpr size_t kStackBytes = 64 * 1024;

// What the lanes of a wave meet for.
enum class Meeting : uint8_t { kNone, kBarrier, kWaveSync, kShuffle, kBallot, kTranspose, kMfma };

const char* to_string(Meeting meeting) {
  switch (meeting) {
    case Meeting::kBarrier:
      return "a barrier";
    case Meeting::kWaveSync:
      return "a wave barrier";
    case Meeting::kShuffle:
      return "a shuffle";
    case Meeting::kBallot:
      return "a ballot";
    case Meeting::kTranspose:
      return "a transposing read";
    case Meeting::kMfma:
      return "an MFMA";
    default:
      return "nothing";
  }
}

struct ShuffleOperand {
  int value, source, result;
};
struct TransposeOperand {
  std::array<uint16_t, 4> read, result;
};
struct BallotOperand {
  bool value;
  uint64_t result;
};

}  // namespace

struct Wave {
  int first_thread = 0, lanes = 0;
  int live = 0, arrived = 0;
  Meeting meeting = Meeting::kNone;
  MfmaShape shape = MfmaShape::kBf16x16;
  bool at_barrier = false;
  std::array<void*, kWaveSize> operands{};
};

struct Workgroup::Impl {
  char* stacks = nullptr;
  size_t stack_count = 0;
  std::vector<FiberContext> fibers;
  std::vector<Wave> waves;
  FiberContext scheduler{};
  alignas(64) std::array<char, kSharedBytes> shared{};
  KernelFunction kernel = nullptr;
  const void* params = nullptr;
  std::string fault;
  int threads = 0;
  LaneOrder order = LaneOrder::kForward;

  ~Impl() {
    if (stacks != nullptr) munmap(stacks, stack_count * kStackBytes);
  }
  bool reserve(int count) {
    if (static_cast<size_t>(count) <= stack_count) return true;
    if (stacks != nullptr) munmap(stacks, stack_count * kStackBytes);
    stacks = nullptr;
    stack_count = 0;
    void* memory = mmap(nullptr, static_cast<size_t>(count) * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    stacks = static_cast<char*>(memory);
    stack_count = static_cast<size_t>(count);
    return true;
  }
};

// The order of the lanes is a ring in each wave; the waves take turns at barriers.
struct Scheduler {
  using Impl = Workgroup::Impl;
  static inline thread_local Impl* current_group = nullptr;

  static int rank_to_thread(const Impl& g, const Wave& w, int rank) {
    return w.first_thread + (g.order == LaneOrder::kForward ? rank : w.lanes - 1 - rank);
  }
  static int thread_to_rank(const Impl& g, const Wave& w, int thread) {
    const int lane = thread - w.first_thread;
    return g.order == LaneOrder::kForward ? lane : w.lanes - 1 - lane;
  }

  static void resume(Impl& g, FiberContext& from, int thread) {
    current_lane.thread = thread;
    switch_fiber(from, g.fibers[static_cast<size_t>(thread)]);
  }
  static void to_scheduler(Impl& g, int thread) { switch_fiber(g.fibers[static_cast<size_t>(thread)], g.scheduler); }

  [[noreturn]] static void fail(Impl& g, int thread, std::string message) {
    g.fault = std::move(message);
    to_scheduler(g, thread);
    __builtin_unreachable();  // the scheduler never continues a group that failed
  }

  static void entry() {
    Impl& g = *current_group;
    const int thread = current_lane.thread;
    g.kernel(g.params);
    Wave& w = g.waves[static_cast<size_t>(thread / kWaveSize)];
    if (w.meeting != Meeting::kNone)
      fail(g, thread,
           "lane " + std::to_string(thread) + " ended while others of its wave wait at " + to_string(w.meeting));
    --w.live;
    const int rank = thread_to_rank(g, w, thread);
    if (rank + 1 < w.lanes) resume(g, g.fibers[static_cast<size_t>(thread)], rank_to_thread(g, w, rank + 1));
    to_scheduler(g, thread);
    __builtin_unreachable();
  }

  // Waits for the other lanes of the wave; the last to arrive does `operation`.
  template <class Operation>
  static void meet(Meeting meeting, void* operand, const Operation& operation) {
    Impl& g = *current_group;
    const int thread = current_lane.thread;
    Wave& w = g.waves[static_cast<size_t>(thread / kWaveSize)];
    if (w.live != w.lanes)
      fail(g, thread, "lanes of a wave ended before lane " + std::to_string(thread) + " came to " + to_string(meeting));
    if (w.arrived > 0 && w.meeting != meeting)
      fail(g, thread,
           "lanes of a wave diverge: lane " + std::to_string(thread) + " is at " + to_string(meeting) + ", others at " +
               to_string(w.meeting));
    w.meeting = meeting;
    w.operands[static_cast<size_t>(thread - w.first_thread)] = operand;
    FiberContext& self = g.fibers[static_cast<size_t>(thread)];
    const int rank = thread_to_rank(g, w, thread);
    if (++w.arrived == w.lanes) {
      operation(w);
      w.arrived = 0;
      w.meeting = Meeting::kNone;
      if (meeting == Meeting::kBarrier) {
        w.at_barrier = true;
        switch_fiber(self, g.scheduler);
      } else if (rank != 0) {
        resume(g, self, rank_to_thread(g, w, 0));
      }
    } else {
      resume(g, self, rank_to_thread(g, w, (rank + 1) % w.lanes));
    }
  }

  static std::string run(Impl& g) {
    for (Wave& w : g.waves)
      for (int i = 0; i < w.lanes; ++i) {
        const size_t thread = static_cast<size_t>(w.first_thread) + static_cast<size_t>(i);
        make_fiber(g.fibers[thread], g.stacks + kStackBytes * thread, kStackBytes, entry);
      }
    const int count = static_cast<int>(g.waves.size());
    for (bool any = true; any;) {
      any = false;
      for (int i = 0; i < count; ++i) {
        Wave& w = g.waves[static_cast<size_t>(g.order == LaneOrder::kForward ? i : count - 1 - i)];
        if (w.live == 0) continue;
        any = true;
        w.at_barrier = false;
        resume(g, g.scheduler, rank_to_thread(g, w, 0));
        if (!g.fault.empty()) return g.fault;
        if (w.live > 0 && !w.at_barrier) return "some lanes of a wave ended, others wait";
      }
    }
    return {};
  }
};

Workgroup::Workgroup() : impl_(std::make_unique<Impl>()) {}
Workgroup::~Workgroup() = default;

std::string Workgroup::run(KernelFunction kernel, const void* params, int block, int threads, LaneOrder order,
                           const EmulatedChip& chip) {
  Impl& g = *impl_;
  if (threads % kWaveSize != 0) return "the workgroup is not a whole number of waves";
  if (!g.reserve(threads)) return "no memory for the stacks of the lanes";
  g.kernel = kernel;
  g.params = params;
  g.threads = threads;
  g.order = order;
  g.fault.clear();
  g.fibers.resize(static_cast<size_t>(threads));
  g.waves.assign(static_cast<size_t>(threads) / kWaveSize, Wave{});
  for (size_t i = 0; i < g.waves.size(); ++i) {
    g.waves[i].first_thread = static_cast<int>(i) * kWaveSize;
    g.waves[i].lanes = g.waves[i].live = kWaveSize;
  }
  std::memset(g.shared.data(), 0xff, g.shared.size());  // NaN: reading what nobody wrote shows
  Impl* outer = Scheduler::current_group;
  const LaneState outer_lane = current_lane;
  Scheduler::current_group = &g;
  current_lane = {0, block, g.shared.data(), chip};
  std::string fault = Scheduler::run(g);
  Scheduler::current_group = outer;
  current_lane = outer_lane;
  return fault;
}

void barrier() {
  Scheduler::meet(Meeting::kBarrier, nullptr, [](Wave&) {});
}
void wave_sync() {
  Scheduler::meet(Meeting::kWaveSync, nullptr, [](Wave&) {});
}

int shuffle(int x, int lane) {
  ShuffleOperand operand{x, lane & (kWaveSize - 1), 0};
  Scheduler::meet(Meeting::kShuffle, &operand, [](Wave& w) {
    for (void* p : w.operands) {
      auto* to = static_cast<ShuffleOperand*>(p);
      to->result = static_cast<ShuffleOperand*>(w.operands[static_cast<size_t>(to->source)])->value;
    }
  });
  return operand.result;
}

uint64_t ballot(bool x) {
  BallotOperand operand{x, 0};
  Scheduler::meet(Meeting::kBallot, &operand, [](Wave& w) {
    uint64_t bits = 0;
    for (size_t i = 0; i < kWaveSize; ++i)
      bits |= static_cast<uint64_t>(static_cast<BallotOperand*>(w.operands[i])->value) << i;
    for (void* p : w.operands) static_cast<BallotOperand*>(p)->result = bits;
  });
  return operand.result;
}

// Sixteen lanes read a matrix of 4 rows and 16 columns, lane i columns 4 (i % 4) to + 4 of row i / 4; lane i gets
// column i.
uint64_t transpose(const void* from) {
  TransposeOperand operand{};
  std::memcpy(operand.read.data(), from, sizeof(operand.read));
  Scheduler::meet(Meeting::kTranspose, &operand, [](Wave& w) {
    for (size_t lane = 0; lane < kWaveSize; ++lane)
      for (size_t row = 0; row < 4; ++row) {
        const size_t column = lane % 16, source = lane - column + 4 * row + column / 4;
        static_cast<TransposeOperand*>(w.operands[lane])->result[row] =
            static_cast<TransposeOperand*>(w.operands[source])->read[column % 4];
      }
  });
  uint64_t bits = 0;
  std::memcpy(&bits, operand.result.data(), sizeof(bits));
  return bits;
}

void multiply_wave(MfmaShape shape, const void* a, const void* b, float* d) {
  MfmaOperands operands{shape, a, b, d};
  Scheduler::meet(Meeting::kMfma, &operands, [](Wave& w) {
    std::array<const MfmaOperands*, kWaveSize> lanes;
    for (size_t i = 0; i < kWaveSize; ++i) lanes[i] = static_cast<const MfmaOperands*>(w.operands[i]);
    multiply(lanes);
  });
}

}  // namespace sextant::hip::emulator
