// Cells of a sweep are whole runs with one edit, and compute no more than the patch can reach.
#include "bezel/bridge/patch_sweep.h"

#include <ATen/record_function.h>

#include <functional>
#include <limits>
#include <map>

#include "bezel/bridge/kv_cache.h"
#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::Axis;
using hooks::HookSite;
using hooks::SiteRow;

constexpr double kRounding = 1e-10;  // of float64
constexpr std::int64_t kLength = 11;

std::int64_t position_axis(const hooks::HookPoint& point) {
  for (const Axis axis : {Axis::kPos, Axis::kQPos, Axis::kKPos}) {
    for (std::size_t i = 0; i < point.axes.size(); ++i) {
      if (point.axes[i] == axis) return static_cast<std::int64_t>(i);
    }
  }
  return -1;
}

// The value with its last entries, or others in their range, at one position counted from the end.
at::Tensor changed(const at::Tensor& value, std::int64_t axis, std::int64_t from_the_end) {
  auto patched = value.clone();
  auto row = patched.select(axis, -from_the_end);
  if (value.is_floating_point()) {
    row.copy_(row.flip(-1) * 1.25 + 0.125);
  } else {
    row.copy_(value.dim() == 2 ? (row + 1) % kVocab : row.flip(-1));
  }
  return patched;
}

// Matrix products since it was made on this thread: rows of the largest, by its columns.
class Products {
 public:
  Products() {
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback([](const at::RecordFunction& function) {
          if (std::string_view(function.name()) == "aten::mm") {
            ++count;
            n_rows = std::max(n_rows, function.inputs()[0].toTensor().size(0));
          }
          return std::unique_ptr<at::ObserverContext>();
        }).needsInputs(true));
    count = n_rows = 0;
  }
  ~Products() { at::removeCallback(handle_); }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;
  static inline std::int64_t count = 0, n_rows = 0;

 private:
  at::CallbackHandle handle_;
};

class PatchSweepTest : public TinyTest {
 protected:
  PatchSweep sweep(const std::vector<hooks::Selector>& patched, Input input,
                   const std::vector<hooks::Edit>& edits = {}) const {
    return {model_, std::move(input), edits, patched, {.path = Path::kOpen}};
  }
  at::Tensor whole_run(const std::string& name, const at::Tensor& patched, const Input& input,
                       std::vector<hooks::Edit> edits = {}) const {
    edits.push_back(hooks::edit(name, [&](const at::Tensor&, const HookSite&) { return patched; }));
    return run({.edits = std::move(edits)}, input).output;
  }
  // Three cells of every nth value against three whole runs.
  void expect_whole_runs(const Input& input, std::size_t n,
                         const std::vector<hooks::Edit>& edits = {}) const {
    std::vector<SiteRow> rows;
    std::vector<hooks::Selector> names;
    const auto& all = model_.inventory().rows();
    for (std::size_t i = 0; i < all.size(); i += n) {
      rows.push_back(all[i]);
      names.emplace_back(name(all[i]));
    }
    const auto made = sweep(names, input, edits);
    EXPECT_LT(distance(made.logits(), run({.edits = edits}, input).output), kRounding);
    const auto valid = input.attention_mask.defined() ? input.attention_mask.to(at::kBool)
                                                      : at::ones({2, kLength}, at::kBool);
    const auto kept = valid.narrow(1, kLength - made.logits().size(1), made.logits().size(1));
    for (const SiteRow at : rows) {
      const std::string name = this->name(at);
      std::vector<at::Tensor> cells;
      for (const std::int64_t from_the_end : {2, 3, 1}) {
        cells.push_back(changed(made.value(name), position_axis(at.point()), from_the_end));
      }
      const auto logits = made.run(name, cells);
      for (std::size_t i = 0; i < cells.size(); ++i) {
        const auto want = whole_run(name, cells[i], input, edits);
        EXPECT_LT(distance(logits[i].index({kept}), want.index({kept})), kRounding) << name;
      }
    }
  }
  at::Tensor text_ = tiny_tokens(2, kLength);
};

INSTANTIATE_TEST_SUITE_P(Tiny, PatchSweepTest, ::testing::ValuesIn(kVariants));

