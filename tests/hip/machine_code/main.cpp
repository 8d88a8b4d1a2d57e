// sextant_machine_code: the kernels' machine code under the interpreter, at length.
//
//   sextant_machine_code execute   --architecture gfx942 [--random SECONDS]   the tests' cases, the conformance sweep;
//                                                                             what was executed
//   sextant_machine_code choose    --architecture gfx942 --seconds 600        draws cases for what is left, and writes
//                                                                             the list of the tests anew
//   sextant_machine_code mutations --architecture gfx942                      each wait and barrier left out by itself
//   sextant_machine_code trace     --architecture gfx942                      what a steady-state tile executes
//
// --objects FOLDER takes other code objects than those in the library (another compiler's), --only decode those of one
// source, --list says more, --json FILE writes what was found.
#include <cstdio>
#include <string>
#include <vector>

#include "hip/machine_code/verbs.h"

int main(int argc, char** argv) {
  using namespace sextant::hip::isa;
  Arguments arguments;
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (!words.empty()) arguments.verb = words[0];
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string next = i + 1 < words.size() ? words[i + 1] : "";
    if (words[i] == "--list") {
      arguments.list = true;
    } else if (words[i] == "--architecture") {
      arguments.architecture = next, ++i;
    } else if (words[i] == "--objects") {
      arguments.objects = next, ++i;
    } else if (words[i] == "--only") {
      arguments.only = next, ++i;
    } else if (words[i] == "--cases") {
      arguments.cases = next, ++i;
    } else if (words[i] == "--covered") {
      arguments.covered = next, ++i;
    } else if (words[i] == "--json") {
      arguments.json = next, ++i;
    } else if (words[i] == "--seconds") {
      arguments.seconds = std::stod(next), ++i;
    } else if (words[i] == "--seed") {
      arguments.seed = std::stoull(next), ++i;
    } else if (words[i] == "--random") {
      arguments.random_seconds = std::stod(next), ++i;
    } else {
      std::fprintf(stderr, "sextant_machine_code: unknown argument %s\n", words[i].c_str());
      return 2;
    }
  }
  if (arguments.verb == "execute") return execute(arguments);
  if (arguments.verb == "choose") return choose(arguments);
  if (arguments.verb == "mutations") return mutations(arguments);
  if (arguments.verb == "trace") return trace(arguments);
  std::fprintf(
      stderr,
      "usage: sextant_machine_code execute|choose|mutations|trace --architecture gfx90a|gfx942|gfx950\n"
      "         [--objects FOLDER] [--only SOURCE] [--seconds S] [--random S] [--seed N] [--list] [--json FILE]\n"
      "         [--cases FILE] [--covered FILE]\n");
  return 2;
}
