// The axis vocabulary: every tensor in bezel is described in these words.
#pragma once

#include <algorithm>
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
  kOne,       // length 1
  kImage,     // an image, or a frame of a video
  kPatch,     // of an image
  kQPatch,    // patch of a query
  kKPatch,    // patch of a key
  kDPatch,    // numbers of a patch: pixels by colours
  kDVision,   // width of the vision encoder
  kSoft,      // a soft token: what stands at one token's place in the text
  kAudio,     // a clip
  kMelFrame,  // 10 ms of a clip
  kMel,       // frequency band
  kHalfFrame,
  kHalfMel,
  kChannel0,  // after the first convolution
  kFrame,     // after the second: 40 ms, one soft token
  kQuarterMel,
  kChannel1,
  kDAudio,     // width of the audio encoder
  kDAudioOut,  // width of what its projector reads
  kDGlu,       // twice d_audio: a gated linear unit's two halves
  kChunk,      // frames that attend together
  kQFrame,     // frame of a query in its chunk
  kKFrame,     // frame of a key in the chunk's context
};

inline constexpr auto kAxisWords = std::to_array<std::string_view>(
    {"batch",     "pos",     "q_pos",       "k_pos",     "head",    "kv_head",     "d_head",
     "d_model",   "d_mlp",   "d_ple",       "d_vocab",   "layer",   "expert",      "k",
     "d_expert",  "1",       "image",       "patch",     "q_patch", "k_patch",     "d_patch",
     "d_vision",  "soft",    "audio",       "mel_frame", "mel",     "half_frame",  "half_mel",
     "channel_0", "frame",   "quarter_mel", "channel_1", "d_audio", "d_audio_out", "d_glu",
     "chunk",     "q_frame", "k_frame"});
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
  /// The same with one word for another.
  constexpr AxisList with(Axis old, Axis now) const {
    AxisList changed = *this;
    std::replace(changed.axes_.begin(), changed.axes_.begin() + size_, old, now);
    return changed;
  }

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
