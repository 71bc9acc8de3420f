// Images, videos and sound: what P7 and P8 share.
#pragma once

#include <string>
#include <vector>

#include "bezel/hooks/parts.h"
#include "bezel/verify/report.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {

/// Which tokens each block's attention shows, against plain loops over the ids and the
/// configuration: where images attend both ways, and where they do not.
void check_visible_tokens(const Subject& subject, const std::vector<std::string>& inputs,
                          Phase& phase);
/// Each name of an encoder and its projector: fires once, is neutral when kept, is recorded as it
/// was left, and acts on the logits of the tokens from its own on.
void check_encoder_hooks(const Subject& subject, const std::string& input, hooks::Part part,
                         Phase& phase);

}  // namespace bezel::verify
