// The axis vocabulary: every tensor in bezel is described in these words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace bezel::hooks {

enum class Axis : std::uint8_t {
  kBatch,
  kPos,     // token position
  kQPos,    // position of a query
  kKPos,    // position of a key
  kHead,    // query head
  kKvHead,  // key/value head
  kDHead,
  kDModel,
  kDMlp,
  kDPle,  // width of the per-layer embeddings
  kDVocab,
  kLayer,
  kExpert,
  kK,  // rank among the experts chosen for a token
  kDExpert,
  kOne,  // length 1
};

inline constexpr std::array<std::string_view, 16> kAxisWords = {
    "batch", "pos",   "q_pos",   "k_pos", "head",   "kv_head", "d_head",   "d_model",
    "d_mlp", "d_ple", "d_vocab", "layer", "expert", "k",       "d_expert", "1"};
inline constexpr std::size_t kNAxes = kAxisWords.size();

constexpr std::string_view to_string(Axis axis) {
  return kAxisWords[static_cast<std::size_t>(axis)];
}

/// Up to five axes, in order; made from words: "batch pos head d_head".
class AxisList {
 public:
  consteval AxisList(const char* words) {  // NOLINT(google-explicit-constructor): a table of words
    std::string_view rest(words);
    while (!rest.empty()) {
      const std::size_t end = rest.find(' ');
      axes_[size_++] = parse(rest.substr(0, end));
      rest = end == std::string_view::npos ? "" : rest.substr(end + 1);
    }
  }
  constexpr const Axis* begin() const { return axes_.data(); }
  constexpr const Axis* end() const { return axes_.data() + size_; }
  constexpr std::size_t size() const { return size_; }
  constexpr Axis operator[](std::size_t i) const { return axes_[i]; }

 private:
  static consteval Axis parse(std::string_view word) {
    for (std::size_t i = 0; i < kNAxes; ++i) {
      if (kAxisWords[i] == word) return static_cast<Axis>(i);
    }
    throw "no such axis";  // reached only while compiling
  }
  std::array<Axis, 5> axes_{};
  std::size_t size_ = 0;
};

}  // namespace bezel::hooks