TEST_P(PatchSweepTest, CellsOfAnyValueAreWholeRuns) { expect_whole_runs({.tokens = text_}, 1); }

TEST_P(PatchSweepTest, ImagesMasksPositionsAndLastLogitsHoldInCells) {
  const auto types = at::zeros({2, kLength}, at::kLong);
  types[0].narrow(0, 6, 4).fill_(1);
  types[1].narrow(0, 8, 3).fill_(2);
  expect_whole_runs({.tokens = text_, .token_types = types}, 7);
  const auto mask = at::ones({2, kLength}, at::kLong);
  mask[1].narrow(0, 0, 4).zero_();
  expect_whole_runs({.tokens = text_, .attention_mask = mask}, 7);
  const auto positions = at::arange(kLength).mul(3).unsqueeze(0);
  expect_whole_runs({.tokens = text_, .position_ids = positions}, 7);
  expect_whole_runs({.tokens = text_, .position_ids = at::cat({positions, positions + 2})}, 7);
  expect_whole_runs({.tokens = text_, .logits_to_keep = 4}, 7);
}

TEST_P(PatchSweepTest, APaddingIdAmongTheFirstTokensOfACellIsText) {
  ModelSpec spec = GetParam().spec();
  spec.pad_token_id = 0;
  model_ = tiny_bridge(spec);
  const auto tokens = text_.clamp_min(1);
  tokens[0][kLength - 2] = 0;
  const auto made = sweep({"hook_embed"}, {.tokens = tokens});
  const auto patched = changed(made.value("hook_embed"), 1, 2);
  EXPECT_LT(distance(made.run("hook_embed", {patched})[0],
                     whole_run("hook_embed", patched, {.tokens = tokens})),
            kRounding);
}

TEST_P(PatchSweepTest, EditsApplyAndSeeTheRowsOfOneCell) {
  std::map<std::string, int> n_calls;
  std::vector<hooks::Edit> edits;
  for (const char* name : {"hook_embed", "blocks.1.hook_resid_pre", "blocks.2.attn.hook_z"}) {
    edits.push_back(hooks::edit(name, [&](const at::Tensor& value, const HookSite& at) {
      ++n_calls[at.name];
      EXPECT_EQ(value.size(0), 2);
      EXPECT_EQ(at.positions.sizes(), (std::vector<std::int64_t>{2, kLength}));
      value.select(1, 1).mul_(2);  // counts positions from the first
      return at.layer ? value + 0.25 : at::Tensor();
    }));
  }
  expect_whole_runs({.tokens = text_}, 7, edits);
  n_calls.clear();
  const auto made = sweep({"blocks.1.attn.hook_z"}, {.tokens = text_}, edits);
  const auto value = made.value("blocks.1.attn.hook_z");
  made.run("blocks.1.attn.hook_z", {changed(value, 1, 1), changed(value, 1, 2)});
  EXPECT_EQ(n_calls["hook_embed"], 1);
  EXPECT_EQ(n_calls["blocks.1.hook_resid_pre"], 1);
  EXPECT_EQ(n_calls["blocks.2.attn.hook_z"], 3);
}

TEST_P(PatchSweepTest, CellsRunOnlyThePositionsThatThePatchReaches) {
  const auto made = sweep({"hook_embed", "blocks.1.hook_resid_mid"}, {.tokens = text_});
  for (const std::string name : {"hook_embed", "blocks.1.hook_resid_mid"}) {
    const auto value = made.value(name);
    const Products products;
    made.run(name, {changed(value, 1, 2), changed(value, 1, 3)});
    EXPECT_EQ(Products::n_rows, 2 * 2 * 3) << name;  // two cells of two rows, three positions
  }
}

TEST_P(PatchSweepTest, CellsBeginAtTheirBlockAndShareARun) {
  const auto last = static_cast<int>(model_.spec().n_layers) - 1;
  const std::string name = "blocks." + std::to_string(last) + ".hook_resid_pre";
  const auto made = sweep({name, "hook_embed"}, {.tokens = text_});
  const auto n_products = [&](const std::string& at, std::size_t n_cells) {
    const auto value = made.value(at);
    const std::vector<at::Tensor> cells(n_cells, changed(value, 1, 2));
    const Products products;
    made.run(at, cells);
    return Products::count;
  };
  EXPECT_EQ(n_products(name, 1), n_products(name, 9));
  EXPECT_LT(2 * n_products(name, 1), n_products("hook_embed", 1));
}

