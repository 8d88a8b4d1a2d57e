// The verbs. Each adds its subcommand and, when that is parsed, sets `action` to what it does; the action gives the
// exit code.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <functional>

namespace sextant::cli {

using Action = std::function<int()>;

void add_backends_verb(CLI::App& app, Action& action);
void add_select_verb(CLI::App& app, Action& action);
void add_bench_verb(CLI::App& app, Action& action);
void add_replay_verb(CLI::App& app, Action& action);
void add_verify_verb(CLI::App& app, Action& action);
void add_size_verb(CLI::App& app, Action& action);
void add_doctor_verb(CLI::App& app, Action& action);

}  // namespace sextant::cli
