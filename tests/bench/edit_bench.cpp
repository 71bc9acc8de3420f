// A plain forward and one with a C++ edit, in turn, for the table of edits:
//
//   edit_bench MODEL_FOLDER NAME SECONDS  →  {"forward from C++": ms, "one C++ edit": ms}
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "bezel/bezel.h"

namespace {

using Clock = std::chrono::steady_clock;

double ms_of(const std::function<void()>& run) {
  const auto start = Clock::now();
  run();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: edit_bench MODEL_FOLDER NAME SECONDS\n";
    return 2;
  }
  const c10::NoGradGuard no_gradients;
  const auto model = bezel::adapters::load(argv[1]);
  const auto tokens = at::randint(3, model.spec().d_vocab, {1, 256}, at::kLong);
  const auto steer = bezel::edit(std::string(argv[2]),
                                 [](const at::Tensor& value, const bezel::HookSite&) -> at::Tensor {
                                   value.select(1, -1).add_(1);
                                   return {};
                                 });
  const auto plain = [&] { model.run({.tokens = tokens}); };
  const auto edited = [&] { model.run({.tokens = tokens}, {.edits = {steer}}); };
  for (int warm_up = 0; warm_up < 2; ++warm_up) {
    plain();
    edited();
  }
  std::vector<double> plain_ms, edited_ms;
  const auto end = Clock::now() + std::chrono::duration<double>(std::stod(argv[3]));
  while (Clock::now() < end || plain_ms.size() < 5) {
    plain_ms.push_back(ms_of(plain));
    edited_ms.push_back(ms_of(edited));
  }
  std::printf("{\"forward from C++\": %.4f, \"one C++ edit\": %.4f}\n", median(plain_ms),
              median(edited_ms));
  return 0;
}