TEST_P(PatchSweepTest, CellsFarFromEachOtherRunApart) {
  const auto made = sweep({"hook_embed"}, {.tokens = tiny_tokens(2, 200)});
  const auto value = made.value("hook_embed");
  const auto n_rows = [&](std::initializer_list<std::int64_t> from_the_end) {
    std::vector<at::Tensor> cells;
    for (const auto n : from_the_end) cells.push_back(changed(value, 1, n));
    const Products products;
    made.run("hook_embed", cells);
    return Products::n_rows;
  };
  EXPECT_EQ(n_rows({32, 1}), 2 * 2 * 32);  // together: 2 * 31 tokens wasted
  EXPECT_EQ(n_rows({34, 1}), 2 * 34);      // apart
}

TEST_P(PatchSweepTest, ACellThatChangesNothingRunsNothing) {
  const auto made = sweep({"hook_embed"}, {.tokens = text_});
  const Products products;
  const auto logits = made.run("hook_embed", {made.value("hook_embed")})[0];
  EXPECT_EQ(Products::count, 0);
  EXPECT_TRUE(at::equal(logits, made.logits()));
  logits.zero_();  // the caller's own
  EXPECT_FALSE(at::equal(logits, made.logits()));
}

TEST_P(PatchSweepTest, TheCallersTensorsAreReadOnce) {
  const auto tokens = text_.clone(), positions = at::arange(kLength).unsqueeze(0);
  const auto made = sweep({"hook_embed"}, {.tokens = tokens, .position_ids = positions});
  const auto patched = changed(made.value("hook_embed"), 1, 2);
  const auto want = made.run("hook_embed", {patched})[0];
  tokens.zero_();
  positions.zero_();
  EXPECT_TRUE(at::equal(made.run("hook_embed", {patched})[0], want));
}

TEST_P(PatchSweepTest, ANotANumberIsAChange) {
  const auto made = sweep({"blocks.0.hook_resid_mid"}, {.tokens = text_});
  auto patched = made.value("blocks.0.hook_resid_mid").clone();
  patched[0][4][0] = std::numeric_limits<double>::quiet_NaN();
  const auto logits = made.run("blocks.0.hook_resid_mid", {patched})[0];
  EXPECT_TRUE(logits[0].narrow(0, 4, 1).isnan().all().item<bool>());
  EXPECT_FALSE(logits[0].narrow(0, 0, 4).isnan().any().item<bool>());
}

TEST_P(PatchSweepTest, WhatASweepCannotRunIsRefused) {
  const auto floats = at::zeros({2, 3, model_.spec().d_model}, at::kDouble);
  EXPECT_THROW(sweep({"hook_embed"}, {.embeddings = floats}), ArgumentError);
  EXPECT_THROW(sweep({"hook_embed"}, {.tokens = text_, .stop_at_layer = 2}), ArgumentError);
  EXPECT_THROW(sweep({"hook_embed"},
                     {.tokens = text_, .kv_cache = std::make_shared<KvCache>(model_.spec())}),
               ArgumentError);
  EXPECT_THROW(sweep({"hook_embedd"}, {.tokens = text_}), UnknownHookError);
  const auto made = sweep({"hook_embed"}, {.tokens = text_});
  EXPECT_THROW(made.value("blocks.0.hook_resid_mid"), UnknownHookError);
  EXPECT_THROW(made.run("hook_embedd", {floats}), UnknownHookError);
  EXPECT_THROW(made.run("blocks.0.attn.hook_rot_k", {floats}), ArgumentError);  // recorded, unasked
  const auto value = made.value("hook_embed");
  for (const auto& patched : {floats, value.to(at::kFloat), at::Tensor()}) {
    EXPECT_THROW(made.run("hook_embed", {patched}), ArgumentError);
  }
}

}  // namespace
}  // namespace bezel::bridge
