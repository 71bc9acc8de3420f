// The phases, one file each in phases/.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "bezel/verify/report.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// P1: every name in every layer, the logits and the loss, against the reference.
void forward_parity(const Subject& subject, Phase& phase);
/// P2: every name fires once, edits act, gradients are right, exceptions leave nothing behind.
void hooks_hold(const Subject& subject, Phase& phase);
/// P3: the reference's weights and settings; what the files store; algebra that changes nothing.
void weights(const Subject& subject, Phase& phase);
/// P4: cached = uncached, batch = rows alone, the reference's continuation, where rows end.
void generation(const Subject& subject, Phase& phase);

/// P5: every name on the automatic path against the open one.
void paths_agree(const Subject& subject, Phase& phase);
/// P6: the same of the gradients.
void gradients_agree(const Subject& subject, Phase& phase);

/// P7: names of images and videos, where they stand in the text, and what follows them.
void images_and_videos(const Subject& subject, Phase& phase);
/// P8: the same of sound.
void sound(const Subject& subject, Phase& phase);

/// Says what is being done, and may throw to stop.
void announce(const Subject& subject, const std::string& what);
/// The same with the check's name; then the phase has it.
void add(const Subject& subject, Phase& phase, Check check);

/// What of a model a phase looks at; the others are not loaded for it.
enum class Looks : std::uint8_t { kAtText, kAtImages, kAtSound };

struct PhaseEntry {
  std::string_view id, title;
  Looks looks;
  bool needs_reference;
  void (*run)(const Subject& subject, Phase& phase);  // adds its checks as they are done
};

inline constexpr std::array kPhases = {
    PhaseEntry{"P1", "forward parity", Looks::kAtText, true, &forward_parity},
    PhaseEntry{"P2", "hooks", Looks::kAtText, false, &hooks_hold},
    PhaseEntry{"P3", "weights", Looks::kAtText, false, &weights},
    PhaseEntry{"P4", "generation", Looks::kAtText, false, &generation},
    PhaseEntry{"P5", "open against fused: forward", Looks::kAtText, false, &paths_agree},
    PhaseEntry{"P6", "open against fused: gradients", Looks::kAtText, false, &gradients_agree},
    PhaseEntry{"P7", "images and videos", Looks::kAtImages, true, &images_and_videos},
    PhaseEntry{"P8", "sound", Looks::kAtSound, true, &sound},
};

}  // namespace bezel::verify
