// P2 finds names that are refused wrongly, or not at all. As in p2_hooks_test.cpp the linker's
// --wrap hands this program what is made wrong: the look-up of a name, and the plan of a run.
#include "bezel/hooks/error.h"
#include "bezel/verify/phases/p2_hooks.h"
#include "tests/bridge/tiny.h"

using bezel::hooks::Inventory;
using bezel::hooks::Plan;
using bezel::hooks::Request;
using bezel::hooks::RunShape;
using bezel::hooks::SiteRow;
using PlanPointer = std::shared_ptr<const Plan>;
using InventoryPointer = std::shared_ptr<const Inventory>;

SiteRow real_resolve(const Inventory* inventory, const std::string& name) asm(
    "__real__ZNK5bezel5hooks9Inventory7resolveERKNSt7__cxx1112basic_stringIcSt11char_"
    "traitsIcESaIcEEE");
SiteRow resolve(const Inventory* inventory, const std::string& name) asm(
    "__wrap__ZNK5bezel5hooks9Inventory7resolveERKNSt7__cxx1112basic_stringIcSt11char_"
    "traitsIcESaIcEEE");
PlanPointer
real_compile(const Request& request, InventoryPointer inventory, const RunShape& shape) asm(
    "__real__ZN5bezel5hooks4Plan7compileERKNS0_"
    "7RequestESt10shared_ptrIKNS0_"
    "9InventoryEERKNS0_8RunShapeE");
PlanPointer compile(const Request& request, InventoryPointer inventory, const RunShape& shape) asm(
    "__wrap__ZN5bezel5hooks4Plan7compileERKNS0_"
    "7RequestESt10shared_ptrIKNS0_"
    "9InventoryEERKNS0_8RunShapeE");

namespace bezel::verify {
namespace {

enum class Defect { kNone, kAbsentIsUnknown, kUnknownIsTheFirst, kNothingIsBeyondTheEnd };

Defect& defect() {
  static Defect now = Defect::kNone;
  return now;
}

std::string found_with(Defect wrong) {
  const bridge::Bridge model = bridge::tiny_bridge(bridge::sharing_spec());
  const Subject subject{
      .folder = "", .model = model, .bundle = {}, .tolerances = {}, .on_progress = {}};
  Phase phase;
  HookStudy study(subject, phase);
  defect() = wrong;
  check_refusals(study);
  defect() = Defect::kNone;
  return phase.origin() == nullptr ? "" : phase.origin()->name + "; " + phase.origin()->why;
}

TEST(Refusals, AreFoundRight) { EXPECT_EQ(found_with(Defect::kNone), ""); }

TEST(Refusals, OfAnAbsentNameAsAnUnknownOneAreFound) {
  EXPECT_EQ(found_with(Defect::kAbsentIsUnknown),
            "refused: names that a block or the model lacks; the first is "
            "vision_encoder.hook_patches: UnknownHookError, wanted HookNotApplicableError");
}

TEST(Refusals, ThatAreLackingForUnknownNamesAreFound) {
  EXPECT_EQ(found_with(Defect::kUnknownIsTheFirst),
            "refused: unknown names; the first is hook_nothing: accepted, wanted UnknownHookError");
}

TEST(Refusals, ThatAreLackingBeyondTheEndAreFound) {
  EXPECT_EQ(found_with(Defect::kNothingIsBeyondTheEnd),
            "refused: names beyond stop_at_layer; the first is blocks.1.hook_resid_pre: accepted, "
            "wanted HookNeverFiredError");
}

}  // namespace
}  // namespace bezel::verify

using bezel::verify::Defect;

SiteRow resolve(const Inventory* inventory, const std::string& name) {
  try {
    return real_resolve(inventory, name);
  } catch (const bezel::HookNotApplicableError&) {
    if (bezel::verify::defect() != Defect::kAbsentIsUnknown) throw;
    throw bezel::UnknownHookError("no such name");
  } catch (const bezel::UnknownHookError&) {
    if (bezel::verify::defect() != Defect::kUnknownIsTheFirst) throw;
    return inventory->rows().front();
  }
}

PlanPointer compile(const Request& request, InventoryPointer inventory, const RunShape& shape) {
  if (bezel::verify::defect() != Defect::kNothingIsBeyondTheEnd) {
    return real_compile(request, std::move(inventory), shape);
  }
  RunShape endless = shape;
  endless.stop_layer = static_cast<int>(inventory->sites().size()) - 1;
  endless.silent_model_rows.reset();
  return real_compile(request, std::move(inventory), endless);
}
