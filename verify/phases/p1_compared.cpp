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
// Axes of which a sample keeps its positions.
bool is_query(const std::string& axis) {
  return is_one_of(
      {"pos", "q_pos", "patch", "q_patch", "soft", "mel_frame", "half_frame", "frame", "chunk"},
      axis);
}
// The axis whose padding a value's axis has. Of scores and patterns keys count at padding, too: no
// query sees them, which both must say.
std::string padding_along(const std::string& axis, const ReferenceValue& reference) {
  const bool is_by_query = std::ranges::find(reference.axes, "q_pos") != reference.axes.end();
  if (axis == "k_pos") return is_by_query ? axis : "pos";
  if (axis == "q_pos") return "pos";
  return axis == "q_patch" ? "patch" : axis;
}

std::vector<std::size_t> all_of(std::size_t n) {
  std::vector<std::size_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// The places along an axis that the reference keeps.
std::vector<std::size_t> kept_places(const ReferenceValue& reference, std::size_t axis,
                                     std::size_t size) {
  if (!reference.sample) return all_of(size);
  const bool is_last = axis + 1 == reference.axes.size();
  const auto& [positions, dims, norm, sum] = *reference.sample;
  if (is_query(reference.axes[axis])) return {positions.begin(), positions.end()};
  return is_last ? std::vector<std::size_t>(dims.begin(), dims.end()) : all_of(size);
}

// Those of the n from `first` on, counted from there.
std::vector<std::size_t> inside(const std::vector<std::size_t>& places, std::size_t first,
                                std::size_t n) {
  std::vector<std::size_t> found;
  for (const std::size_t place : places) {
    if (place >= first && place < first + n) found.push_back(place - first);
  }
  return found;
}

/// Which elements of one row are compared: places in the run's value, and in the kept part of it.
struct Pairing {
  Kept got, want;
};

/// A row, and of sound the chunk that is looked at: what is padding differs from one to the next.
struct Group {
  std::size_t row = 0;
  std::size_t chunk = 0;  // as the reference counts those that it keeps
};

std::vector<Group> groups_of(const ReferenceValue& reference, at::IntArrayRef kept_shape) {
  const std::int64_t n_rows = is_row(reference.axes[0]) ? kept_shape[0] : 1;
  const auto chunk = std::ranges::find(reference.axes, "chunk") - reference.axes.begin();
  const std::int64_t n_chunks = chunk < std::ssize(reference.axes) ? kept_shape[chunk] : 1;
  std::vector<Group> groups;
  groups.reserve(static_cast<std::size_t>(n_rows * n_chunks));
  for (std::int64_t i = 0; i < n_rows * n_chunks; ++i) {
    groups.push_back(
        {static_cast<std::size_t>(i / n_chunks), static_cast<std::size_t>(i % n_chunks)});
  }
  return groups;
}

Pairing pair_up(const Case& input, Group at, const ReferenceValue& reference,
                at::IntArrayRef kept_shape) {
  Pairing pairing;
  std::size_t frame = 0;  // the first one of the chunk
  for (std::size_t axis = 0; axis < reference.axes.size(); ++axis) {
    const std::string& word = reference.axes[axis];
    const auto places = kept_places(reference, axis, kept_shape[axis]);
    if (word == "chunk") frame = places[at.chunk] * kept_shape[axis + 1];
    const auto padding = padding_along(word, reference);
    std::vector<std::size_t> got, want;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const bool is_kept = is_row(word)        ? i == at.row
                           : word == "chunk"   ? i == at.chunk
                           : word == "q_frame" ? input.is_valid("frame", at.row, frame + places[i])
                                               : input.is_valid(padding, at.row, places[i]);
      if (!is_kept) continue;
      got.push_back(places[i]);
      want.push_back(i);
    }
    pairing.got.push_back(std::move(got));
    pairing.want.push_back(std::move(want));
  }
  return pairing;
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
  place.reserve(index.size());
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

Compared compare_group(const at::Tensor& kept, const ReferenceValue& reference,
                       const Pairing& pairing, double tolerance) {
  if (reference.is_integer) {
    const auto first = first_difference(to_whole_xarray(picked(kept, pairing.want)),
                                        select(reference.integers, pairing.want));
    if (!first) return {};
    return {.error = INFINITY,
            .gap = INFINITY,
            .place = place_in(pairing.got, *first),
            .why = "another whole number"};
  }
  const auto found = compare(to_xarray(picked(kept, pairing.want)),
                             select(reference.numbers, pairing.want), tolerance);
  return {.error = found.relative_rms,
          .gap = std::sqrt(found.gap_squares),
          .size = std::sqrt(found.want_squares),
          .place = place_in(pairing.got, found.first_bad),
          .why = words_of(found)};
}

// Why the two cannot be compared; empty where they can.
std::string mismatch(at::IntArrayRef shape, const ReferenceValue& reference) {
  if (shape.size() != reference.axes.size()) {
    return "has " + std::to_string(shape.size()) + " axes, the reference " +
           std::to_string(reference.axes.size());
  }
  const auto& stored =
      reference.is_integer ? reference.integers.shape() : reference.numbers.shape();
  const bool fits = std::equal(shape.begin(), shape.end(), stored.begin(), stored.end());
  return fits ? "" : "has another shape than the reference";
}

}  // namespace

bool Case::is_valid(const std::string& axis, std::size_t row, std::size_t place) const {
  if (axis == "pos") return is_valid(row, place);
  const auto known = media.find(axis);
  if (known == media.end()) return true;
  return place < known->second.shape(1) && known->second(row, place) != 0;
}

Case case_of(const Bundle& bundle, const std::string& name) {
  return {.name = name, .mask = bundle.mask(name), .media = bundle.valid(name)};
}

at::Tensor kept_part(const at::Tensor& value, const ReferenceValue& reference, std::size_t first) {
  const std::vector<std::size_t> shape(value.sizes().begin(), value.sizes().end());
  if (!reference.sample || shape.size() != reference.axes.size()) return value;
  Kept kept;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    auto places = kept_places(reference, axis, shape[axis]);
    if (is_query(reference.axes[axis])) places = inside(places, first, shape[axis]);
    kept.push_back(std::move(places));
  }
  return picked(value, kept);
}

Compared compare_value(const Case& input, const at::Tensor& kept, const ReferenceValue& reference,
                       double tolerance) {
  if (const auto why = mismatch(kept.sizes(), reference); !why.empty()) {
    return {.error = INFINITY, .whole = INFINITY, .gap = INFINITY, .place = {}, .why = why};
  }
  Compared worst;
  double gap = 0, size = 0;
  for (const Group group : groups_of(reference, kept.sizes())) {
    auto one =
        compare_group(kept, reference, pair_up(input, group, reference, kept.sizes()), tolerance);
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
