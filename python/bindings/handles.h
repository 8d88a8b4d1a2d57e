// Numbered handles: Python holds integers, so a stale one raises an error instead of crashing the process.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "convert.h"

namespace sextant::python {

template <class T>
class HandleTable {
 public:
  explicit HandleTable(const char* what) : what_(what) {}

  int64_t add(std::shared_ptr<T> object) {
    const std::lock_guard<std::mutex> lock(mutex_);
    objects_[++last_] = std::move(object);
    return last_;
  }
  std::shared_ptr<T> get(int64_t handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = objects_.find(handle);
    if (it == objects_.end())
      raise(
          invalid_argument(std::string(what_) + " handle is " + std::to_string(handle) + "; allowed: a live " + what_));
    return it->second;
  }
  void remove(int64_t handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    objects_.erase(handle);
  }

 private:
  const char* what_;
  std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<T>> objects_;
  int64_t last_ = 0;
};

// Opens each device once a process and keeps it; the CPU's is made anew when the number of threads changes.
std::shared_ptr<Device> device_of(const std::string& kind, int64_t index);

}  // namespace sextant::python
