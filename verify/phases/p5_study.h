// P5 and P6: the same run on the open path and on the automatic one, each beside float64.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bezel/verify/phases/p1_choices.h"
#include "bezel/verify/phases/p5_trials.h"
#include "bezel/verify/pooled_error.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

using NamedValues = std::map<std::string, at::Tensor>;

struct PathRun {
  const bridge::Bridge& model;
  const Trial& trial;
  const TrialGivens& givens;
  bridge::Path path;
};

enum class Quantity : std::uint8_t { kValues, kGradients };

class PathStudy {
 public:
  /// What is compared, by name.
  using Ask =
      std::function<NamedValues(const PathRun& run, const std::vector<hooks::SiteRow>& rows)>;

  PathStudy(const Subject& subject, Quantity quantity, std::vector<Trial> trials);

  /// All trials; then a check for each name, in the order of the rows.
  void ask(const std::string& question, const std::vector<hooks::SiteRow>& rows, const Ask& ask,
           Phase& phase);

 private:
  /// A trial's answers: of the path under test, of the open path, and in float64 or nothing.
  struct Answers {
    NamedValues automatic, open, wide;
  };
  void take(const Trial& trial, const std::vector<hooks::SiteRow>& rows, const Answers& answers);
  void take_value(const Trial& trial, hooks::SiteRow at, const Answers& answers);
  void take_choice(const Trial& trial, const std::string& name, const Answers& answers);
  double own_error(const Trial& trial, hooks::SiteRow at, const Answers& answers,
                   const ReferenceValue& want);
  Check check_of(const std::string& name, const std::string& title);

  const Subject& subject_;
  Quantity quantity_;
  std::optional<bridge::Bridge> wide_;
  std::vector<Trial> trials_;
  std::map<std::string, PooledError> errors_;  // of one question, by name
  std::map<std::string, OtherChoices> choices_;
  std::map<int, double> largest_;  // the open path's own errors in a trial so far, by site
};

}  // namespace bezel::verify
