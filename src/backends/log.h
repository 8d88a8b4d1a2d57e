// Times a plan or a run and gives it to the log, where one is switched on.
#pragma once

#include <atomic>
#include <chrono>

#include "sextant/log.h"

namespace sextant {

extern std::atomic<bool> log_is_on;
void write_log(const LogEvent& event);

// call() with the event that it fills in: Status or Result.
template <class Call>
auto logged(LogEvent event, Call&& call) {
  if (!log_is_on.load(std::memory_order_relaxed)) return call(event);
  const auto start = std::chrono::steady_clock::now();
  auto result = call(event);
  event.host_us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  if constexpr (std::is_same_v<decltype(result), Status>)
    event.status = result;
  else if (!result)
    event.status = result.status();
  write_log(event);
  return result;
}

}  // namespace sextant
