// must compile
#include "bezel/hooks/tap.h"

constexpr bezel::hooks::HookId id = "attn.hook_z";
at::Tensor named(const bezel::hooks::Tap& tap, const at::Tensor& z) {
  return tap("attn.hook_z", z);
}
bool open(const bezel::hooks::Tap& tap) {
  return tap.any_edits({"attn.hook_z", "attn.hook_pattern"});
}
