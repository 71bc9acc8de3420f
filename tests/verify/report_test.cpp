#include "bezel/verify/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

Check check(double measured) { return {.name = "a", .measured = measured, .tolerance = 1}; }
Check skipped(bool is_required) {
  return {.name = "s", .why = "no reference", .is_required = is_required, .is_skipped = true};
}
PhaseVerdict verdict(std::vector<Check> checks) {
  return Phase{.id = "P1", .title = "", .checks = std::move(checks)}.verdict();
}

TEST(Report, ACheckPassesUpToItsToleranceAndNeverForANotANumber) {
  EXPECT_EQ(check(1).verdict(), Verdict::kPassed);
  EXPECT_EQ(check(1.0001).verdict(), Verdict::kFailed);
  EXPECT_EQ(check(std::nan("")).verdict(), Verdict::kFailed);
  EXPECT_EQ(check(INFINITY).verdict(), Verdict::kFailed);
}

TEST(Report, APhasePassesOnlyWhenEveryRequiredCheckWasDone) {
  EXPECT_EQ(verdict({check(0)}), PhaseVerdict::kPassed);
  EXPECT_EQ(verdict({check(0), skipped(true)}), PhaseVerdict::kIncomplete);
  EXPECT_EQ(verdict({check(0), skipped(false)}), PhaseVerdict::kPassed);
  EXPECT_EQ(verdict({skipped(true), check(2)}), PhaseVerdict::kFailed);
  EXPECT_EQ(verdict({}), PhaseVerdict::kIncomplete);
}

TEST(Report, TheOriginIsTheFirstFailure) {
  const Phase phase{
      .id = "P1", .title = "", .checks = {check(0), skipped(true), check(3), check(2)}};
  ASSERT_NE(phase.origin(), nullptr);
  EXPECT_EQ(phase.origin()->measured, 3);
}

TEST(Report, PassesWhenAllItsPhasesDoAndThereIsOne) {
  Report report;
  EXPECT_FALSE(report.passed());
  report.phases.push_back({.id = "P1", .title = "", .checks = {check(0)}});
  EXPECT_TRUE(report.passed());
  report.phases.push_back({.id = "P2", .title = "", .checks = {skipped(true)}});
  EXPECT_FALSE(report.passed());
}

TEST(Report, SurvivesItsRecord) {
  Check failed{.name = "prose: blocks.3.attn.hook_z",
               .measured = INFINITY,
               .tolerance = 1e-5,
               .unit = "relative RMS",
               .layer = 3,
               .why = "1 NaN",
               .place = {0, 4}};
  Report report{
      .model = "nano", .dtype = "Float", .device = "cpu", .versions = "{}", .reference = "ref.h5"};
  report.phases.push_back({.id = "P1",
                           .title = "forward parity",
                           .checks = {check(0.5), failed, skipped(false), check(std::nan(""))},
                           .seconds = 2.5});
  const auto record = to_json(report);
  EXPECT_EQ(record["phases"][0]["verdict"], "failed");
  EXPECT_EQ(record["phases"][0]["origin"]["name"], failed.name);
  EXPECT_EQ(record["phases"][0]["origin"]["layer"], 3);
  EXPECT_EQ(to_json(report_from_json(nlohmann::json::parse(record.dump()))), record);
}

TEST(Report, WhatIsNoRecordIsRefused) {
  const auto record = to_json(Report{});
  for (const auto& [key, value] : record.items()) {
    auto broken = record;
    broken.erase(key);
    if (key == "passed") continue;  // follows from the rest
    EXPECT_THROW(report_from_json(broken), FormatError) << key;
  }
  auto newer = record;
  newer["schema"] = 2;
  EXPECT_THROW(report_from_json(newer), FormatError);
}

}  // namespace
}  // namespace bezel::verify
