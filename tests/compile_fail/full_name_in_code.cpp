// must not compile: no_such_hook_point
#include "bezel/hooks/hook_points.h"

// Code names rows; the layer is added where the tap is.
constexpr bezel::hooks::HookId id = "blocks.3.attn.hook_z";
