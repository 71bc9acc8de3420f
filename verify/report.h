// What a verification found: checks, in phases, in a report of one model.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace bezel::verify {

enum class Verdict : std::uint8_t { kPassed, kFailed, kSkipped };

/// One measured thing. It passes when measured <= tolerance (a NaN does not).
struct Check {
  std::string name{};  // "prose: blocks.3.attn.hook_z"
  double measured = 0, tolerance = 0;
  std::string unit{};  // what measured is: "relative RMS", "tokens" …
  std::optional<int> layer{};
  std::string why{};                 // of a skip; or what a person should know of a failure
  std::vector<std::size_t> place{};  // index of the first bad element in the value's axes
  bool is_required = true;
  bool is_skipped = false;

  Verdict verdict() const;
};

/// A phase passes when every check passed; one that was skipped and required makes it incomplete.
enum class PhaseVerdict : std::uint8_t { kPassed, kFailed, kIncomplete };

/// Who computed what in one block: "open" (torch, step by step), "library" (one call of torch's) or
/// "kernel" (bezel's own).
struct LayerPaths {
  int layer = 0;
  std::string attention{}, norms{}, gelu{};
};

struct Phase {
  std::string id{}, title{};  // "P1", "forward parity"
  std::vector<Check> checks{};
  std::vector<LayerPaths> paths{};  // of phases that compare paths: the automatic one's
  double seconds = 0;

  PhaseVerdict verdict() const;
  /// The first failed check, in the order of execution.
  const Check* origin() const;
};

struct Report {
  std::string model{}, dtype{}, device{}, versions{};
  std::string reference{};  // file name of the bundle, or empty
  std::vector<Phase> phases{};
  bool is_interrupted = false;

  bool passed() const;
};

std::string to_string(Verdict verdict);
std::string to_string(PhaseVerdict verdict);

/// The record: see verify/README.md for its schema.
nlohmann::json to_json(const Report& report);
/// Throws FormatError for JSON that is no record.
Report report_from_json(const nlohmann::json& record);
/// The same as text.
std::string to_text(const Report& report);
Report report_from_text(const std::string& text);

}  // namespace bezel::verify
