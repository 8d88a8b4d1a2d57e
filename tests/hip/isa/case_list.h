// The cases that together execute nearly all machine code of a chip: one line of `verify --case` each, chosen by
// `sextant_machine_code choose`.
#pragma once

#include <string>
#include <vector>

#include "verify/case.h"
#include "verify/random/random_case.h"

namespace sextant::hip::isa {

std::string case_list_path(const std::string& architecture);
// Empty where there is no such file; a line that is no case is an error.
Result<std::vector<verify::RandomCase>> read_case_list(const std::string& path);

// Cases, for TRITON_ATTN, whose cache write finds the scales: the text of a random case cannot say that.
std::vector<verify::Case> scaled_write_cases();

}  // namespace sextant::hip::isa
