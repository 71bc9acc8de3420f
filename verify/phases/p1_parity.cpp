// P1: every name in every layer, the logits and the loss, against the reference.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "bezel/bridge/loss.h"
#include "bezel/verify/compare.h"
#include "bezel/verify/phases.h"

namespace bezel::verify {
namespace {

using hooks::SiteRow;
using Kept = std::vector<std::vector<std::size_t>>;  // places along each axis

/// One input: what was run, and which of its positions are text.
struct Case {
  std::string name;
  xt::xarray<std::int64_t> tokens, mask;  // [batch pos]

  std::size_t n_rows() const { return mask.shape(0); }
  bool is_valid(std::size_t row, std::size_t pos) const { return mask(row, pos) != 0; }
};

bool is_position(const std::string& axis) {
  return axis == "pos" || axis == "q_pos" || axis == "k_pos";
}

std::vector<std::size_t> all_of(std::size_t n) {
  std::vector<std::size_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

/// Which elements of one row are compared: places in the run's value, and in the reference's.
struct Pairing {
  Kept got, want;
};

Pairing pair_up(const Case& input, std::size_t row, const ReferenceValue& reference,
                const std::vector<std::size_t>& got_shape) {
  Pairing pairing;
  for (std::size_t axis = 0; axis < reference.axes.size(); ++axis) {
    const std::string& word = reference.axes[axis];
    const bool is_sampled_position = reference.sample && word != "k_pos" && is_position(word);
    const bool is_sampled_dim = reference.sample && axis + 1 == reference.axes.size();
    std::vector<std::size_t> places = all_of(got_shape[axis]);
    if (is_sampled_position) {
      places.assign(reference.sample->positions.begin(), reference.sample->positions.end());
    } else if (is_sampled_dim && !is_position(word)) {
      places.assign(reference.sample->dims.begin(), reference.sample->dims.end());
    }
    std::vector<std::size_t> got, want;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const bool is_kept = axis == 0           ? i == row
                           : is_position(word) ? input.is_valid(row, places[i])
                                               : true;
      if (!is_kept) continue;
      got.push_back(places[i]);
      want.push_back(i);
    }
    pairing.got.push_back(std::move(got));
    pairing.want.push_back(std::move(want));
  }
  return pairing;
}

std::vector<std::size_t> place_in(const Kept& kept, const std::vector<std::size_t>& index) {
  std::vector<std::size_t> place;
  for (std::size_t axis = 0; axis < index.size(); ++axis) place.push_back(kept[axis][index[axis]]);
  return place;
}

/// The worst row of a value.
struct Compared {
  double error = 0;
  std::vector<std::size_t> place;
  std::string why;
};

std::string words_of(const Comparison& comparison) {
  std::string words = "max |difference| " + std::to_string(comparison.max_abs) + ", cosine " +
                      std::to_string(comparison.cosine);
  if (comparison.n_nan > 0) words += ", " + std::to_string(comparison.n_nan) + " NaN";
  if (comparison.n_infinite > 0) {
    words += ", " + std::to_string(comparison.n_infinite) + " infinite";
  }
  return words;
}

Compared compare_row(const at::Tensor& value, const ReferenceValue& reference,
                     const Pairing& pairing, double tolerance) {
  if (reference.is_integer) {
    const auto first = first_difference(select(to_whole_xarray(value), pairing.got),
                                        select(reference.integers, pairing.want));
    if (!first) return {};
    return {INFINITY, place_in(pairing.got, *first), "another whole number"};
  }
  const auto comparison = compare(select(to_xarray(value), pairing.got),
                                  select(reference.numbers, pairing.want), tolerance);
  return {comparison.relative_rms, place_in(pairing.got, comparison.first_bad),
          words_of(comparison)};
}

Compared compare_value(const Case& input, const at::Tensor& value, const ReferenceValue& reference,
                       double tolerance) {
  const std::vector<std::size_t> shape(value.sizes().begin(), value.sizes().end());
  if (shape.size() != reference.axes.size()) {
    return {INFINITY,
            {},
            "has " + std::to_string(shape.size()) + " axes, the reference " +
                std::to_string(reference.axes.size())};
  }
  const auto& stored =
      reference.is_integer ? reference.integers.shape() : reference.numbers.shape();
  if (!reference.sample && !std::equal(shape.begin(), shape.end(), stored.begin(), stored.end())) {
    return {INFINITY, {}, "has another shape than the reference"};
  }
  Compared worst;
  for (std::size_t row = 0; row < input.n_rows(); ++row) {
    auto compared = compare_row(value, reference, pair_up(input, row, reference, shape), tolerance);
    if (worst.place.empty() || compared.error > worst.error) worst = std::move(compared);
  }
  return worst;
}

class ForwardParity {
 public:
  ForwardParity(const Subject& subject, Phase& phase) : subject_(subject), phase_(phase) {}

