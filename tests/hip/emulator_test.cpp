// The emulator: what lanes exchange, and what it reports of kernels that are wrong.
#include <gtest/gtest.h>

#include "devices/hip/emulator/workgroup.h"
#include "devices/hip/kernels/formats.h"
#include "reference/numbers.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using emulator::LaneOrder;

// What lanes leave behind.
struct Result {
  int value[256];
  uint64_t bits[256];
};
Result result;

std::string run(emulator::KernelFunction kernel, int threads, LaneOrder order = LaneOrder::kForward) {
  emulator::Workgroup group;
  result = {};
  return group.run(kernel, nullptr, 0, threads, order, {});
}

TEST(Emulator, ShufflesWithinTheWave) {
  SKIP_UNDER_SANITIZERS();
  const auto kernel = [](const void*) {
    const int t = thread_index();
    result.value[t] = shuffle_bits(t, lane_index() ^ 16);
  };
  for (LaneOrder order : {LaneOrder::kForward, LaneOrder::kBackward}) {
    ASSERT_EQ(run(kernel, 256, order), "");
    for (int t = 0; t < 256; ++t) EXPECT_EQ(result.value[t], t ^ 16);
  }
}

TEST(Emulator, BallotsTheWave) {
  SKIP_UNDER_SANITIZERS();
  ASSERT_EQ(run([](const void*) { result.bits[thread_index()] = ballot(lane_index() % 3 == 0); }, 64), "");
  uint64_t expected = 0;
  for (int i = 0; i < 64; i += 3) expected |= uint64_t{1} << i;
  for (int t = 0; t < 64; ++t) EXPECT_EQ(result.bits[t], expected);
}

TEST(Emulator, BarriersOrderSharedMemory) {
  SKIP_UNDER_SANITIZERS();
  const auto kernel = [](const void*) {
    int* shared = reinterpret_cast<int*>(shared_memory<1024>());
    const int t = thread_index();
    for (int round = 0; round < 3; ++round) {
      shared[t] = t + round;
      barrier();
      result.value[t] = shared[(t + 77) % 256];
      barrier();
    }
  };
  for (LaneOrder order : {LaneOrder::kForward, LaneOrder::kBackward}) {
    ASSERT_EQ(run(kernel, 256, order), "");
    for (int t = 0; t < 256; ++t) EXPECT_EQ(result.value[t], (t + 77) % 256 + 2);
  }
}

TEST(Emulator, AMissingBarrierShowsInTheOrderOfLanes) {
  SKIP_UNDER_SANITIZERS();
  const auto kernel = [](const void*) {
    int* shared = reinterpret_cast<int*>(shared_memory<1024>());
    shared[thread_index()] = 1;
    result.value[thread_index()] = shared[(thread_index() + 1) % 256];
  };
  ASSERT_EQ(run(kernel, 256, LaneOrder::kForward), "");
  const Result forward = result;
  ASSERT_EQ(run(kernel, 256, LaneOrder::kBackward), "");
  EXPECT_NE(std::vector<int>(forward.value, forward.value + 256), std::vector<int>(result.value, result.value + 256));
}

TEST(Emulator, UnwrittenSharedMemoryIsNaN) {
  SKIP_UNDER_SANITIZERS();
  ASSERT_EQ(run([](const void*) { result.value[thread_index()] = shared_memory<64>()[3]; }, 64), "");
  EXPECT_EQ(result.value[0], -1);
}

TEST(Emulator, ReportsDivergenceAtCrossLaneOperations) {
  SKIP_UNDER_SANITIZERS();
  EXPECT_EQ(run([](const void*) { lane_index() < 5 ? barrier() : wave_sync(); }, 64),
            "lanes of a wave diverge: lane 5 is at a wave barrier, others at a barrier");
  EXPECT_EQ(run(
                [](const void*) {
                  if (lane_index() != 9) ballot(true);
                },
                64),
            "lane 9 ended while others of its wave wait at a ballot");
  EXPECT_EQ(run(
                [](const void*) {
                  if (lane_index() != 0) ballot(true);
                },
                64),
            "lanes of a wave ended before lane 1 came to a ballot");
}

TEST(Emulator, WavesMayEndEarly) {
  SKIP_UNDER_SANITIZERS();
  const auto kernel = [](const void*) {
    if (wave_index() == 1) return;
    barrier();
    result.value[thread_index()] = 1;
  };
  ASSERT_EQ(run(kernel, 256), "");
  for (int t = 0; t < 256; ++t) EXPECT_EQ(result.value[t], t / 64 == 1 ? 0 : 1);
}

// ---- number formats, against the independent ones of the reference ------------------------------------------------

double reference_load(DType dtype, uint8_t bits) { return reference::load(dtype, &bits, 0); }

template <Format kFormat>
void check_fp8(DType dtype) {
  for (int bits = 0; bits < 256; ++bits) {
    const double expected = reference_load(dtype, static_cast<uint8_t>(bits));
    const float got = fp8_to_float<kFormat>(static_cast<uint32_t>(bits));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
    } else {
      EXPECT_EQ(got, expected) << bits;
    }
  }
  // Every value, every midpoint between neighbours and a bit beside it, and far outside.
  std::vector<float> values = {0.0f, -0.0f, 1e-30f, -1e-30f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
  for (int bits = 0; bits < 127; ++bits) {
    const double x = reference_load(dtype, static_cast<uint8_t>(bits)),
                 y = reference_load(dtype, static_cast<uint8_t>(bits + 1));
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    const auto middle = static_cast<float>((x + y) / 2);
    for (float v : {static_cast<float>(x), middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      values.push_back(v);
      values.push_back(-v);
    }
  }
  for (float x : values) {
    uint8_t expected = 0;
    reference::store(dtype, &expected, 0, static_cast<double>(x));
    EXPECT_EQ(float_to_fp8<kFormat>(x), expected) << x;
  }
}

TEST(Formats, Fp8) {
  check_fp8<Format::kE4M3FN>(DType::kF8E4M3FN);
  check_fp8<Format::kE4M3FNUZ>(DType::kF8E4M3FNUZ);
  check_fp8<Format::kE5M2>(DType::kF8E5M2);
}

TEST(Formats, SixteenBits) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double expected = reference::load(DType::kF16, &half, 0);
    if (std::isnan(expected)) continue;
    ASSERT_EQ(emulator::half_to_float(half), expected) << bits;
    // Values, and values moved to and past the midpoint of their neighbours.
    for (float factor : {1.0f, 1.00048828125f, 1.0004f, 1.0005f}) {
      const float x = static_cast<float>(expected) * factor;
      uint16_t want_half = 0, want_bf16 = 0;
      reference::store(DType::kF16, &want_half, 0, static_cast<double>(x));
      reference::store(DType::kBF16, &want_bf16, 0, static_cast<double>(x));
      ASSERT_EQ(emulator::float_to_half(x), want_half) << x;
      ASSERT_EQ(float_to_bf16(x), want_bf16) << x;
    }
  }
}

}  // namespace
}  // namespace sextant::hip
