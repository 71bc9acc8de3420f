// must not compile: no_such_hook_point
#include "bezel/hooks/tap.h"

bool open(const bezel::hooks::Tap& tap) {
  return tap.any_edits({"attn.hook_z", "attn.hook_patern"});
}
