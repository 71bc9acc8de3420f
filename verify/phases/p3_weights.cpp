// P3: are they the same weights, read as they should be? Against the bundle's fingerprint, the
// checkpoint's own files, and algebra that must change nothing.
#include <algorithm>
#include <charconv>
#include <utility>

#include "bezel/adapters/checkpoint/config.h"
#include "bezel/adapters/checkpoint/config_reader.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

constexpr std::size_t kNamedOffences = 5;

}  // namespace

ModelFiles ModelFiles::open(const std::filesystem::path& folder) {
  const auto json = checkpoint::read_config(folder);
  const checkpoint::ConfigReader config(json, (folder / "config.json").string());
  const auto& adapter = adapters::adapter_for(config);
  ModelFiles files{checkpoint::Checkpoint::open(folder), adapter, ""};
  for (const adapters::Prefixes& prefixes : adapter.prefixes) {
    if (files.tensors.find(prefixes.text + adapter.embed) == nullptr) continue;
    files.prefix = prefixes.text;
    break;
  }
  return files;
}

std::optional<int> ModelFiles::layer_of(const std::string& name) const {
  const std::string start = prefix + "layers.";
  if (!name.starts_with(start)) return std::nullopt;
  int layer = 0;
  const auto read = std::from_chars(name.data() + start.size(), name.data() + name.size(), layer);
  return read.ec == std::errc() ? std::optional(layer) : std::nullopt;
}

Check offence_check(std::string name, std::string unit, const std::vector<Offence>& offences) {
  Check check{.name = std::move(name),
              .measured = static_cast<double>(offences.size()),
              .unit = std::move(unit)};
  for (std::size_t i = 0; i < std::min(offences.size(), kNamedOffences); ++i) {
    if (i > 0) check.why += "; ";
    check.why += offences[i].what;
  }
  if (offences.size() > kNamedOffences) {
    check.why += "; and " + std::to_string(offences.size() - kNamedOffences) + " more";
  }
  if (!offences.empty()) check.layer = offences.front().layer;
  return check;
}

void weights(const Subject& subject, Phase& phase) {
  const auto files = ModelFiles::open(subject.folder);
  fingerprint_checks(subject, files, phase);
  inventory_checks(subject, files, phase);
  sharing_checks(subject, files, phase);
  factor_checks(subject, files, phase);
  folding_checks(subject, phase);
}

}  // namespace bezel::verify
