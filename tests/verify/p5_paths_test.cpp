// P5 and P6 pass on models that are right, say which path each block took, and find what a kernel
// computes wrongly: blamed on its name and the first block where it runs.
//
// The switch is the linker's, as in p2_hooks_test.cpp: kernels, and torch's attention, are called
// through the functions below, which a test can make wrong.
#include "bezel/verify/phases/p5_paths.h"

#include <c10/core/GradMode.h>

#include <string>

#include "bezel/bridge/ops/fused.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/subject.h"
#include "tests/bridge/tiny.h"

namespace fused = bezel::ops::fused;
using at::Tensor;
using fused::AttentionValues;
using fused::NormInputs;
using fused::NormOutputs;
using fused::NormValues;
using MaybeTensor = std::optional<Tensor>;

Tensor real_gelu(const Tensor& gate,
                 const Tensor& up) asm("__real__ZN5bezel3ops5fused10gated_geluERKN2at6TensorES5_");
Tensor wrapped_gelu(const Tensor& gate, const Tensor& up) asm(
    "__wrap__ZN5bezel3ops5fused10gated_geluERKN2at6TensorES5_");
Tensor real_rotate(const Tensor& x, const bezel::ops::Rotation& rotation) asm(
    "__real__ZN5bezel3ops5fused6rotateERKN2at6TensorERKNS0_8RotationE");
Tensor wrapped_rotate(const Tensor& x, const bezel::ops::Rotation& rotation) asm(
    "__wrap__ZN5bezel3ops5fused6rotateERKN2at6TensorERKNS0_8RotationE");
Tensor real_vector(const Tensor& weight, const Tensor& x) asm(
    "__real__ZN5bezel3ops5fused13matrix_vectorERKN2at6TensorES5_");
Tensor wrapped_vector(const Tensor& weight, const Tensor& x) asm(
    "__wrap__ZN5bezel3ops5fused13matrix_vectorERKN2at6TensorES5_");
AttentionValues real_softmax(Tensor dots, const Tensor& mask) asm(
    "__real__ZN5bezel3ops5fused14masked_softmaxEN2at6TensorERKS3_");
AttentionValues wrapped_softmax(Tensor dots, const Tensor& mask) asm(
    "__wrap__ZN5bezel3ops5fused14masked_softmaxEN2at6TensorERKS3_");
NormValues real_norm(const NormInputs& inputs, double eps, NormOutputs outputs) asm(
    "__real__ZN5bezel3ops5fused8rms_normERKNS1_10NormInputsEdNS1_11NormOutputsE");
NormValues wrapped_norm(const NormInputs& inputs, double eps, NormOutputs outputs) asm(
    "__wrap__ZN5bezel3ops5fused8rms_normERKNS1_10NormInputsEdNS1_11NormOutputsE");
Tensor
real_attention(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& mask, double dropout, bool causal, std::optional<double> scale, bool gqa) asm(
    "__real__ZN2at4_ops28scaled_dot_product_attention4callERKNS_6TensorES4_S4_RKSt8optionalIS2_"
    "EdbS5_IdEb");
Tensor
wrapped_attention(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& mask, double dropout, bool causal, std::optional<double> scale, bool gqa) asm(
    "__wrap__ZN2at4_ops28scaled_dot_product_attention4callERKNS_6TensorES4_S4_RKSt8optionalIS2_"
    "EdbS5_IdEb");

