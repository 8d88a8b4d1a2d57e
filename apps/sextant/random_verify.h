// sextant verify --random and --case.
#pragma once

#include <string>
#include <vector>

#include "sextant/backend.h"
#include "sextant/device.h"

namespace sextant::cli {

struct RandomArguments {
  bool random = false, small = false;
  std::string text;  // of one case
  double seconds = 60;
  int64_t cases = 0;
  std::vector<std::string> isas = {"all"};
};

int run_random_verify(Device& device, const std::vector<const Backend*>& backends, uint64_t seed,
                      const RandomArguments& arguments, bool json);

}  // namespace sextant::cli
