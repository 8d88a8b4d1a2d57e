#include "hip/isa/case_list.h"

#include <fstream>

#include "support/cases.h"

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

std::vector<verify::Case> scaled_write_cases() {
  std::vector<verify::Case> cases;
  for (const auto& [dtype, cache] :
       {std::pair{DType::kF32, DType::kI8}, std::pair{DType::kF16, DType::kF8E4M3FN},
        std::pair{DType::kBF16, DType::kF8E4M3FNUZ}, std::pair{DType::kBF16, DType::kF8E5M2}}) {
    verify::Case test = testing::make_case(testing::mha_spec(2, 1, 64, dtype), {{3, 5}, {1, 4}});
    test.cache_dtype = cache;
    test.scales = KvScales::kTokenHead;
    cases.push_back(test);
  }
  return cases;
}

}  // namespace sextant::hip::isa
