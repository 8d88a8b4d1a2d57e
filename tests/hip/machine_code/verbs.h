// The verbs of sextant_machine_code; each gives the program's exit code.
#pragma once

#include <cstdint>
#include <string>

namespace sextant::hip::isa {

struct Arguments {
  std::string verb, architecture = "gfx942", objects, only, json;
  std::string covered;   // a file that keeps what earlier runs executed
  std::string cases;     // a list of cases; empty: the tests' own (case_list.h)
  double seconds = 1e9;  // of the sweep; random batches come after it
  double random_seconds = 0;
  uint64_t seed = 31;
  bool list = false;
};

int execute(const Arguments& arguments);
int choose(const Arguments& arguments);
int mutations(const Arguments& arguments);
int trace(const Arguments& arguments);

}  // namespace sextant::hip::isa
