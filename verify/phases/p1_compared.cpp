#include "bezel/verify/phases/p1_compared.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numeric>
#include <string_view>

#include "bezel/verify/compare.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {
namespace {

using Kept = std::vector<std::vector<std::size_t>>;  // places along each axis

bool is_one_of(std::initializer_list<std::string_view> words, const std::string& axis) {
  return std::ranges::find(words, axis) != words.end();
}
// Axes whose entries are compared by themselves: what is wrong in one of them stands out.
bool is_row(const std::string& axis) { return is_one_of({"batch", "image", "audio"}, axis); }
bool is_key(const std::string& axis) { return is_one_of({"k_pos", "k_patch", "k_frame"}, axis); }
// Axes of which a sample keeps its positions.
bool is_query(const std::string& axis) {
  return is_one_of(
      {"pos", "q_pos", "patch", "q_patch", "soft", "mel_frame", "half_frame", "frame", "chunk"},
      axis);
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

/// A row, and of sound the chunk that is looked at: what is padding differs from one to the next.
struct Group {
  std::size_t row = 0;
  std::size_t chunk = 0;  // as the reference counts those that it keeps
};

std::vector<std::size_t> places_along(std::size_t axis, std::size_t length,
                                      const ReferenceValue& reference) {
  const std::string& word = reference.axes[axis];
  std::vector<std::size_t> places = all_of(length);
  if (!reference.sample) return places;
  if (is_query(word)) {
    places.assign(reference.sample->positions.begin(), reference.sample->positions.end());
  } else if (axis + 1 == reference.axes.size() && !is_key(word)) {
    places.assign(reference.sample->dims.begin(), reference.sample->dims.end());
  }
  return places;
}

Pairing pair_up(const Case& input, Group at, const ReferenceValue& reference,
                const std::vector<std::size_t>& got_shape) {
  Pairing pairing;
  std::size_t frame = 0;  // the first one of the chunk
  for (std::size_t axis = 0; axis < reference.axes.size(); ++axis) {
    const std::string& word = reference.axes[axis];
    const auto places = places_along(axis, got_shape[axis], reference);
    if (word == "chunk") frame = places[at.chunk] * got_shape[axis + 1];
    std::vector<std::size_t> got, want;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const bool is_kept = is_row(word)      ? i == at.row
                           : word == "chunk" ? i == at.chunk
                           : word == "q_frame"
                               ? input.is_valid("frame", at.row, frame + places[i], 0)
                               : input.is_valid(word, at.row, places[i], got_shape[axis]);
      if (!is_kept) continue;
      got.push_back(places[i]);
      want.push_back(i);
    }
    pairing.got.push_back(std::move(got));
    pairing.want.push_back(std::move(want));
  }
  return pairing;
}

std::vector<Group> groups_of(const ReferenceValue& reference) {
  const auto& shape = reference.is_integer ? reference.integers.shape() : reference.numbers.shape();
  const std::size_t n_rows = is_row(reference.axes[0]) ? shape[0] : 1;
  const auto chunk = std::ranges::find(reference.axes, "chunk") - reference.axes.begin();
  const std::size_t n_chunks =
      chunk < std::ssize(reference.axes) ? shape[static_cast<std::size_t>(chunk)] : 1;
  std::vector<Group> groups;
  for (std::size_t i = 0; i < n_rows * n_chunks; ++i)
    groups.push_back({i / n_chunks, i % n_chunks});
  return groups;
}

// Taken where the value lies: of a large one, the whole would be copied for a few elements.
at::Tensor picked(at::Tensor value, const Kept& kept) {
  for (std::size_t axis = 0; axis < kept.size(); ++axis) {
    const auto dim = static_cast<std::int64_t>(axis);
    const auto n_kept = static_cast<std::int64_t>(kept[axis].size());
    if (n_kept == value.size(dim)) continue;
    const std::vector<std::int64_t> places(kept[axis].begin(), kept[axis].end());
    value = value.index_select(dim, at::tensor(places, at::kLong).to(value.device()));
  }
  return value;
}

std::vector<std::size_t> place_in(const Kept& kept, const std::vector<std::size_t>& index) {
  std::vector<std::size_t> place;
  for (std::size_t axis = 0; axis < index.size(); ++axis) place.push_back(kept[axis][index[axis]]);
  return place;
}

std::string words_of(const Comparison& comparison) {
  std::string words = "max |difference| " + std::to_string(comparison.max_abs) + ", cosine " +
                      std::to_string(comparison.cosine);
  if (comparison.n_nan > 0) words += ", " + std::to_string(comparison.n_nan) + " NaN";
  if (comparison.n_infinite > 0) {
    words += ", " + std::to_string(comparison.n_infinite) + " infinite";
  }
  return words;
}

Compared compare_group(const at::Tensor& value, const ReferenceValue& reference,
                       const Pairing& pairing, double tolerance) {
  if (reference.is_integer) {
    const auto first = first_difference(to_whole_xarray(picked(value, pairing.got)),
                                        select(reference.integers, pairing.want));
    if (!first) return {};
    return {.error = INFINITY,
            .gap = INFINITY,
            .place = place_in(pairing.got, *first),
            .why = "another whole number"};
  }
  const auto found = compare(to_xarray(picked(value, pairing.got)),
                             select(reference.numbers, pairing.want), tolerance);
  return {.error = found.relative_rms,
          .gap = std::sqrt(found.gap_squares),
          .size = std::sqrt(found.want_squares),
          .place = place_in(pairing.got, found.first_bad),
          .why = words_of(found)};
}

// Why the two cannot be compared; empty where they can.
std::string mismatch(const std::vector<std::size_t>& shape, const ReferenceValue& reference) {
  if (shape.size() != reference.axes.size()) {
    return "has " + std::to_string(shape.size()) + " axes, the reference " +
           std::to_string(reference.axes.size());
  }
  const auto& stored =
      reference.is_integer ? reference.integers.shape() : reference.numbers.shape();
  const bool fits = std::equal(shape.begin(), shape.end(), stored.begin(), stored.end());
  return reference.sample || fits ? "" : "has another shape than the reference";
}

}  // namespace

