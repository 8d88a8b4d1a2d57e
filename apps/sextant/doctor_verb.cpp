// sextant doctor: what this machine has, what was built, what is missing and how to get it.
#include <fmt/format.h>

#include <cstdlib>

#include "arguments.h"
#include "devices/cpu/cpu_isa.h"
#include "machine.h"
#include "sextant/selector.h"
#include "table.h"
#include "verbs.h"

namespace sextant::cli {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant doctor\n"
    "  sextant doctor --json";

struct Variable {
  const char* name;
  const char* meaning;
};
// All that the library reads.
constexpr Variable kVariables[] = {
    {"VLLM_ATTENTION_BACKEND", "the backend that select and engines must use"},
    {cpu::kIsaVariable, "caps the CPU kernels: scalar, avx2, avx512, avx512_bf16, amx"},
};

struct Isa {
  std::string name;
  bool built, available;
};

struct Diagnosis {
  Machine machine;
  std::vector<Isa> isas;
  std::string portable_isa, tuned_isa;  // what the CPU device uses now
  Status isa_problem;
  std::vector<DeviceReport> devices;
  std::vector<std::string> advice;
  std::vector<std::string> warnings;
};

bool has_isa(const Diagnosis& d, const std::string& name) {
  for (const Isa& isa : d.isas)
    if (isa.name == name) return isa.available;
  return false;
}

void advise(Diagnosis& d) {
  if (!d.isa_problem.is_ok()) d.advice.push_back(d.isa_problem.message());
  for (const Isa& isa : d.isas)
    if (!isa.built)
      d.advice.push_back(fmt::format("{} kernels were not built: use an x86-64 compiler, GCC 12 or newer", isa.name));
  if (!has_isa(d, "amx"))
    d.advice.push_back(
        "no AMX: the matrix-unit kernels need a Sapphire Rapids or newer Xeon, and Linux 5.16 or newer; AVX-512 or "
        "AVX2 kernels run instead");
  for (const DeviceReport& report : d.devices)
    if (!report.available) d.advice.push_back(fmt::format("{}: {}", to_string(report.kind), report.reason));
  if (d.machine.threads < d.machine.threads_online)
    d.advice.push_back(fmt::format("this process may use {} of {} threads (affinity or a container's limit)",
                                   d.machine.threads, d.machine.threads_online));
}

Diagnosis diagnose() {
  Diagnosis d;
  d.machine = this_machine();
  for (const cpu::IsaInfo& isa : cpu::all_isas())
    d.isas.push_back({std::string(isa.name), isa.kernels != nullptr, isa.available});
  const char* asked = std::getenv(cpu::kIsaVariable);
  auto choice = cpu::choose_isa(asked == nullptr ? "" : asked, cpu::kIsaVariable);
  if (choice) {
    d.portable_isa = choice->portable_name;
    d.tuned_isa = choice->tuned_name;
  } else {
    d.isa_problem = choice.status();
  }
  d.devices = list_devices();
  d.warnings = near_miss_warnings();
  advise(d);
  return d;
}

Json to_json(const Diagnosis& d) {
  Json isas = Json::array(), devices = Json::array(), variables = Json::array();
  for (const Isa& isa : d.isas)
    isas.push_back({{"name", isa.name}, {"built", isa.built}, {"available", isa.available}});
  for (const DeviceReport& report : d.devices) {
    Json found = Json::array();
    for (const DeviceInfo& info : report.devices)
      found.push_back({{"device", device_name(info)},
                       {"name", info.name},
                       {"architecture", info.architecture},
                       {"compute_units", report.kind == DeviceKind::kCpu ? d.machine.threads : info.compute_units},
                       {"memory_bytes", info.memory_bytes},
                       {"tuned_kernels", info.has_tuned_kernels}});
    devices.push_back({{"kind", to_string(report.kind)},
                       {"built", report.built},
                       {"available", report.available},
                       {"reason", report.reason},
                       {"devices", found}});
  }
  for (const Variable& variable : kVariables) {
    const char* value = std::getenv(variable.name);
    variables.push_back({{"name", variable.name},
                         {"value", value == nullptr ? Json(nullptr) : Json(value)},
                         {"meaning", variable.meaning}});
  }
  return {{"version", SEXTANT_VERSION},
          {"machine", to_json(d.machine)},
          {"isa", isas},
          {"isa_portable", d.portable_isa},
          {"isa_tuned", d.tuned_isa},
          {"amx", has_isa(d, "amx")},
          {"devices", devices},
          {"environment", variables},
          {"warnings", d.warnings},
          {"advice", d.advice}};
}

void print_as_text(const Diagnosis& d) {
  const Machine& m = d.machine;
  Table machine({{"sextant"}, {SEXTANT_VERSION}});
  machine.add_row({"processor", m.cpu});
  machine.add_row({"threads", fmt::format("{} of {}", m.threads, m.threads_online)});
  std::vector<std::string> caches;
  caches.reserve(m.caches.size());
  for (const CacheLevel& level : m.caches) caches.push_back(fmt::format("{} {}", level.name, bytes_text(level.bytes)));
  machine.add_row({"caches", fmt::format("{}", fmt::join(caches, ", "))});
  machine.add_row(
      {"memory", fmt::format("{}, {} available", bytes_text(m.memory_bytes), bytes_text(m.available_bytes))});
  machine.add_row({"system", m.system});
  std::vector<std::string> isas;
  isas.reserve(d.isas.size());
  for (const Isa& isa : d.isas)
    isas.push_back(fmt::format("{} {}", isa.name, !isa.built ? "(not built)" : isa.available ? "yes" : "no"));
  machine.add_row({"instruction sets", fmt::format("{}", fmt::join(isas, ", "))});
  machine.add_row({"AMX", has_isa(d, "amx") ? "yes" : "no"});
  machine.add_row({"CPU kernels in use", fmt::format("portable {}, tuned {}", d.portable_isa, d.tuned_isa)});
  machine.print();

  fmt::print("\n");
  Table devices({{"device"}, {"built"}, {"usable"}, {"what"}});
  for (const DeviceReport& report : d.devices) {
    if (report.devices.empty())
      devices.add_row({to_string(report.kind), report.built ? "yes" : "no", "no", report.reason});
    for (const DeviceInfo& info : report.devices)
      devices.add_row({device_name(info), "yes", report.available ? "yes" : "no",
                       fmt::format("{} ({}), {} units, {}", info.name, info.architecture, info.compute_units,
                                   bytes_text(info.memory_bytes))});
  }
  devices.print();

  fmt::print("\n");
  Table variables({{"variable"}, {"value"}, {"meaning"}});
  for (const Variable& variable : kVariables) {
    const char* value = std::getenv(variable.name);
    variables.add_row({variable.name, value == nullptr ? "(not set)" : value, variable.meaning});
  }
  variables.print();
  if (d.advice.empty()) return;
  fmt::print("\nmissing, and how to get it\n");
  for (const std::string& line : d.advice) fmt::print("- {}\n", line);
}

}  // namespace

void add_doctor_verb(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("doctor", "What this machine has, what was built, what is missing and how to get it");
  auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->footer(kFooter);
  verb->callback([json, &action] {
    action = [json] {
      const Diagnosis diagnosis = diagnose();
      for (const std::string& warning : diagnosis.warnings) report_warning(warning);
      if (*json)
        print_json(to_json(diagnosis));
      else
        print_as_text(diagnosis);
      return kSuccess;
    };
  });
}

}  // namespace sextant::cli
