// A reference bundle: what Hugging Face transformers computes, written once by
// `bezel reference MODEL --out ref.h5`. No torch here: hooks/store and xtensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <xtensor/xarray.hpp>

#include "bezel/verify/bundle_file.h"

namespace bezel::verify {

/// Whole numbers by a word: of an argument, of an axis.
using NamedIntegers = std::map<std::string, xt::xarray<std::int64_t>>;

/// Images, videos and sound of one case, by the arguments of a run.
struct ReferenceMedia {
  std::map<std::string, xt::xarray<float>> numbers;
  NamedIntegers integers;  // places of patches, and what is padding of sound
};

/// The part of a large value that a bundle keeps, with a fingerprint of the whole.
struct Sample {
  std::vector<std::int64_t> positions;  // kept of pos, q_pos, patch, q_patch, frame, chunk …
  std::vector<std::int64_t> dims;       // kept of the last axis
  double norm = 0, sum = 0;             // of the whole value: root of the sum of squares, and sum
};

/// One named value of one case.
struct ReferenceValue {
  std::vector<std::string> axes;        // words of the hook table
  xt::xarray<float> numbers{};          // in full axes, or the sampled part
  xt::xarray<std::int64_t> integers{};  // instead, for indices
  bool is_integer = false;
  std::optional<Sample> sample{};
};

struct ReferenceLogits {
  xt::xarray<std::int64_t> top_ids;      // [batch pos n], the highest first
  xt::xarray<float> top_values;          // [batch pos n]
  xt::xarray<float> log_sum_exp;         // [batch pos]
  xt::xarray<std::int64_t> positions{};  // [n]: where the whole rows are
  xt::xarray<float> full{};              // [batch n d_vocab]
};

/// The float32 run that the reference's bfloat16 is held against: of the weights as bfloat16 rounds
/// them, or of those of the checkpoint, which gave this bundle's values.
enum class Against : std::uint8_t { kRounded, kStored };

/// The reference in bfloat16 beside itself in float32.
struct ReferenceBfloat16 {
  std::vector<std::string> names;
  xt::xarray<double> relative_rms;  // [name]
  double logits_relative_rms = 0, logits_kl = 0, top1 = 0;

  std::map<std::string, double> by_name() const;
};

struct ReferenceGreedy {
  xt::xarray<std::int64_t> tokens;  // [batch new]; pad behind a row's end
  xt::xarray<float> gap;            // [batch new]: highest logit less the next
};

struct ReferenceWeight {
  std::string name, dtype, shape;  // of the checkpoint
  std::uint64_t hash = 0;          // XXH3-64 of the stored bytes
};

class Bundle {
 public:
  /// Throws FormatError for a file that is no bundle, was cut or changed, or has another schema.
  explicit Bundle(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// config.json and generation_config.json of the checkpoint, as text.
  std::string config() const { return text("/meta", "config"); }
  std::string generation_config() const { return text("/meta", "generation_config"); }
  std::string versions() const { return text("/meta", "versions"); }
  std::vector<ReferenceWeight> weights() const;

  /// The inputs that a phase reads, in the order in which they were run: text is P1's.
  std::vector<std::string> cases(std::string_view phase = "P1") const;
  std::string about(const std::string& input) const;
  xt::xarray<std::int64_t> tokens(const std::string& input) const;  // [batch pos]
  xt::xarray<std::int64_t> mask(const std::string& input) const;    // [batch pos], 0 at padding
  ReferenceMedia media(const std::string& input) const;
  /// Beside the mask: by axis [image patch], [audio frame] …, 0 at padding.
  NamedIntegers valid(const std::string& input) const;
  std::vector<std::string> names(const std::string& input) const;  // of its values
  ReferenceValue value(const std::string& input, const std::string& name) const;
  ReferenceLogits logits(const std::string& input) const;
  double loss(const std::string& input) const;
  xt::xarray<float> loss_per_token(const std::string& input) const;  // [batch pos-1]
  ReferenceBfloat16 bfloat16(const std::string& input, Against against) const;
  ReferenceGreedy greedy(const std::string& input) const;

 private:
  std::string text(const std::string& object, const std::string& name) const {
    return file_.attribute<std::string>(object, name);
  }
  static std::string at(const std::string& input, const std::string& what);

  std::filesystem::path path_;
  BundleFile file_;
};

}  // namespace bezel::verify
