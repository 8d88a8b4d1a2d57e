#include "hip/isa/case_list.h"

#include <fstream>

namespace sextant::hip::isa {

std::string case_list_path(const std::string& architecture) {
  return std::string(SEXTANT_SOURCE_DIR) + "/tests/hip/machine_code/cases_" + architecture + ".txt";
}

Result<std::vector<verify::RandomCase>> read_case_list(const std::string& path) {
  std::vector<verify::RandomCase> cases;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty()) continue;
    auto parsed = verify::parse_random_case(line);
    if (!parsed) return parsed.status();
    cases.push_back(std::move(*parsed));
  }
  return cases;
}

}  // namespace sextant::hip::isa
