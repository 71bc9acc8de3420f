// A record has exactly the fields that verify/README.md documents.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "bezel/verify/report.h"

namespace bezel::verify {
namespace {

using Fields = std::set<std::string>;

/// "Of a model" and the like → the fields of its table, with " optional" behind those that may
/// lack.
std::map<std::string, Fields> documented() {
  const auto page = std::filesystem::path(BEZEL_TEST_DATA) / ".." / ".." / "verify" / "README.md";
  std::ifstream file(page);
  std::map<std::string, Fields> tables;
  std::string title;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) title = line.substr(line.find(' ') + 1);
    if (!title.starts_with("Of a") || !line.starts_with("| `")) continue;
    const auto end = line.find('`', 3);
    const bool is_optional = line.find(", optional") != std::string::npos;
    tables[title].insert(line.substr(3, end - 3) + (is_optional ? " optional" : ""));
  }
  return tables;
}

Fields fields_of(const nlohmann::json& object) {
  Fields fields;
  for (const auto& [key, value] : object.items()) fields.insert(key);
  return fields;
}

Fields names_of(const Fields& documented, bool (*is_kept)(const std::string& field)) {
  Fields names;
  for (const std::string& field : documented) {
    if (is_kept(field)) names.insert(field.substr(0, field.find(' ')));
  }
  return names;
}
bool any(const std::string& /*field*/) { return true; }
bool required(const std::string& field) { return !field.ends_with(" optional"); }

nlohmann::json record() {
  const Check failed{.name = "prose: blocks.3.attn.hook_z",
                     .measured = 2,
                     .tolerance = 1,
                     .unit = "relative RMS",
                     .layer = 3,
                     .why = "1 NaN",
                     .place = {0, 4}};
  const Phase phase{.id = "P5",
                    .title = "paths",
                    .checks = {failed, {.name = "a"}},
                    .paths = {{.layer = 0, .attention = "open", .norms = "open", .gelu = "open"}}};
  return to_json(Report{.model = "nano", .phases = {phase}});
}

TEST(Record, HasTheFieldsOfThePage) {
  const auto tables = documented();
  ASSERT_EQ(tables.size(), 5U);
  const auto made = record();
  const auto& phase = made["phases"][0];
  EXPECT_EQ(fields_of(made), names_of(tables.at("Of a model"), &any));
  EXPECT_EQ(fields_of(phase), names_of(tables.at("Of a phase"), &any));
  EXPECT_EQ(fields_of(phase["origin"]), names_of(tables.at("Of an origin"), &any));
  EXPECT_EQ(fields_of(phase["paths"][0]), names_of(tables.at("Of a path"), &any));
  EXPECT_EQ(fields_of(phase["checks"][0]), names_of(tables.at("Of a check"), &any));
  EXPECT_EQ(fields_of(phase["checks"][1]), names_of(tables.at("Of a check"), &required));
}

TEST(Record, KeepsThePathsOfAPhase) {
  const auto read = report_from_json(record());
  ASSERT_EQ(read.phases[0].paths.size(), 1U);
  EXPECT_EQ(read.phases[0].paths[0].attention, "open");
  EXPECT_EQ(to_json(read), record());
}

}  // namespace
}  // namespace bezel::verify
