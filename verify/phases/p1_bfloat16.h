// P1 in bfloat16: every name beside the float32 reference, measured by the reference's own error.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include <xtensor/xarray.hpp>

#include "bezel/verify/phases/p1_choices.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_logits.h"
#include "bezel/verify/phases/p1_run.h"
#include "bezel/verify/pooled_error.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// Gathers all cases, then judges: names in the order of execution, the logits, the losses.
class Bfloat16Parity {
 public:
  explicit Bfloat16Parity(const Subject& subject) : subject_(subject) {}

  void begin(const Case& input);
  /// `kept` is the part of the run's value that the reference keeps.
  void take(hooks::SiteRow at, const at::Tensor& kept, const ReferenceValue& reference);
  void take_logits(const std::string& what, const Likelihoods& found);
  void take_loss(Check check) { losses_.push_back(std::move(check)); }
  void finish(Phase& phase);

 private:
  struct Value {
    PooledError error;
    bool is_part = false;  // of the whole value, of which the reference's own error speaks
  };
  struct Logits {
    std::string what;
    Likelihoods ours;
    double own_kl = 0, own_top = 0;  // sums over the same positions
  };
  void take_choice(const std::string& name, const at::Tensor& value,
                   const ReferenceValue& reference);
  Check value_check(const std::string& name, const Value& value) const;
  std::vector<Check> logits_checks() const;

  const Subject& subject_;
  Case input_;
  std::map<std::string, double> own_;  // the reference's errors of the case at hand
  double own_kl_ = 0, own_top1_ = 0;
  std::map<std::string, Value> values_;          // by name
  std::map<std::string, OtherChoices> choices_;  // by name
  xt::xarray<float> probs_;                      // of the block at hand [batch pos expert]
  std::vector<Logits> logits_;
  std::vector<Check> losses_;
};

}  // namespace bezel::verify
