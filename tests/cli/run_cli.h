// Runs the tool as a user does.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace sextant::testing {

struct CliRun {
  int exit_code = -1;
  std::string out, err;
  nlohmann::json json() const { return nlohmann::json::parse(out, nullptr, /*allow_exceptions=*/false); }
};

inline std::string read_whole(const std::filesystem::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A folder of this process's own, removed at its end.
inline const std::filesystem::path& scratch_folder() {
  struct Folder {
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() { std::filesystem::remove_all(path); }
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("sextant_cli_tests_" + std::to_string(getpid()));
  };
  static const Folder kFolder;
  return kFolder.path;
}

// `environment` goes before the command: "VLLM_ATTENTION_BACKEND=ROCM_ATTN".
inline CliRun run_cli(const std::string& arguments, const std::string& environment = "") {
  const auto out = scratch_folder() / "out", err = scratch_folder() / "err";
  const std::string command = "env -u VLLM_ATTENTION_BACKEND " + environment + " '" SEXTANT_CLI "' " + arguments +
                              " >" + out.string() + " 2>" + err.string();
  const int status = std::system(command.c_str());
  CliRun run;
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  run.out = read_whole(out);
  run.err = read_whole(err);
  return run;
}

inline std::string write_file(const std::string& name, const std::string& text) {
  const auto path = scratch_folder() / name;
  std::ofstream(path, std::ios::binary) << text;
  return path.string();
}

}  // namespace sextant::testing
