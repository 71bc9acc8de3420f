// must not compile: constant expression
#include "bezel/hooks/hook_points.h"

bezel::hooks::HookId id(const char* name) { return name; }
