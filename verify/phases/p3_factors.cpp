// P3: what a head asks and what it moves, W_Q^T W_K and W_O W_V, through the model's joint matrices
// and as products of the checkpoint's own, applied to random vectors in float64.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <map>
#include <span>

#include "bezel/adapters/weight_reader.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

constexpr std::int64_t kVectors = 4;
constexpr std::int64_t kWholeProduct = 2048;  // wider ones are applied factor by factor

/// The matrices of one layer's attention, float64 on the CPU, and those of the files.
struct Matrices {
  at::Tensor q, k, v, out;  // [head*d_head d_model] three times; [d_model head*d_head]
};

class Factors {
 public:
  Factors(const Subject& subject, const ModelFiles& files) : subject_(subject), files_(files) {
    for (auto& slot : bridge::weight_slots(subject.model.spec(), held_)) {
      slots_.emplace(slot.name, slot);
    }
  }

  Matrices of_model(int layer) const {
    const auto& spec = subject_.model.spec().layers[layer].attention;
    const int donor = spec.donor.value_or(layer);
    const auto& layers = subject_.model.weights().layers;
    const std::int64_t n_q = spec.n_heads * spec.d_head, n_k = spec.n_kv_heads * spec.d_head;
    const auto rows = [&](int at, std::int64_t first, std::int64_t n) {
      return layers[at].attention.qkv.narrow(0, first, n).to(at::kCPU, at::kDouble);
    };
    return {rows(layer, 0, n_q), rows(donor, n_q, n_k),
            rows(donor, spec.k_is_v ? n_q : n_q + n_k, n_k),
            layers[layer].attention.out.to(at::kCPU, at::kDouble)};
  }

  Matrices of_files(int layer) const {
    const auto& spec = subject_.model.spec().layers[layer].attention;
    const int donor = spec.donor.value_or(layer);
    return {stored(layer, "qkv", 0), stored(donor, "qkv", 1),
            stored(donor, "qkv", spec.k_is_v ? 1 : 2), stored(layer, "out", 0)};
  }

 private:
  // One of the matrices that stand below each other in a slot, rounded as the model's are.
  at::Tensor stored(int layer, const char* what, std::size_t part) const {
    const auto& slot = slots_.at("layers." + std::to_string(layer) + ".attention." + what);
    const auto sources = sources_of(slot, files_);
    const bool is_joint = sources.size() < slot.rows.size();
    const auto* const info = files_.tensors.find(sources[is_joint ? 0 : part].name);
    const auto values = at::empty(info->shape, adapters::scalar_type_of(*info));
    files_.tensors.read(*info,
                        std::span(static_cast<std::byte*>(values.data_ptr()), values.nbytes()));
    const auto rounded = values.to(subject_.dtype()).to(at::kDouble);
    if (!is_joint) return rounded;
    std::int64_t first = 0;
    for (std::size_t i = 0; i < part; ++i) first += slot.rows[i];
    return rounded.narrow(0, first, slot.rows[part]);
  }

  const Subject& subject_;
  const ModelFiles& files_;
  bridge::Weights held_ = subject_.model.weights();
  std::map<std::string, bridge::WeightSlot> slots_;
};

at::Tensor by_head(const at::Tensor& values, const bridge::AttentionSpec& spec) {
  const auto heads = values.unflatten(-1, {-1, spec.d_head});  // [n head d_head]
  return heads.repeat_interleave(spec.n_heads / heads.size(1), 1);
}

double apart(const at::Tensor& got, const at::Tensor& want) {
  return ((got - want).abs().max() / want.abs().max()).item<double>();
}

/// x times the product of two matrices [a b] and [b c].
at::Tensor times_product(const at::Tensor& x, const at::Tensor& left, const at::Tensor& right) {
  if (left.size(0) <= kWholeProduct) return x.matmul(left.matmul(right));
  return x.matmul(left).matmul(right);
}

// x W_Q^T W_K y, for each head.
double qk_apart(const Matrices& model, const Matrices& files, const bridge::AttentionSpec& spec,
                const at::Tensor& x, const at::Tensor& y) {
  const auto through = (by_head(x.matmul(model.q.t()), spec) * by_head(y.matmul(model.k.t()), spec))
                           .sum(-1);  // [n head]
  std::vector<at::Tensor> heads;
  for (std::int64_t head = 0; head < spec.n_heads; ++head) {
    const auto q = files.q.narrow(0, head * spec.d_head, spec.d_head);
    const auto k =
        files.k.narrow(0, head * spec.n_kv_heads / spec.n_heads * spec.d_head, spec.d_head);
    heads.push_back((times_product(x, q.t(), k) * y).sum(-1));
  }
  return apart(through, at::stack(heads, 1));
}

// W_O W_V y, over all heads.
double ov_apart(const Matrices& model, const Matrices& files, const bridge::AttentionSpec& spec,
                const at::Tensor& y) {
  const auto through =
      by_head(y.matmul(model.v.t()), spec).flatten(1).matmul(model.out.t());  // [n d_model]
  auto sum = at::zeros_like(through);
  for (std::int64_t head = 0; head < spec.n_heads; ++head) {
    const auto v =
        files.v.narrow(0, head * spec.n_kv_heads / spec.n_heads * spec.d_head, spec.d_head);
    const auto out = files.out.narrow(1, head * spec.d_head, spec.d_head);
    sum += times_product(y, v.t(), out.t());
  }
  return apart(through, sum);
}

}  // namespace

void factor_checks(const Subject& subject, const ModelFiles& files, Phase& phase) {
  const Factors factors(subject, files);
  const auto random = at::make_generator<at::CPUGeneratorImpl>(5);
  const auto& spec = subject.model.spec();
  const double rounding = subject.tolerances.algebra;
  Check qk{.name = "W_Q^T W_K, in float64", .tolerance = rounding, .unit = "relative"};
  Check ov{.name = "W_O W_V, in float64", .tolerance = rounding, .unit = "relative"};
  const auto keep_worst = [&](Check& check, double measured, int layer) {
    if (!(measured > check.measured)) return;
    check.measured = measured;
    if (measured > rounding && !check.layer) check.layer = layer;
  };
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    announce(subject, "P3 factors of layer " + std::to_string(layer));
    const auto model = factors.of_model(layer), stored = factors.of_files(layer);
    const auto vectors = [&] {
      return at::randn({kVectors, spec.d_model}, random, at::TensorOptions(at::kDouble));
    };
    const auto x = vectors(), y = vectors();
    const auto& attention = spec.layers[layer].attention;
    keep_worst(qk, qk_apart(model, stored, attention, x, y), layer);
    keep_worst(ov, ov_apart(model, stored, attention, y), layer);
  }
  add(subject, phase, std::move(qk));
  add(subject, phase, std::move(ov));
}

}  // namespace bezel::verify
