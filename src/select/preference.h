// The automatic order of the backends, from measurements.
#pragma once

#include <string>
#include <vector>

#include "sextant/selector.h"

namespace sextant {

struct Preference {
  std::string name;
  std::string why;  // the measurement that puts it here
};

// Best first, for this device and traffic. Every backend of the spec's category is in the list.
std::vector<Preference> preference_order(const DeviceInfo& device, const SelectRequest& request);

}  // namespace sextant
