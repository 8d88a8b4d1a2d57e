#include "hip/isa/runner.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "devices/hip/runtime/code_objects.h"

namespace sextant::hip::isa {
namespace {

// clang-22's objdump knows all three chips.
std::string disassemble(const std::string& bytes) {
  const std::string path = std::filesystem::temp_directory_path() / ("sextant_" + std::to_string(getpid()) + ".co");
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  const std::string command =
      "d=$(command -v llvm-objdump-22 || command -v llvm-objdump-19 || command -v llvm-objdump) && $d -d " + path +
      " 2>/dev/null";
  std::string text;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char buffer[65536];
    for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) text.append(buffer, n);
    pclose(pipe);
  }
  std::remove(path.c_str());
  return text;
}

}  // namespace

MachineCode::MachineCode(std::string architecture, const std::string& folder, const std::string& only)
    : architecture_(std::move(architecture)) {
  if (folder.empty()) {
    for (const CodeObject& object : code_objects())
      if (object.architecture == architecture_)
        add_object(std::string(object.kernels), {static_cast<const char*>(object.data), object.bytes},
                   object.kernels.starts_with(only));
    return;
  }
  const std::string ending = "_" + architecture_ + ".co";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!name.ends_with(ending)) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    add_object(name, {std::istreambuf_iterator<char>(file), {}}, name.starts_with(only));
  }
}

void MachineCode::add_object(const std::string&, std::string bytes, bool runs) {
  if (!runs) return;
  objects_.push_back(std::make_unique<std::string>(std::move(bytes)));
  std::istringstream lines(disassemble(*objects_.back()));
  std::string* listing = nullptr;
  for (std::string line; std::getline(lines, line);) {
    if (const size_t name = line.find(" <"); name != std::string::npos && line.ends_with(">:")) {
      auto& entry = listings_[line.substr(name + 2, line.size() - name - 4)];
      entry.second = objects_.back().get();
      listing = &entry.first;
    }
    if (listing != nullptr) listing->append(line).append("\n");
  }
}

Executed* MachineCode::find(const std::string& kernel) {
  if (const auto found = kernels_.find(kernel); found != kernels_.end()) return &found->second;
  const auto listing = listings_.find(kernel);
  if (listing == listings_.end()) return nullptr;
  Executed& made = kernels_[kernel];
  made.program = parse_program(listing->second.first, kernel, architecture_);
  if (made.program.fault.empty() && !read_descriptor(*listing->second.second, made.program))
    made.program.fault = kernel + " has no descriptor";
  if (change) change(made.program);
  made.machine = std::make_unique<Machine>(made.program);
  return &made;
}

void MachineCode::read_all() {
  for (const auto& [kernel, listing] : listings_) find(kernel);
}

std::shared_ptr<Device> MachineCode::device() {
  EmulatorOptions options;
  options.threads = 1;
  options.architecture = architecture_;
  options.override_kernel = [this](std::string_view name, int64_t workgroups, int threads,
                                   const void* params) -> std::optional<std::string> {
    Executed* kernel = find(std::string(name));
    if (kernel == nullptr) return std::nullopt;
    if (before_launch && before_launch(kernel->program, params, workgroups, threads)) return "";
    for (int64_t i = 0; i < workgroups; ++i)
      if (std::string fault = kernel->machine->run(params, static_cast<int>(i), threads); !fault.empty()) return fault;
    return "";
  };
  return make_emulated_device(options);
}

}  // namespace sextant::hip::isa
