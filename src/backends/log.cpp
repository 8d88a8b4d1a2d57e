// The log's sink and its lines.
#include "backends/log.h"

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

namespace sextant {

std::atomic<bool> log_is_on{false};

namespace {

std::mutex mutex;                     // of `sink` alone: a sink is called without it, so that it may set another
std::shared_ptr<const LogSink> sink;  // NOLINT(cert-err58-cpp): empty

}  // namespace

void set_log(LogSink given) {
  auto next = given ? std::make_shared<const LogSink>(std::move(given)) : nullptr;
  const std::lock_guard lock(mutex);
  log_is_on.store(next != nullptr, std::memory_order_relaxed);
  sink = std::move(next);
}

void write_log(const LogEvent& event) {
  std::shared_ptr<const LogSink> to;
  {
    const std::lock_guard lock(mutex);
    to = sink;
  }
  if (to) (*to)(event);
}

std::string to_json(const LogEvent& event) {
  nlohmann::ordered_json line;
  line["event"] = event.kind == LogEvent::Kind::kPlan ? "plan" : "run";
  line["backend"] = event.backend->info().name;
  const BatchMetadata& batch = event.request->batch;
  line["requests"] = batch.num_requests();
  line["tokens"] = batch.query_start_loc.empty() ? 0 : batch.num_tokens();
  if (event.plan != nullptr) {
    if (event.kind == LogEvent::Kind::kPlan) line["steps"] = event.plan->steps();
    line["workspace_bytes"] = event.plan->workspace_bytes();
  }
  line["host_us"] = event.host_us;
  line["error"] = nullptr;
  if (!event.status.is_ok()) line["error"] = event.status.message();
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace sextant
