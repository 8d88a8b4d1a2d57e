#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "devices/cpu/cgroup_quota.h"
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

void stay_on(const cpu_set_t& cores) { ASSERT_EQ(sched_setaffinity(0, sizeof(cores), &cores), 0); }

// Runs task(worker) on the caller and on one worker, which wait for each other.
void on_both(Executor& pool, const std::function<void(int)>& task) {
  std::atomic<int> arrived{0};
  pool.parallel_for(2, [&](int64_t, int worker) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
    task(worker);
  });
}

TEST(ThreadPool, AWorkerLeavesTheCallersCore) {
  cpu_set_t all, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "one core";
  auto pool = make_thread_pool(2);
  on_both(*pool, [](int) {});  // the worker may use all cores
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  stay_on(one);
  on_both(*pool, [&](int worker) {
    if (worker != 0) stay_on(one);  // as a scheduler may put it
  });
  int core[2] = {-1, -1};
  on_both(*pool, [&](int worker) { core[worker] = sched_getcpu(); });
  stay_on(all);
  EXPECT_NE(core[0], core[1]);
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

TEST(ThreadPool, HostThreadsShareThePool) {
  for (int threads : {1, 3}) {
    auto pool = make_thread_pool(threads);
    std::vector<std::atomic<int>> busy(static_cast<size_t>(pool->workers()));
    std::atomic<int> overlaps{0};
    std::atomic<int64_t> sum{0};
    std::vector<std::thread> hosts;
    for (int h = 0; h < 40; ++h)  // more than there are places for
      hosts.emplace_back([&] {
        for (int round = 0; round < 50; ++round)
          pool->parallel_for(20, [&](int64_t i, int worker) {
            if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) ++overlaps;
            sum += i;
            busy[static_cast<size_t>(worker)].fetch_sub(1);
          });
      });
    for (std::thread& host : hosts) host.join();
    EXPECT_EQ(sum, 40 * 50 * 190);
    EXPECT_EQ(overlaps, 0);
  }
}

// Whether `done` comes true; the tests fail where they would wait for ever.
template <class Done>
bool wait_for(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return done();
}

TEST(ThreadPool, ACallDoesNotWaitForAnothersEnd) {
  for (int threads : {1, 2, 4}) {
    auto pool = make_thread_pool(threads);
    std::atomic<int> began{0}, small_calls{0};
    std::atomic<bool> in_time{true};
    std::thread host([&] {
      wait_for([&] { return began > 0; });
      for (int round = 0; round < 10; ++round) pool->parallel_for(2, [&](int64_t, int) { ++small_calls; });
    });
    pool->parallel_for(8, [&](int64_t, int) {
      ++began;
      if (!wait_for([&] { return small_calls == 20; })) in_time = false;
    });
    host.join();
    EXPECT_TRUE(in_time) << threads << " threads";
  }
}

// A worker leaves a call while other callers need the cores, and comes back.
TEST(ThreadPool, WorkersComeBackWhenACallerLeaves) {
  auto pool = make_thread_pool(2);
  std::atomic<bool> helped{false}, caller_left{false}, helped_again{false};
  std::thread host([&] {
    wait_for([&] { return helped.load(); });
    for (int round = 0; round < 100; ++round) pool->parallel_for(4, [](int64_t, int) {});
    caller_left = true;
  });
  pool->parallel_for(2000, [&](int64_t, int worker) {
    if (worker == 1) (caller_left ? helped_again : helped) = true;
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    while (!helped_again && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  host.join();
  EXPECT_TRUE(helped_again);
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 30; ++i) {
    std::atomic<int> calls{0};
    make_thread_pool(4)->parallel_for(i, [&](int64_t, int) { ++calls; });
    EXPECT_EQ(calls, i);
  }
}

size_t threads_of_this_process() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

TEST(ThreadPool, ThreadsStartAtTheFirstCall) {
  const size_t before = threads_of_this_process();
  auto pool = make_thread_pool(4);
  auto device = make_cpu_device({.executor = pool, .isa = {}});
  ASSERT_TRUE(device);
  pool->parallel_for(1, [](int64_t, int) {});
  EXPECT_EQ(threads_of_this_process(), before);
  pool->parallel_for(2, [](int64_t, int) {});
  EXPECT_EQ(threads_of_this_process(), before + 3);
}

// The child must not wait for threads or locks that stayed in its parent, even when a call was running there.
TEST(ThreadPool, AForkedChildHasThreadsOfItsOwn) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer allows no new threads after such a fork";
#endif
  auto pool = make_thread_pool(3);
  std::atomic<bool> stop{false};
  std::atomic<int> rounds{0};
  std::thread busy([&] {
    while (!stop) {
      pool->parallel_for(8, [](int64_t, int) {});
      ++rounds;
    }
  });
  while (rounds == 0) std::this_thread::yield();
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      std::atomic<int> calls{0};
      for (int round = 0; round < 3; ++round) pool->parallel_for(50, [&](int64_t, int) { ++calls; });
      _exit(calls == 150 ? 0 : 1);
    }
    int status = -1;
    for (int waits = 0; waitpid(child, &status, WNOHANG) == 0; ++waits) {
      ASSERT_LT(waits, 20000) << "the child hangs";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(status, 0);
  }
  stop = true;
  busy.join();
}

// A worker that sleeps through a call is not waited for: the second index is taken by whoever is awake.
TEST(ThreadPool, OneWorkerMayDoItAll) {
  auto pool = make_thread_pool(64);
  std::atomic<int> calls{0};
  for (int i = 0; i < 1000; ++i) pool->parallel_for(2, [&](int64_t, int) { ++calls; });
  EXPECT_EQ(calls, 2000);
}

TEST(CpuQuota, OfBothVersionsAndOfTheGroupsAbove) {
  const std::filesystem::path root = std::filesystem::temp_directory_path() / ("quota" + std::to_string(getpid()));
  const auto write = [&](const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  };
  EXPECT_FALSE(cpu::cpu_quota("0::/a/b\n", root));
  write("a/b/cpu.max", "max 100000\n");
  EXPECT_FALSE(cpu::cpu_quota("0::/a/b\n", root));
  write("a/cpu.max", "250000 100000\n");
  EXPECT_EQ(cpu::cpu_quota("0::/a/b\n", root), 2.5);
  write("a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(cpu::cpu_quota("0::/a/b\n", root), 0.5);
  write("cpu,cpuacct/c/cpu.cfs_quota_us", "-1\n");
  write("cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(cpu::cpu_quota("9:memory:/a/b\n2:cpu,cpuacct:/c\n", root));
  write("cpu,cpuacct/c/cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(cpu::cpu_quota("9:memory:/a/b\n2:cpu,cpuacct:/c\n", root), 3.0);
  write("cpu,cpuacct/cpu.cfs_quota_us", "100000\n");  // the container's own, whatever the host calls it
  write("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpu::cpu_quota("2:cpu,cpuacct:/docker/1234\n", root), 1.0);
  EXPECT_FALSE(cpu::cpu_quota("nonsense\n:\n", root));
  std::filesystem::remove_all(root);
}

TEST(ThreadPool, DeviceListShowsRealCores) {
  for (const DeviceReport& report : list_devices())
    if (report.kind == DeviceKind::kCpu) {
      EXPECT_EQ(report.devices.at(0).compute_units, usable_threads());
    }
}

}  // namespace
}  // namespace sextant