namespace bezel::verify {
namespace {

enum class Wrong : std::uint8_t {
  kNothing,
  kGelu,           // in blocks with a wide MLP: from block 4 on
  kRotation,       // in full layers: 3 and 6
  kVector,         // of the wide MLP's first matrix
  kPattern,        // everywhere
  kNormalized,     // of the stream: everywhere
  kAttention,      // in full layers
  kAttentionBack,  // there, its gradient alone
};
Wrong& wrong() {
  static Wrong now = Wrong::kNothing;
  return now;
}

constexpr double kOff = 1 + 1e-4, kFarOff = 1.2;                     // in float32; in bfloat16
constexpr std::int64_t kFullHead = 16, kStream = 12, kWideMlp = 20;  // of tiny.h's models

template <class Function>
Phase phase_of(const bridge::Bridge& model, const Function& run) {
  const c10::NoGradGuard no_gradients;
  at::set_num_threads(1);  // tensors too small for more
  const Subject subject{.folder = "",
                        .model = model,
                        .bundle = std::nullopt,
                        .tolerances = tolerances(model.weights().embed.scalar_type(), at::kCPU),
                        .on_progress = {}};
  Phase phase{.id = "P5", .title = "", .checks = {}};
  run(subject, phase);
  return phase;
}

std::string words_of(const Phase& phase) {
  const Check* origin = phase.origin();
  if (origin == nullptr) return "nothing";
  return origin->name + ": " + std::to_string(origin->measured) + " (" + origin->why + ")";
}

class PathsAgree : public ::testing::TestWithParam<bridge::Variant> {};

TEST_P(PathsAgree, InEachDtypeForwardAndBackward) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const auto model = bridge::tiny_bridge(GetParam().spec(), type);
    for (const auto& phase : {phase_of(model, &paths_agree), phase_of(model, &gradients_agree)}) {
      EXPECT_EQ(phase.verdict(), PhaseVerdict::kPassed) << type << ": " << words_of(phase);
    }
  }
}

TEST_P(PathsAgree, EveryNameIsHeldAndEveryFloatingOnesGradient) {
  const auto model = bridge::tiny_bridge(GetParam().spec(), at::kFloat);
  std::map<std::string, std::optional<int>> held;
  for (const auto& phase : {phase_of(model, &paths_agree), phase_of(model, &gradients_agree)}) {
    for (const Check& check : phase.checks) held[phase.paths[0].gelu + check.name] = check.layer;
  }
  for (const hooks::SiteRow at : model.inventory().rows()) {
    const std::string& name = model.inventory().name(at);
    const auto layer = model.inventory().site(at.site).layer;
    ASSERT_TRUE(held.contains("kerneleverything recorded: " + name)) << name;
    EXPECT_EQ(held["kerneleverything recorded: " + name], layer);
    const bool is_split = name.ends_with("hook_q_input") || name.ends_with("hook_k_input") ||
                          name.ends_with("hook_v_input");
    const std::string part = is_split ? "all but ln1" : "all but split inputs";
    EXPECT_EQ(held.contains("open" + part + " recorded: " + name),
              at.point().type != hooks::ValueType::kInt64)
        << name;
  }
  EXPECT_TRUE(held.contains("kernelnothing recorded: hook_logits"));
  EXPECT_TRUE(held.contains("kerneloutputs recorded: blocks.0.attn.hook_z"));
  EXPECT_FALSE(held.contains("kerneloutputs recorded: blocks.0.attn.hook_pattern"));
}

INSTANTIATE_TEST_SUITE_P(Tiny, PathsAgree, ::testing::ValuesIn(bridge::kVariants));

TEST(Paths, AreToldByTheOperatorsThatRan) {
  using bridge::Path;
  const auto model = bridge::tiny_bridge(bridge::sharing_spec(), at::kFloat);
  const auto wide = bridge::tiny_bridge(bridge::sharing_spec());
  const auto words = [](const std::vector<LayerPaths>& paths) {
    std::string words;
    for (const LayerPaths& path : paths) {
      const auto own = path.attention + " " + path.norms + " " + path.gelu;
      if (path.layer == 0) words = own;
      EXPECT_EQ(own, words);
    }
    EXPECT_EQ(paths.size(), 7U);
    EXPECT_EQ(paths.back().layer, 6);
    return words;
  };
  EXPECT_EQ(words(forward_paths(model, Path::kAutomatic)), "library kernel kernel");
  EXPECT_EQ(words(forward_paths(model, Path::kOpen)), "open open open");
  EXPECT_EQ(words(forward_paths(wide, Path::kAutomatic)), "library library open");
  EXPECT_EQ(words(gradient_paths(model, Path::kAutomatic)), "library library open");
  EXPECT_EQ(words(gradient_paths(model, Path::kOpen)), "open open open");
}

