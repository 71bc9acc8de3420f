#include <torch/csrc/utils/pybind.h>
#include <ATen/ATen.h>
PYBIND11_MODULE(_C, m) { m.def("twice", [](const at::Tensor& x) { return x * 2; }); }
