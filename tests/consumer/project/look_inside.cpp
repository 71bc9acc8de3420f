// The attention pattern of a model's first head: look_inside <folder of a Gemma 4 checkpoint>
#include <ATen/ATen.h>

#include <iostream>

#include "bezel/bezel.h"

int main(int, char** arguments) {
  const auto model = bezel::adapters::load(arguments[1]);
  const auto tokens = at::arange(4, at::kLong).unsqueeze(0);
  const auto run = model.run_with_cache(tokens, {.names = {"blocks.0.attn.hook_pattern"}});
  const auto pattern = run.cache->at("blocks.0.attn.hook_pattern");
  std::cout << "a pattern of layer 0: " << pattern.sizes() << '\n' << pattern[0][0] << '\n';
}
