#include "bezel/verify/phases/p5_paths.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>

#include <memory>
#include <set>
#include <string>

#include "bezel/verify/phases/p2_hooks.h"

namespace bezel::verify {
namespace {

using Operators = std::set<std::string>;

// torch calls a plain function; where it writes is a matter of the thread that asks.
Operators*& written_to() {
  thread_local Operators* operators = nullptr;
  return operators;
}

std::unique_ptr<at::ObserverContext> note(const at::RecordFunction& called) {
  if (written_to() != nullptr) written_to()->insert(called.name());
  return nullptr;
}

/// The operators of each block, while it lives.
class Observer {
 public:
  explicit Observer(std::int64_t n_layers) : by_layer_(static_cast<std::size_t>(n_layers)) {
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&note).scopes({at::RecordScope::FUNCTION}));
  }
  ~Observer() {
    at::removeCallback(handle_);
    written_to() = nullptr;
  }
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;
  Observer(Observer&&) = delete;
  Observer& operator=(Observer&&) = delete;

  void next_block() { written_to() = &by_layer_.at(n_begun_++); }
  const std::vector<Operators>& by_layer() const { return by_layer_; }

 private:
  std::vector<Operators> by_layer_;
  std::size_t n_begun_ = 0;
  at::CallbackHandle handle_;
};

// What is not torch's own is a kernel of bezel's.
LayerPaths told_by(const Operators& ran, int layer) {
  return {.layer = layer,
          .attention = ran.contains("aten::scaled_dot_product_attention") ? "library" : "open",
          .norms = ran.contains("aten::rms_norm") ? "library"
                   : ran.contains("aten::sqrt")   ? "open"
                                                  : "kernel",
          .gelu = ran.contains("aten::gelu") ? "open" : "kernel"};
}

std::vector<LayerPaths> observed(const bridge::Bridge& model, bridge::Path path,
                                 const hooks::Request& request) {
  Observer observer(model.spec().n_layers);
  const bridge::RunOptions options{.path = path, .check_interrupt = [&] { observer.next_block(); }};
  model.run(study_input(model, 1, 2), request, options);
  std::vector<LayerPaths> paths;
  for (const Operators& ran : observer.by_layer()) {
    paths.push_back(told_by(ran, static_cast<int>(paths.size())));
  }
  return paths;
}

}  // namespace

std::vector<LayerPaths> forward_paths(const bridge::Bridge& model, bridge::Path path) {
  return observed(model, path, {});
}

std::vector<LayerPaths> gradient_paths(const bridge::Bridge& model, bridge::Path path) {
  const c10::AutoGradMode gradients(true);
  return observed(model, path, {.names = {"hook_embed"}, .gradients = true});
}

}  // namespace bezel::verify