bool Case::is_valid(const std::string& axis, std::size_t row, std::size_t place,
                    std::size_t length) const {
  if (is_one_of({"pos", "q_pos", "k_pos"}, axis)) return is_valid(row, place);
  auto known = media.find(is_one_of({"q_patch", "k_patch"}, axis) ? "patch" : axis);
  if (known == media.end()) return true;
  // Without an encoder frames are those that were given.
  if (length != 0 && known->second.shape(1) != length) known = media.find("mel_frame");
  return place < known->second.shape(1) && known->second(row, place) != 0;
}

Case case_of(const Bundle& bundle, const std::string& name) {
  return {.name = name, .mask = bundle.mask(name), .media = bundle.valid(name)};
}

Compared compare_value(const Case& input, const at::Tensor& value, const ReferenceValue& reference,
                       double tolerance) {
  const std::vector<std::size_t> shape(value.sizes().begin(), value.sizes().end());
  if (const auto why = mismatch(shape, reference); !why.empty()) {
    return {.error = INFINITY, .whole = INFINITY, .gap = INFINITY, .place = {}, .why = why};
  }
  Compared worst;
  double gap = 0, size = 0;
  for (const Group group : groups_of(reference)) {
    auto one = compare_group(value, reference, pair_up(input, group, reference, shape), tolerance);
    gap = std::hypot(gap, one.gap);
    size = std::hypot(size, one.size);
    if (worst.place.empty() || one.error > worst.error) worst = std::move(one);
  }
  worst.gap = gap;
  worst.size = size;
  worst.whole = gap == 0 ? 0 : gap / size;
  return worst;
}

}  // namespace bezel::verify
