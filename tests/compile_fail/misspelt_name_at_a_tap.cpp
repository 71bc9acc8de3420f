// must not compile: no_such_hook_point
#include "bezel/hooks/tap.h"

at::Tensor named(const bezel::hooks::Tap& tap, const at::Tensor& z) { return tap("attn.hok_z", z); }
