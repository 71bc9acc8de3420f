// How a run's arguments are refused.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace bezel::bridge::argument {

/// "Long [2, 5]"
std::string describe(const at::Tensor& value);
/// Throws ArgumentError "tokens is Long [2, 5]; wanted …".
[[noreturn]] void refuse(const std::string& argument, const at::Tensor& got,
                         const std::string& want);
bool is_integer(const at::Tensor& value);

}  // namespace bezel::bridge::argument