  void run(const std::string& name) {
    const Bundle& bundle = *subject_.bundle;
    input_ = {name, bundle.tokens(name), bundle.mask(name)};
    const auto names = names_in_order(name);
    hooks::Request request;
    for (const SiteRow at : names) request.names.emplace_back(full_name(at));
    const bridge::Input input{.tokens = to_tensor(input_.tokens),
                              .attention_mask = to_tensor(input_.mask)};
    const auto result = subject_.model.run(input, request);
    for (const SiteRow at : names) {
      check_value(at, result.cache->at(full_name(at)), bundle.value(name, full_name(at)));
    }
    check_logits(result.output, "logits");
    check_loss(result);
    // With nothing to record other kernels run.
    check_logits(subject_.model.run(input).output, "logits of a run that records nothing");
  }

 private:
  const std::string& full_name(SiteRow at) const { return subject_.model.inventory().name(at); }

  // What both have, in the order of execution; what only one has is a failed check.
  std::vector<SiteRow> names_in_order(const std::string& name) {
    const auto listed = subject_.bundle->names(name);
    std::set<std::string> referenced(listed.begin(), listed.end());
    std::vector<SiteRow> both;
    std::string missing;
    std::size_t n_missing = 0;
    for (const SiteRow at : subject_.model.inventory().rows()) {
      if (referenced.erase(full_name(at)) > 0) {
        both.push_back(at);
      } else if (at.point().access == hooks::Access::kEdit) {
        if (n_missing++ == 0) missing = full_name(at);
      }
    }
    add({.name = name + ": names that the reference lacks",
         .measured = static_cast<double>(n_missing),
         .unit = "names",
         .why = missing.empty() ? "" : "the first is " + missing});
    add({.name = name + ": names that the model lacks",
         .measured = static_cast<double>(referenced.size()),
         .unit = "names",
         .why = referenced.empty() ? "" : "the first is " + *referenced.begin()});
    return both;
  }

  void check_value(SiteRow at, const at::Tensor& value, const ReferenceValue& reference) {
    const double tolerance = subject_.tolerances.value;
    auto compared = compare_value(input_, value, reference, tolerance);
    add({.name = input_.name + ": " + full_name(at),
         .measured = compared.error,
         .tolerance = tolerance,
         .unit = "relative RMS",
         .layer = subject_.model.inventory().site(at.site).layer,
         .why = compared.error > tolerance ? compared.why : "",
         .place = compared.error > tolerance ? compared.place : std::vector<std::size_t>()});
  }

  void check_logits(const at::Tensor& logits, const std::string& what) {
    const auto want = subject_.bundle->logits(input_.name);
    const auto top = to_tensor(want.top_ids).to(logits.device());
    const auto got_top = to_xarray(logits.gather(-1, top));
    const auto got_sum = to_xarray(at::logsumexp(logits.to(at::kDouble), -1));
    double largest = 1, gap = 0, sum_gap = 0;
    std::vector<std::size_t> place;
    for (std::size_t row = 0; row < input_.n_rows(); ++row) {
      for (std::size_t pos = 0; pos < input_.mask.shape(1); ++pos) {
        if (!input_.is_valid(row, pos)) continue;
        for (std::size_t i = 0; i < want.top_ids.shape(2); ++i) {
          largest = std::max<double>(largest, std::abs(want.top_values(row, pos, i)));
          const double apart = std::abs(got_top(row, pos, i) - want.top_values(row, pos, i));
          if (!(apart <= gap)) {  // a NaN too
            gap = apart;
            place = {row, pos, static_cast<std::size_t>(want.top_ids(row, pos, i))};
          }
        }
        sum_gap =
            std::max<double>(sum_gap, std::abs(got_sum(row, pos) - want.log_sum_exp(row, pos)));
      }
    }
    const double tolerance = subject_.tolerances.logits;
    add({.name = input_.name + ": " + what + ", the highest",
         .measured = gap / largest,
         .tolerance = tolerance,
         .unit = "of the largest logit",
         .place = gap / largest <= tolerance ? std::vector<std::size_t>() : place});
    add({.name = input_.name + ": " + what + ", their log-sum-exp",
         .measured = sum_gap / largest,
         .tolerance = tolerance,
         .unit = "of the largest logit"});
  }

  void check_loss(const bridge::RunResult& result) {
    const double want = subject_.bundle->loss(input_.name);
    const auto tokens = to_tensor(input_.tokens).to(result.output.device());
    const auto got = bridge::mean_loss(result.output, tokens, result.valid).item<double>();
    add({.name = input_.name + ": loss",
         .measured = std::abs(got - want) / std::max(std::abs(want), 1e-30),
         .tolerance = subject_.tolerances.loss,
         .unit = "relative",
         .why = "got " + std::to_string(got) + ", the reference " + std::to_string(want)});
  }

  void add(Check check) { verify::add(subject_, phase_, std::move(check)); }

  const Subject& subject_;
  Phase& phase_;
  Case input_;
};

}  // namespace

void forward_parity(const Subject& subject, Phase& phase) {
  ForwardParity parity(subject, phase);
  for (const std::string& input : subject.bundle->cases()) parity.run(input);
}

}  // namespace bezel::verify