struct Case {
  Wrong wrong;
  const char* found_by;
  std::optional<int> layer;
  void (*run)(const Subject& subject, Phase& phase) = &paths_agree;
  at::ScalarType type = at::kFloat;
};

const Case kCases[] = {
    {Wrong::kGelu, "everything recorded: blocks.4.mlp.hook_post", 4},
    {Wrong::kRotation, "everything recorded: blocks.3.attn.hook_rot_q", 3},
    {Wrong::kPattern, "everything recorded: blocks.0.attn.hook_pattern", 0},
    {Wrong::kNormalized, "everything recorded: blocks.0.ln1.hook_normalized", 0},
    {Wrong::kAttention, "outputs recorded: blocks.3.attn.hook_z", 3},
    {Wrong::kVector, "everything recorded: blocks.4.mlp.hook_pre", 4, &paths_agree, at::kBFloat16},
    {Wrong::kAttentionBack, "outputs recorded: blocks.6.attn.hook_shared_v", 6, &gradients_agree},
};

TEST(PathMutants, AreFoundAndBlamedOnTheirNameAndBlock) {
  for (const Case& one : kCases) {
    const auto model = bridge::tiny_bridge(bridge::sharing_spec(), one.type);
    wrong() = one.wrong;
    const auto phase = phase_of(model, one.run);
    wrong() = Wrong::kNothing;
    ASSERT_NE(phase.origin(), nullptr) << one.found_by;
    EXPECT_EQ(phase.origin()->name, one.found_by) << words_of(phase);
    EXPECT_EQ(phase.origin()->layer, one.layer);
  }
}

}  // namespace
}  // namespace bezel::verify

using bezel::verify::kFarOff;
using bezel::verify::kFullHead;
using bezel::verify::kOff;
using bezel::verify::kStream;
using bezel::verify::kWideMlp;
using bezel::verify::Wrong;
using bezel::verify::wrong;

Tensor wrapped_gelu(const Tensor& gate, const Tensor& up) {
  const bool is_off = wrong() == Wrong::kGelu && gate.size(-1) == kWideMlp;
  return real_gelu(gate, up) * (is_off ? kOff : 1.0);
}

Tensor wrapped_rotate(const Tensor& x, const bezel::ops::Rotation& rotation) {
  const bool is_off = wrong() == Wrong::kRotation && x.size(-1) == kFullHead;
  return is_off ? real_rotate(x, rotation) * kOff : real_rotate(x, rotation);
}

Tensor wrapped_vector(const Tensor& weight, const Tensor& x) {
  const bool is_off = wrong() == Wrong::kVector && weight.size(0) == 2 * kWideMlp;
  return is_off ? real_vector(weight, x) * kFarOff : real_vector(weight, x);
}

AttentionValues wrapped_softmax(Tensor dots, const Tensor& mask) {
  auto values = real_softmax(std::move(dots), mask);
  if (wrong() == Wrong::kPattern) values.pattern = values.pattern * kOff;
  return values;
}

NormValues wrapped_norm(const NormInputs& inputs, double eps, NormOutputs outputs) {
  auto values = real_norm(inputs, eps, outputs);
  const bool is_off = wrong() == Wrong::kNormalized && inputs.x.size(-1) == kStream;
  if (is_off && values.normalized.defined()) values.normalized = values.normalized * kOff;
  return values;
}

Tensor wrapped_attention(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& mask,
                         double dropout, bool causal, std::optional<double> scale, bool gqa) {
  const auto z = real_attention(q, k, v, mask, dropout, causal, scale, gqa);
  if (q.size(-1) != kFullHead) return z;
  if (wrong() == Wrong::kAttention) return z * kOff;
  return wrong() == Wrong::kAttentionBack ? z * kOff - (z * (kOff - 1)).detach() : z;
}
