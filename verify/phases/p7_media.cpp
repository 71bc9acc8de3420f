// P7, images and videos; P8, sound.
#include "bezel/verify/phases/p7_media.h"

#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p1_parity.h"
#include "bezel/verify/phases/p4_generation.h"

namespace bezel::verify {
namespace {

void check_media(const Subject& subject, hooks::Part part, Phase& phase) {
  const auto inputs = subject.bundle->cases(phase.id);
  if (inputs.empty()) {
    add(subject, phase,
        {.name = "inputs of the reference",
         .why = subject.bundle->path().string() + " has none for this phase",
         .is_skipped = true});
    return;
  }
  check_parity(subject, inputs, phase);
  check_generation(subject, prompts_of(*subject.bundle, inputs), phase);
  check_visible_tokens(subject, inputs, phase);
  check_encoder_hooks(subject, inputs.front(), part, phase);
}

}  // namespace

void images_and_videos(const Subject& subject, Phase& phase) {
  check_media(subject, hooks::Part::kVision, phase);
}

void sound(const Subject& subject, Phase& phase) {
  check_media(subject, hooks::Part::kAudio, phase);
}

}  // namespace bezel::verify
