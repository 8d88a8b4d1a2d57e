// How much of this machine others use, and a wait until that is little.
#pragma once

#include <optional>

namespace sextant::cli {

// Shares above this make times too long to be believed.
constexpr double kQuietShare = 0.1;

// What other processes, and the host of a virtual machine, take of the cores that this process may use.
class OthersMeter {
 public:
  OthersMeter();
  // Of the time since construction, from 0 to 1; none where the system does not tell.
  std::optional<double> share() const;

 private:
  struct Seconds {
    double all = 0, busy = 0, own = 0;
  };
  static std::optional<Seconds> now();
  std::optional<Seconds> start_;
};

// Returns as soon as others use at most kQuietShare, or after that many seconds. Gives the seconds it waited.
double wait_for_quiet(double at_most_seconds);

}  // namespace sextant::cli
