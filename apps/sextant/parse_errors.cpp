// Turns CLI11's errors into ours.
#include "parse_errors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "arguments.h"
#include "types/near_miss.h"

namespace sextant::cli {
namespace {

// The verb that was given, or null.
const CLI::App* given_verb(const CLI::App& app) {
  const auto verbs = app.get_subcommands();
  return verbs.empty() ? nullptr : verbs.front();
}

std::vector<std::string> known_words(CLI::App& app, const CLI::App* verb) {
  std::vector<std::string> known;
  if (verb == nullptr) {
    for (const CLI::App* one : app.get_subcommands({})) known.push_back(one->get_name());
    return known;
  }
  for (const CLI::Option* option : verb->get_options())
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  return known;
}

std::string missing_verb(CLI::App& app, int argc, char** argv) {
  std::string message = "the verb is missing";
  for (int i = 1; i < argc; ++i)
    if (argv[i][0] != '-') {
      message = fmt::format("the verb is \"{}\"", argv[i]);
      break;
    }
  message += "; allowed: ";
  for (const std::string& name : known_words(app, nullptr)) message += name + ", ";
  return message + "and in the Python package: report";
}

// CLI11: "Could not convert: --block-size = x".
std::string not_a_number(const CLI::App& verb, const std::string& text) {
  const size_t colon = text.find(": "), equals = text.find(" = ");
  if (colon == std::string::npos || equals == std::string::npos) return text;
  const std::string name = text.substr(colon + 2, equals - colon - 2);
  const CLI::Option* option = verb.get_option_no_throw(name);
  const bool whole = option == nullptr || option->get_type_name().rfind("FLOAT", 0) != 0;
  return fmt::format("{} is \"{}\"; allowed: {}", name, text.substr(equals + 3), whole ? "a whole number" : "a number");
}

std::string message_of(CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const CLI::App* verb = given_verb(app);
  std::string text = error.what();
  if (verb == nullptr) return missing_verb(app, argc, argv);
  if (dynamic_cast<const CLI::ConversionError*>(&error) != nullptr) return not_a_number(*verb, text);
  const size_t at = text.find(": is ");  // a validator's message behind CLI11's "name: "
  if (dynamic_cast<const CLI::ValidationError*>(&error) != nullptr && at != std::string::npos) text.erase(at, 1);
  return text;
}

}  // namespace

CLI::Option* add_list(CLI::App& verb, const std::string& name, std::vector<std::string>& values,
                      const std::string& help) {
  const auto split = [&values, name](const std::vector<std::string>& given) {
    std::vector<std::string> words;
    for (const std::string& text : given)
      for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
        end = text.find(',', begin);
        words.push_back(text.substr(begin, end == std::string::npos ? end : end - begin));
        if (words.back().empty())
          throw CLI::ValidationError(name, fmt::format("is \"{}\", whose word {} is empty; allowed: words with a comma "
                                                       "between two",
                                                       text, words.size()));
      }
    values = std::move(words);
    return true;
  };
  return verb.add_option(name, split, help)
      ->type_name("TEXT")
      ->default_str(fmt::format("{}", fmt::join(values, ",")))
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

CLI::Validator between(double low, double high) {
  const std::string range = fmt::format("{:.15g}..{:.15g}", low, high);
  const auto check = [low, high, range](std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool inside = end != text.c_str() && *end == '\0' && value >= low && value <= high;  // a NaN is nowhere
    return inside ? std::string() : fmt::format("is {}; allowed: {}", text, range);
  };
  return CLI::Validator(check, "in " + range);
}

int report_parse_error(CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
  fmt::print(stderr, "sextant: {}\n", message_of(app, error, argc, argv));
  const CLI::App* verb = given_verb(app);
  const std::vector<std::string> known = known_words(app, verb);
  for (int i = 1; i < argc; ++i) {
    const std::string word(argv[i]);
    const auto near = nearest(word.substr(0, word.find('=')), known);
    if (near && *near != word.substr(0, word.find('=')))
      fmt::print(stderr, "sextant: {}: did you mean {}?\n", word, *near);
  }
  fmt::print(stderr, "sextant: see sextant {}--help\n", verb != nullptr ? verb->get_name() + " " : "");
  return kBadUsage;
}

}  // namespace sextant::cli
