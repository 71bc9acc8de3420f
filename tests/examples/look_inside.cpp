// Example: run a model, look at what happened inside, change it, and let it go on.
//
//   look_inside tests/data/nano
//
// C++ takes token ids; Python's b.to_tokens(text) shows them.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <iostream>

#include "bezel/bezel.h"

namespace {

// "<bos> When Hugo and Mary went to the shop , Mary gave a drink to"
const std::vector<std::int64_t> kPrompt = {2, 4, 48, 7, 31, 8, 9, 10, 63, 11, 31, 13, 16, 83, 9};
constexpr std::int64_t kHugo = 48, kMary = 31;

// logits [batch pos d_vocab]
double lead_of_hugo(const at::Tensor& logits) {
  const auto last = logits.select(1, -1)[0];
  return (last[kHugo] - last[kMary]).item<double>();
}

void print_continuation(const char* what, const bezel::bridge::Generated& generated,
                        std::int64_t n_prompt) {
  std::cout << what;
  const auto tokens = generated.tokens[0];
  for (std::int64_t i = n_prompt; i < tokens.size(0); ++i)
    std::cout << " " << tokens[i].item<int>();
  std::cout << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: look_inside MODEL_FOLDER\n";
    return 2;
  }
  const c10::NoGradGuard no_gradients;
  const auto model = bezel::adapters::load(argv[1]);
  const auto tokens = at::tensor(kPrompt, at::kLong).unsqueeze(0);

  // Every name that matches is kept; a name that does not exist is refused before the run.
  const auto [logits, cache, valid] =
      model.run_with_cache(tokens, {.names = {"blocks.*.attn.hook_pattern"}});
  const auto pattern = cache->at("blocks.6.attn.hook_pattern");  // [batch head q_pos k_pos]
  std::cout << "lead of Hugo: " << lead_of_hugo(logits) << "\n"
            << "the last token of head 6.1 looks at token "
            << pattern[0][1][-1].argmax().item<int>() << "\n";

  // An edit: the function gets its own copy, and may write into it.
  const auto without_head = bezel::edit(
      "blocks.6.attn.hook_z", [](const at::Tensor& z, const bezel::HookSite&) -> at::Tensor {
        z.select(2, 1).zero_();
        return {};
      });
  const auto ablated = model.run({.tokens = tokens}, {.edits = {without_head}});
  std::cout << "lead without head 6.1: " << lead_of_hugo(ablated.output) << "\n";

  // The same edit in every step of a generation.
  const auto plain = bezel::bridge::generate(model, {.tokens = tokens}, {}, {.max_new_tokens = 4});
  const auto edited = bezel::bridge::generate(model, {.tokens = tokens}, {.edits = {without_head}},
                                              {.max_new_tokens = 4});
  print_continuation("goes on with", plain, tokens.size(1));
  print_continuation("and without the head with", edited, tokens.size(1));
  return 0;
}
