// How many cores' time a container's processes get.
#pragma once

#include <optional>
#include <string>

namespace sextant::cpu {

// The smallest CPU quota, in cores, of the cgroups that `proc_self_cgroup` (the text of /proc/self/cgroup) names and of
// those above them, versions 1 and 2; none when nothing is limited. `root`: where cgroups are mounted.
std::optional<double> cpu_quota(const std::string& proc_self_cgroup, const std::string& root);

}  // namespace sextant::cpu
