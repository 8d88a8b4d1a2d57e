// sextant backends: the six names on this machine.
#include <fmt/format.h>

#include "arguments.h"
#include "probe.h"
#include "sextant/selector.h"
#include "table.h"
#include "verbs.h"

namespace sextant::cli {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant backends            the table\n"
    "  sextant backends --json     [{name, category, enable, devices, ...}]";

// A backend against everything this machine has.
struct BackendRow {
  const Backend* backend;
  std::vector<std::string> devices;                          // where it runs
  std::vector<std::pair<std::string, std::string>> why_not;  // device, reason
  std::vector<std::vector<FeatureProbe>> features;           // on each of these devices
};

std::string joined(const std::vector<std::string>& texts, const char* separator = "; ") {
  return fmt::format("{}", fmt::join(texts, separator));
}

BackendRow examine(const Backend& backend, const std::vector<DeviceReport>& reports) {
  BackendRow row{&backend, {}, {}, {}};
  for (const DeviceReport& report : reports) {
    if (!report.available) {
      row.why_not.emplace_back(to_string(report.kind), report.reason);
      continue;
    }
    for (const DeviceInfo& info : report.devices) {
      const std::string name = device_name(info);
      auto device = open_device(info.kind, info.index);
      if (!device) {
        row.why_not.emplace_back(name, device.status().message());
        continue;
      }
      const auto reasons = reasons_against_plain(backend, **device);
      if (!reasons.empty()) {
        row.why_not.emplace_back(name, joined(reasons));
        continue;
      }
      row.features.push_back(probe_features(backend, **device));
      row.devices.push_back(name);
    }
  }
  return row;
}

Json to_json(const BackendRow& row) {
  const BackendInfo& info = row.backend->info();
  Json features = Json::array(), missing = Json::array(), why_not = Json::array(), by_device = Json::object();
  for (size_t i = 0; i < row.devices.size(); ++i)
    for (const FeatureProbe& probe : row.features[i]) {
      by_device[row.devices[i]][probe.feature] = probe.served;
      if (i > 0) continue;
      if (probe.served)
        features.push_back(probe.feature);
      else
        missing.push_back({{"feature", probe.feature}, {"reasons", probe.reasons}});
    }
  for (const auto& [device, reason] : row.why_not) why_not.push_back({{"device", device}, {"reason", reason}});
  return {{"name", info.name},      {"category", to_string(info.category)}, {"enable", info.enable()},
          {"devices", row.devices}, {"kernels", to_string(info.family)},    {"strategy", info.strategy},
          {"features", features},   {"features_missing", missing},          {"features_by_device", by_device},
          {"why_not", why_not}};
}

void print_rows(const std::vector<BackendRow>& rows) {
  Table table({{"category"}, {"name"}, {"kernels"}, {"devices"}, {"how to enable it"}});
  for (const BackendRow& row : rows) {
    const BackendInfo& info = row.backend->info();
    table.add_row({to_string(info.category), info.name, to_string(info.family),
                   row.devices.empty() ? "none" : joined(row.devices, ", "), info.enable()});
  }
  table.print();
  fmt::print("\n");
  Table features({{"name"}, {"strategy and features"}});
  for (const BackendRow& row : rows) {
    std::vector<std::string> served, missing;
    if (!row.features.empty())
      for (const FeatureProbe& probe : row.features.front()) (probe.served ? served : missing).push_back(probe.feature);
    std::string text = row.backend->info().strategy;
    if (!served.empty()) text += "\nserves: " + joined(served, ", ");
    if (!missing.empty()) text += "\ndoes not serve: " + joined(missing, ", ");
    features.add_row({row.backend->info().name, text});
  }
  features.print();
  // The same reason usually holds for all six: say it once.
  std::vector<std::string> said;
  for (const BackendRow& row : rows)
    for (const auto& [device, reason] : row.why_not) {
      const std::string text = fmt::format("not on {}: {}", device, reason);
      if (std::find(said.begin(), said.end(), text) == said.end()) said.push_back(text);
    }
  if (!said.empty()) fmt::print("\n{}\n", joined(said, "\n"));
}

int run_backends(bool json) {
  const std::vector<DeviceReport> reports = list_devices();
  std::vector<BackendRow> rows;
  for (const Backend* backend : all_backends()) rows.push_back(examine(*backend, reports));
  for (const std::string& warning : near_miss_warnings()) report_warning(warning);
  if (!json) {
    print_rows(rows);
    return kSuccess;
  }
  Json array = Json::array();
  for (const BackendRow& row : rows) array.push_back(to_json(row));
  print_json(array);
  return kSuccess;
}

}  // namespace

void add_backends_verb(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand(
      "backends", "The six backends on this machine: category, how to enable, devices, features, why not");
  auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->footer(kFooter);
  verb->callback([json, &action] { action = [json] { return run_backends(*json); }; });
}

}  // namespace sextant::cli
