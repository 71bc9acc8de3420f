#include "bezel/verify/report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;

// JSON knows no NaN and no infinity.
json number(double x) {
  if (std::isfinite(x)) return x;
  return std::isnan(x) ? "nan" : x > 0 ? "inf" : "-inf";
}

double number_from(const json& x) {
  if (x.is_number()) return x.get<double>();
  const auto word = x.get<std::string>();
  if (word == "nan") return std::nan("");
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return word == "-inf" ? -kInfinity : kInfinity;
}

json check_to_json(const Check& check) {
  json made = {{"name", check.name},
               {"verdict", to_string(check.verdict())},
               {"measured", number(check.measured)},
               {"tolerance", number(check.tolerance)},
               {"unit", check.unit},
               {"required", check.is_required}};
  if (check.layer) made["layer"] = *check.layer;
  if (!check.why.empty()) made["why"] = check.why;
  if (!check.place.empty()) made["place"] = check.place;
  return made;
}

Check check_from_json(const json& record) {
  Check check{.name = record.at("name"),
              .measured = number_from(record.at("measured")),
              .tolerance = number_from(record.at("tolerance")),
              .unit = record.at("unit"),
              .why = record.value("why", ""),
              .place = record.value("place", std::vector<std::size_t>()),
              .is_required = record.at("required"),
              .is_skipped = record.at("verdict") == "skipped"};
  if (record.contains("layer")) check.layer = record["layer"].get<int>();
  return check;
}

json paths_to_json(const std::vector<LayerPaths>& paths) {
  json made = json::array();
  for (const LayerPaths& path : paths) {
    made.push_back({{"layer", path.layer},
                    {"attention", path.attention},
                    {"norms", path.norms},
                    {"gelu", path.gelu}});
  }
  return made;
}

std::vector<LayerPaths> paths_from_json(const json& record) {
  std::vector<LayerPaths> paths;
  for (const json& path : record) {
    paths.push_back({.layer = path.at("layer"),
                     .attention = path.at("attention"),
                     .norms = path.at("norms"),
                     .gelu = path.at("gelu")});
  }
  return paths;
}

json origin_to_json(const Check& check) {
  json made = {{"name", check.name}, {"value", number(check.measured)}, {"position", check.place}};
  made["layer"] = check.layer ? json(*check.layer) : json();
  return made;
}

}  // namespace

Verdict Check::verdict() const {
  if (is_skipped) return Verdict::kSkipped;
  return measured <= tolerance ? Verdict::kPassed : Verdict::kFailed;
}

PhaseVerdict Phase::verdict() const {
  if (origin() != nullptr) return PhaseVerdict::kFailed;
  const bool lacks_one = std::ranges::any_of(
      checks, [](const Check& check) { return check.is_skipped && check.is_required; });
  return lacks_one || checks.empty() ? PhaseVerdict::kIncomplete : PhaseVerdict::kPassed;
}

const Check* Phase::origin() const {
  const auto found = std::ranges::find(checks, Verdict::kFailed, &Check::verdict);
  return found == checks.end() ? nullptr : &*found;
}

bool Report::passed() const {
  return !phases.empty() && std::ranges::all_of(phases, [](const Phase& phase) {
    return phase.verdict() == PhaseVerdict::kPassed;
  });
}

std::string to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPassed:
      return "passed";
    case Verdict::kFailed:
      return "failed";
    case Verdict::kSkipped:
      return "skipped";
  }
  return "";
}

std::string to_string(PhaseVerdict verdict) {
  switch (verdict) {
    case PhaseVerdict::kPassed:
      return "passed";
    case PhaseVerdict::kFailed:
      return "failed";
    case PhaseVerdict::kIncomplete:
      return "incomplete";
  }
  return "";
}

json to_json(const Report& report) {
  json phases = json::array();
  for (const Phase& phase : report.phases) {
    json checks = json::array();
    for (const Check& check : phase.checks) checks.push_back(check_to_json(check));
    json made = {
        {"id", phase.id},           {"title", phase.title}, {"verdict", to_string(phase.verdict())},
        {"seconds", phase.seconds}, {"checks", checks},     {"paths", paths_to_json(phase.paths)}};
    made["origin"] = phase.origin() == nullptr ? json() : origin_to_json(*phase.origin());
    phases.push_back(made);
  }
  return {{"schema", kSchema},
          {"model", report.model},
          {"dtype", report.dtype},
          {"device", report.device},
          {"versions", report.versions},
          {"reference", report.reference},
          {"passed", report.passed()},
          {"interrupted", report.is_interrupted},
          {"phases", phases}};
}

Report report_from_json(const json& record) {
  try {
    if (record.at("schema") != kSchema) {
      throw FormatError("a record of schema " + record.at("schema").dump() + "; this bezel reads " +
                        std::to_string(kSchema));
    }
    Report report{.model = record.at("model"),
                  .dtype = record.at("dtype"),
                  .device = record.at("device"),
                  .versions = record.at("versions"),
                  .reference = record.at("reference"),
                  .phases = {},
                  .is_interrupted = record.at("interrupted")};
    for (const json& given : record.at("phases")) {
      Phase phase{.id = given.at("id"),
                  .title = given.at("title"),
                  .checks = {},
                  .paths = paths_from_json(given.at("paths")),
                  .seconds = given.at("seconds")};
      for (const json& check : given.at("checks")) phase.checks.push_back(check_from_json(check));
      report.phases.push_back(std::move(phase));
    }
    return report;
  } catch (const json::exception& error) {
    throw FormatError(std::string("no record of a verification: ") + error.what());
  }
}

std::string to_text(const Report& report) { return to_json(report).dump(); }

Report report_from_text(const std::string& text) {
  const auto record = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (record.is_discarded()) throw FormatError("no record of a verification: not JSON");
  return report_from_json(record);
}

}  // namespace bezel::verify
