// must not compile: no_such_hook_point
#include "bezel/hooks/hook_points.h"

constexpr bezel::hooks::HookId id = "attn.hook_zz";
