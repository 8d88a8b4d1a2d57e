// A device whose kernels run from machine code: the objects of one architecture under the interpreter, inside the
// emulated device.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "devices/hip/emulator/emulated_device.h"
#include "hip/isa/machine.h"

namespace sextant::hip::isa {

// A kernel's instructions with what the runs so far did to them.
struct Executed {
  Program program;
  std::unique_ptr<Machine> machine;
};

class MachineCode {
 public:
  // `folder`: *_<architecture>.co files; empty: what is built into the library. Kernels of sources that do not begin
  // with `only` run under the emulator.
  explicit MachineCode(std::string architecture, const std::string& folder = "", const std::string& only = "");
  bool available() const { return !listings_.empty(); }

  std::shared_ptr<Device> device();
  const std::map<std::string, Executed>& kernels() const { return kernels_; }
  // All kernels of the objects, read but not run.
  void read_all();

  // Changes a kernel's program when it is first met.
  std::function<void(Program&)> change = {};
  // Called before each launch, with what it would run; true: that is done.
  std::function<bool(const Program&, const void* params, int64_t workgroups, int threads)> before_launch = {};

 private:
  struct Object {
    std::string_view bytes;
  };
  void add_object(const std::string& kernels, std::string bytes, bool runs);
  Executed* find(const std::string& kernel);

  std::string architecture_;
  std::vector<std::unique_ptr<std::string>> objects_;
  std::map<std::string, std::pair<std::string, const std::string*>> listings_;  // kernel: its text and object
  std::map<std::string, Executed> kernels_;
};

}  // namespace sextant::hip::isa
