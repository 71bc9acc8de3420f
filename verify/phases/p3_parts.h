// The parts of P3. Each appends its checks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "bezel/adapters/adapter.h"
#include "bezel/adapters/checkpoint/checkpoint.h"
#include "bezel/bridge/weights.h"
#include "bezel/verify/report.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// The checkpoint's files, and how its family names things.
struct ModelFiles {
  checkpoint::Checkpoint tensors;
  const adapters::Adapter& adapter;
  std::string prefix;  // of the text model's tensors

  static ModelFiles open(const std::filesystem::path& folder);
  /// Of "model.layers.3.mlp.down_proj.weight", 3; nullopt for towers and what no layer has.
  std::optional<int> layer_of(const std::string& name) const;
};

/// A stored tensor and the rows of a slot that come from it.
struct Source {
  std::string name;
  std::int64_t row, n_rows;
};
std::vector<Source> sources_of(const bridge::WeightSlot& slot, const ModelFiles& files);

/// What is wrong at one tensor or field.
struct Offence {
  std::string what;
  std::optional<int> layer{};
};

/// Passes without offences; names the first ones.
Check offence_check(std::string name, std::string unit, const std::vector<Offence>& offences);

/// Stored bytes of every tensor, config.json and generation_config.json against the bundle.
void fingerprint_checks(const Subject& subject, const ModelFiles& files, Phase& phase);
/// What the model lacks, what nothing reads, and whether it holds what the files store.
void inventory_checks(const Subject& subject, const ModelFiles& files, Phase& phase);
/// The head's tie; who reads whose keys and values.
void sharing_checks(const Subject& subject, const ModelFiles& files, Phase& phase);
/// Gains folded into the matrices behind them change no logit. Of models with more parameters, one
/// layer of each kind and the donors that they need are looked at: float64 takes 8 bytes for each.
inline constexpr std::int64_t kWholeParameters = 100'000'000;
void folding_checks(const Subject& subject, Phase& phase,
                    std::int64_t whole_parameters = kWholeParameters);
/// Products of the model's matrices are those of the files'.
void factor_checks(const Subject& subject, const ModelFiles& files, Phase& phase);

}  // namespace bezel::verify
