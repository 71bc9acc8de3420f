#include "bezel/bridge/argument.h"

#include <ATen/ATen.h>

#include <sstream>

#include "bezel/hooks/error.h"

namespace bezel::bridge::argument {

std::string describe(const at::Tensor& value) {
  std::ostringstream text;
  text << value.scalar_type() << " " << value.sizes();
  return text.str();
}

void refuse(const std::string& argument, const at::Tensor& got, const std::string& want) {
  throw ArgumentError(argument + " is " + describe(got) + "; wanted " + want);
}

bool is_integer(const at::Tensor& value) {
  return at::isIntegralType(value.scalar_type(), /*includeBool=*/false);
}

}  // namespace bezel::bridge::argument
