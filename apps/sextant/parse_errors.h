// What the command line's parser refuses, said as everywhere else: the field, its value and what is allowed.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <string>

namespace sextant::cli {

// An option that takes comma-separated words, and may be given more than once. An empty word is refused.
CLI::Option* add_list(CLI::App& verb, const std::string& name, std::vector<std::string>& values,
                      const std::string& help);

// A finite number from `low` to `high`.
CLI::Validator between(double low, double high);

// Prints the message on stderr, with a "did you mean" for words that are nearly known; gives the exit code.
int report_parse_error(CLI::App& app, const CLI::ParseError& error, int argc, char** argv);

}  // namespace sextant::cli
