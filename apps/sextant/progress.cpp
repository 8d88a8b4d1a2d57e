// Draws the bar, at most a few times a second.
#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "table.h"

namespace sextant::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kRedrawEvery = std::chrono::milliseconds(100);
constexpr int64_t kBarWidth = 24;

}  // namespace

Progress::Progress(std::string label, int64_t total)
    : label_(std::move(label)),
      total_(total),
      visible_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      last_draw_(start_) {}

Progress::~Progress() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
}

void Progress::update(int64_t done, const std::string& detail) {
  const auto now = Clock::now();
  if (!visible_ || now - last_draw_ < kRedrawEvery) return;
  last_draw_ = now;
  drawn_ = true;
  const int64_t total = std::max<int64_t>(total_, 1), shown = std::clamp<int64_t>(done, 0, total);
  const int64_t filled = shown * kBarWidth / total;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double left = shown > 0 ? seconds * static_cast<double>(total - shown) / static_cast<double>(shown) : 0;
  std::string line = fmt::format("{} [{:=<{}}{: <{}}] {}/{}", label_, "", filled, "", kBarWidth - filled, shown, total);
  if (shown > 0) line += fmt::format("  {:.0f} s left", left);
  if (!detail.empty()) line += "  " + detail;
  const size_t width = terminal_width(stderr);
  if (width > 0 && line.size() >= width) line.resize(width - 1);
  fmt::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
}

}  // namespace sextant::cli
