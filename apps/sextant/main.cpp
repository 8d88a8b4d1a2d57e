// sextant: attention backends compared, chosen, measured and checked from the command line.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "arguments.h"
#include "sextant/selector.h"
#include "types/near_miss.h"
#include "verbs.h"

namespace {

using namespace sextant::cli;

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant doctor                                 what this machine has and what is missing\n"
    "  sextant select --model Llama-3.1-8B            which backend, and why not the others\n"
    "  sextant bench --batch q3616s20000,32q1s1k      how fast each backend is here\n"
    "  sextant replay                                 real traffic shapes through every backend\n"
    "Every verb takes --json (docs/json.md). Exit status: 0 success, 1 failure, 2 wrong usage or input.";

// CLI11 says which word it did not expect; say which verb it may have been.
int report_parse_error(CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
  fmt::print(stderr, "sextant: {}\n", error.what());
  const bool verb_given = !app.get_subcommands().empty();
  std::vector<std::string> known;
  if (verb_given) {
    for (const CLI::Option* option : app.get_subcommands().front()->get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  } else {
    for (const CLI::App* verb : app.get_subcommands({})) known.push_back(verb->get_name());
  }
  for (int i = 1; i < argc; ++i) {
    const std::string word(argv[i]);
    const auto near = sextant::nearest(word.substr(0, word.find('=')), known);
    if (near && *near != word.substr(0, word.find('=')))
      fmt::print(stderr, "sextant: {}: did you mean {}?\n", word, *near);
  }
  fmt::print(stderr, "sextant: see sextant {}--help\n",
             verb_given ? app.get_subcommands().front()->get_name() + " " : "");
  return kBadUsage;
}

int run(int argc, char** argv) {
  CLI::App app{"Six attention backends over one paged KV cache: compared, chosen, measured, checked.", "sextant"};
  app.set_version_flag("--version", std::string("sextant ") + SEXTANT_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  Action action;
  add_backends_verb(app, action);
  add_select_verb(app, action);
  add_bench_verb(app, action);
  add_replay_verb(app, action);
  add_verify_verb(app, action);
  add_doctor_verb(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error, argc, argv);
  }
  return action();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {  // out of memory, or a fault of a library below
    fmt::print(stderr, "sextant: {}\n", error.what());
    return kFailure;
  }
}
