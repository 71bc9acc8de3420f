// Example: which head carries the answer? Each head's output of one run is patched into another.
//
//   patch_heads tests/data/nano
//
// A sweep runs each patch from its block and its first changed position on; the rest comes from the
// corrupted run.
#include <ATen/ATen.h>

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "bezel/bezel.h"

namespace {

constexpr std::int64_t kHugo = 48, kMary = 31;
constexpr const char* kZ = "blocks.*.attn.hook_z";

// "<bos> When Hugo and Mary went to the shop , <giver> gave a drink to"
at::Tensor prompt(std::int64_t giver) {
  return at::tensor({2L, 4L, 48L, 7L, 31L, 8L, 9L, 10L, 63L, 11L, giver, 13L, 16L, 83L, 9L},
                    at::kLong)
      .unsqueeze(0);
}

double lead_of_hugo(const at::Tensor& logits) {
  const auto last = logits.select(1, -1)[0];
  return (last[kHugo] - last[kMary]).item<double>();
}

// The value of the corrupted run with one head's output of the clean run.
at::Tensor with_head(const at::Tensor& corrupted, const at::Tensor& clean, std::int64_t head) {
  auto patched = corrupted.clone();
  patched.select(2, head).copy_(clean.select(2, head));
  return patched;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: patch_heads MODEL_FOLDER\n";
    return 2;
  }
  const auto model = bezel::adapters::load(argv[1]);
  const auto clean = model.run_with_cache(prompt(kMary), {.names = {kZ}});
  const bezel::bridge::PatchSweep sweep(model, {.tokens = prompt(kHugo)}, {}, {kZ});
  const double high = lead_of_hugo(clean.output), low = lead_of_hugo(sweep.logits());
  std::printf("lead of Hugo: clean %.2f, corrupted %.2f; the share that each head restores:\n",
              high, low);
  for (const auto& [name, z] : clean.cache->items()) {
    std::vector<at::Tensor> cells;
    for (std::int64_t head = 0; head < z.size(2); ++head) {
      cells.push_back(with_head(sweep.value(name), z, head));
    }
    std::printf("%s:", name.c_str());
    for (const auto& logits : sweep.run(name, cells)) {
      std::printf(" %5.2f", (lead_of_hugo(logits) - low) / (high - low));
    }
    std::printf("\n");
  }
  return 0;
}
