// One op under a tap of block 0, without a model around it.
#pragma once

#include <string>
#include <utility>

#include "bezel/bridge/inventory.h"
#include "bezel/hooks/run.h"
#include "bezel/hooks/tap.h"

namespace bezel::ops {

class OneOp {
 public:
  explicit OneOp(const hooks::Request& request)
      : run_(plan(request, std::make_shared<hooks::Inventory>(bridge::make_inventory(spec()))), {},
             {}) {}
  OneOp(const OneOp&) = delete;
  OneOp& operator=(const OneOp&) = delete;

  hooks::Tap tap() { return {run_, 1}; }
  at::Tensor cached(const std::string& name) const { return run_.cache()->at(name); }

 private:
  static bridge::ModelSpec spec() {
    bridge::ModelSpec spec;
    spec.n_layers = 1;
    spec.layers.resize(1);
    spec.layers[0].moe = bridge::MoeSpec{};
    return spec;
  }
  static std::shared_ptr<const hooks::Plan> plan(
      const hooks::Request& request, std::shared_ptr<const hooks::Inventory> inventory) {
    hooks::RunShape shape;
    shape.stop_layer = 1;
    return hooks::Plan::compile(request, std::move(inventory), shape);
  }
  hooks::Run run_;
};

}  // namespace bezel::ops
