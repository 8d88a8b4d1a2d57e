// Asks every backend, ranks those that serve a spec, and says why.
#include "sextant/selector.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "select/preference.h"
#include "types/near_miss.h"

extern char** environ;  // POSIX

namespace sextant {
namespace {

std::string joined(const std::vector<std::string>& reasons) { return fmt::format("{}", fmt::join(reasons, "; ")); }

struct Explicit {
  std::string name;
  std::string source;
};

std::optional<Explicit> explicit_choice(const SelectRequest& request) {
  if (request.backend) return Explicit{*request.backend, "argument"};
  if (!request.read_environment) return std::nullopt;
  const char* value = std::getenv(kBackendVariable);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return Explicit{value, kBackendVariable};
}

// The cache as a backend of the model's category has it.
KvCacheSpec cache_of_category(const Device& device, const SelectRequest& request) {
  const BackendCategory category = request.spec.mla.enabled() ? BackendCategory::kMla : BackendCategory::kMha;
  const auto backends = all_backends();
  const auto of_category = [&](const Backend* b) { return b->info().category == category; };
  return with_layout(request.cache, **std::find_if(backends.begin(), backends.end(), of_category), device.info());
}

// All six with every reason against them; none chosen yet.
std::vector<Candidate> examine(const Device& device, const SelectRequest& request) {
  std::vector<Candidate> candidates;
  for (const Backend* backend : all_backends())
    candidates.push_back(
        {backend->info().name, false,
         backend->reasons_against(request.spec, with_layout(request.cache, *backend, device.info()), device)});
  return candidates;
}

Candidate& candidate_named(std::vector<Candidate>& candidates, std::string_view name) {
  return *std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& c) { return c.name == name; });
}

// Marks the first servable backend of the preference order; the others learn what beat them.
void choose_automatically(const Device& device, const SelectRequest& request, std::vector<Candidate>& candidates) {
  const Preference* chosen = nullptr;
  const std::vector<Preference> order = preference_order(device.info(), request);
  for (const Preference& preference : order) {
    Candidate& candidate = candidate_named(candidates, preference.name);
    if (!candidate.reasons.empty()) continue;
    if (chosen == nullptr) {
      chosen = &preference;
      candidate.chosen = true;
      candidate.reasons = {"first choice on " + std::string(to_string(device.info().kind)) + ": " + preference.why};
    } else {
      candidate.reasons = {fmt::format("can serve this, but {} comes first: {}", chosen->name, preference.why)};
    }
  }
}

void choose_explicitly(const Explicit& choice, std::vector<Candidate>& candidates) {
  for (Candidate& candidate : candidates) {
    if (candidate.name == choice.name) {
      candidate.chosen = candidate.reasons.empty();
      if (candidate.chosen) candidate.reasons = {fmt::format("asked for by {}", choice.source)};
    } else if (candidate.reasons.empty()) {
      candidate.reasons = {fmt::format("can serve this, but {} asks for {}", choice.source, choice.name)};
    }
  }
}

// "ATTN" is what the backends' own names say; in the variable's name it is a slip of more than a few letters.
std::string spelled_out(std::string_view name) {
  constexpr std::string_view kShort = "ATTN", kLong = "ATTENTION";
  std::string text(name);
  const size_t at = text.find(kShort);
  return at == std::string::npos ? text : text.replace(at, kShort.size(), kLong);
}

}  // namespace

std::vector<std::string> near_miss_warnings() {
  std::vector<std::string> warnings;
  const std::vector<std::string> known = {kBackendVariable};
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::string_view name = text.substr(0, text.find('='));
    if (name == kBackendVariable || !nearest(spelled_out(name), known)) continue;
    warnings.push_back(
        fmt::format("the environment sets {}, which nothing reads; did you mean {}?", name, kBackendVariable));
  }
  return warnings;
}

std::vector<Candidate> explain_candidates(const Device& device, const SelectRequest& request) {
  std::vector<Candidate> candidates = examine(device, request);
  if (const auto choice = explicit_choice(request))
    choose_explicitly(*choice, candidates);
  else
    choose_automatically(device, request, candidates);
  return candidates;
}

Result<Selection> select_backend(const Device& device, const SelectRequest& request) {
  SEXTANT_RETURN_IF_ERROR(validate(request.spec));
  SEXTANT_RETURN_IF_ERROR(validate(cache_of_category(device, request)));
  Selection selection;
  selection.warnings = near_miss_warnings();
  selection.source = "automatic";
  if (const auto choice = explicit_choice(request)) {
    selection.source = choice->source;
    auto backend = find_backend(choice->name);
    if (!backend) return Status(backend.status().code(), choice->source + ": " + backend.status().message());
    selection.backend = *backend;
    const auto reasons = selection.backend->reasons_against(
        request.spec, with_layout(request.cache, *selection.backend, device.info()), device);
    if (!reasons.empty())
      return unsupported(
          fmt::format("{} asks for {}, which cannot serve this: {}", choice->source, choice->name, joined(reasons)));
  }
  selection.candidates = explain_candidates(device, request);
  for (const Candidate& candidate : selection.candidates)
    if (candidate.chosen) selection.backend = *find_backend(candidate.name);
  if (selection.backend != nullptr) return selection;
  std::string text = "no backend can serve this:";
  for (const Candidate& candidate : selection.candidates)
    text += fmt::format(" {}: {}.", candidate.name, joined(candidate.reasons));
  return unsupported(text);
}

}  // namespace sextant
