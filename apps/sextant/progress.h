// A progress bar on stderr, only when that is a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace sextant::cli {

class Progress {
 public:
  Progress(std::string label, int64_t total);
  ~Progress();  // wipes the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `detail` follows the bar: "TRITON_ATTN", "step 12".
  void update(int64_t done, const std::string& detail = "");
  void set_total(int64_t total) { total_ = total; }

 private:
  std::string label_;
  int64_t total_;
  bool visible_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_draw_;
};

}  // namespace sextant::cli
