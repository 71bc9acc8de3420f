// Example: which head carries the answer? Each head's output of one run is patched into another.
//
//   patch_heads tests/data/nano
//
// Cells of block L begin at block L: what stands before it is the same for all of them, and comes
// from the cache of the corrupted run, with the values that later blocks read beside the stream.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "bezel/bezel.h"

namespace {

constexpr std::int64_t kHugo = 48, kMary = 31;

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

// The input of a run that begins at a block with what another run had there.
bezel::bridge::Input from_block(int layer, const at::Tensor& tokens,
                                const bezel::hooks::ActivationCache& cache) {
  bezel::bridge::Input input{.tokens = tokens, .start_at_layer = layer};
  input.embeddings = cache.at("blocks." + std::to_string(layer) + ".hook_resid_pre");
  for (const auto& [name, value] : cache.items()) {
    const bool beside = name == "ple.hook_inputs" || name.ends_with("attn.hook_rot_k") ||
                        name.ends_with("attn.hook_v_normed");
    if (beside) input.start_state[name] = value;
  }
  return input;
}

// How much of the way from the corrupted answer to the clean one head `head` of `layer` goes.
double patched(const bezel::bridge::Bridge& model, const bezel::bridge::Input& input,
               const std::string& name, std::int64_t head, const at::Tensor& clean) {
  const auto patch =
      bezel::edit(name, [&](const at::Tensor& z, const bezel::HookSite&) -> at::Tensor {
        z.select(2, head).copy_(clean.select(2, head));
        return {};
      });
  return lead_of_hugo(model.run(input, {.edits = {patch}}).output);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: patch_heads MODEL_FOLDER\n";
    return 2;
  }
  const c10::NoGradGuard no_gradients;
  const auto model = bezel::adapters::load(argv[1]);
  const auto clean = model.run_with_cache(prompt(kMary), {.names = {"blocks.*.attn.hook_z"}});
  const auto corrupted = model.run_with_cache(prompt(kHugo), {.names = {"*"}});
  const double high = lead_of_hugo(clean.output), low = lead_of_hugo(corrupted.output);
  std::printf("lead of Hugo: clean %.2f, corrupted %.2f; the share that each head restores:\n",
              high, low);
  for (int layer = 0; layer < model.spec().n_layers; ++layer) {
    const auto input = from_block(layer, prompt(kHugo), *corrupted.cache);
    const std::string name = "blocks." + std::to_string(layer) + ".attn.hook_z";
    std::printf("block %d:", layer);
    for (std::int64_t head = 0; head < model.spec().layers[layer].attention.n_heads; ++head) {
      const double lead = patched(model, input, name, head, clean.cache->at(name));
      std::printf(" %5.2f", (lead - low) / (high - low));
    }
    std::printf("\n");
  }
  return 0;
}
