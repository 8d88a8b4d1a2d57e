#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "sextant/device.h"
#include "sextant/executor.h"

namespace sextant {
namespace {

TEST(ThreadPool, EveryIndexOnceOnAWorkerOfItsOwn) {
  for (int threads : {1, 2, 5}) {
    auto pool = make_thread_pool(threads);
    ASSERT_EQ(pool->concurrency(), threads);
    for (int64_t count : {0, 1, 2, 3, 64, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      std::vector<std::atomic<int>> busy(static_cast<size_t>(threads));
      std::atomic<int> overlaps{0};
      pool->parallel_for(count, [&](int64_t i, int worker) {
        if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) ++overlaps;
        ++calls[static_cast<size_t>(i)];
        busy[static_cast<size_t>(worker)].fetch_sub(1);
      });
      for (const auto& c : calls) EXPECT_EQ(c, 1);
      EXPECT_EQ(overlaps, 0);
    }
  }
}

TEST(ThreadPool, CallsInsideATaskRunOnItsWorker) {
  for (int threads : {1, 3}) {
    auto pool = make_thread_pool(threads);
    std::atomic<int> calls{0}, strangers{0};
    pool->parallel_for(8, [&](int64_t, int outer) {
      pool->parallel_for(5, [&](int64_t, int inner) {
        ++calls;
        if (inner != outer) ++strangers;
      });
    });
    EXPECT_EQ(calls, 40);
    EXPECT_EQ(strangers, 0);
  }
}

TEST(ThreadPool, HostThreadsTakeTurns) {
  auto pool = make_thread_pool(3);
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> hosts;
  hosts.reserve(4);
  for (int h = 0; h < 4; ++h)
    hosts.emplace_back([&] {
      for (int round = 0; round < 50; ++round) pool->parallel_for(20, [&](int64_t i, int) { sum += i; });
    });
  for (std::thread& host : hosts) host.join();
  EXPECT_EQ(sum, 4 * 50 * 190);
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 30; ++i) {
    std::atomic<int> calls{0};
    make_thread_pool(4)->parallel_for(i, [&](int64_t, int) { ++calls; });
    EXPECT_EQ(calls, i);
  }
}

TEST(ThreadPool, DeviceListShowsRealCores) {
  for (const DeviceReport& report : list_devices())
    if (report.kind == DeviceKind::kCpu) {
      EXPECT_EQ(report.devices.at(0).compute_units, usable_threads());
    }
}

}  // namespace
}  // namespace sextant
