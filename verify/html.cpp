#include "bezel/verify/html.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bezel/verify/escape.h"

namespace bezel::verify {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --ink: #1c2733; --faint: #6b7785; --line: #d5dbe1; --paper: #ffffff;
  --passed: #1a7f4b; --failed: #c62f2f; --incomplete: #a86a00; --mark: #2f6fb3; }
@media (prefers-color-scheme: dark) { :root { --ink: #dbe3ea; --faint: #8d99a6; --line: #36424e;
  --paper: #12181e; --passed: #4cc38a; --failed: #ff7b72; --incomplete: #e3b341; --mark: #79b8ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; padding: 1.5rem; max-width: 70rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
td, th { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.passed { color: var(--passed); } .failed { color: var(--failed); }
.incomplete, .skipped { color: var(--incomplete); }
.faint, figcaption { color: var(--faint); font-size: .85rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } code { font-size: .9em; overflow-wrap: anywhere; }
summary { cursor: pointer; }
)";

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", x);
  return text;
}

// {"torch": "2.11.0", …} → "torch 2.11.0, …"
std::string readable(const std::string& versions) {
  const auto parsed = nlohmann::json::parse(versions, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return versions;
  std::string made;
  for (const auto& [name, version] : parsed.items()) {
    made += (made.empty() ? "" : ", ") + name + " " +
            (version.is_string() ? version.get<std::string>() : version.dump());
  }
  return made;
}

std::string colored(const std::string& verdict) {
  return "<span class=\"" + verdict + "\">" + verdict + "</span>";
}

/// The largest error of one row of the hook table in each block, over all cases.
struct Series {
  std::map<int, double> by_layer;
  double tolerance = 0;
};

// "prose: blocks.3.attn.hook_z" → "attn.hook_z"
std::string row_of(const std::string& check) {
  const auto name = check.substr(check.rfind(' ') + 1);
  const auto dot = name.find('.', name.find('.') + 1);
  return dot == std::string::npos ? name : name.substr(dot + 1);
}

std::vector<std::pair<std::string, Series>> series_of(const Phase& phase) {
  std::vector<std::pair<std::string, Series>> series;
  for (const Check& check : phase.checks) {
    const bool is_error = check.unit == "relative RMS" || check.unit.starts_with("times the ");
    if (!check.layer || !is_error || check.is_skipped) continue;
    const auto row = row_of(check.name);
    auto found = std::ranges::find(series, row, [](const auto& named) { return named.first; });
    if (found == series.end()) found = series.insert(found, {row, {}});
    double& error = found->second.by_layer[*check.layer];
    error = std::max(error, check.measured);
    found->second.tolerance = check.tolerance;
  }
  return series;
}

constexpr double kWidth = 240, kHeight = 110, kLeft = 34, kBottom = 18, kTop = 6;
constexpr double kLowest = -9, kHighest = 1;  // powers of ten on the axis

double y_of(double error) {
  const double power = std::isfinite(error) ? std::log10(std::max(error, 1e-30)) : kHighest;
  const double share = (std::clamp(power, kLowest, kHighest) - kLowest) / (kHighest - kLowest);
  return kHeight - kBottom - share * (kHeight - kBottom - kTop);
}

std::string label(double x, double y, const std::string& anchor, const std::string& text) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" font-size=\"9\" text-anchor=\"" +
         anchor + "\" fill=\"var(--faint)\">" + text + "</text>";
}

std::string plot(const std::string& row, const Series& series) {
  const int last = std::max(1, series.by_layer.rbegin()->first);
  const auto x_of = [&](int layer) { return kLeft + (kWidth - kLeft - 8) * layer / last; };
  std::ostringstream svg;
  svg << "<figure><svg viewBox=\"0 0 " << kWidth << " " << kHeight
      << "\" role=\"img\" aria-label=\"" << escaped(row) << ", error by layer\">";
  for (const int power : {-8, -4, 0}) {
    const double y = y_of(std::pow(10, power));
    svg << "<line x1=\"" << kLeft << "\" x2=\"" << kWidth << "\" y1=\"" << y << "\" y2=\"" << y
        << "\" stroke=\"var(--line)\"/>"
        << label(kLeft - 4, y + 3, "end", "1e" + std::to_string(power));
  }
  const double bound = y_of(series.tolerance);
  svg << "<line x1=\"" << kLeft << "\" x2=\"" << kWidth << "\" y1=\"" << bound << "\" y2=\""
      << bound << "\" stroke=\"var(--failed)\" stroke-dasharray=\"3 3\"/>";
  for (const auto& [layer, error] : series.by_layer) {
    const bool is_in = error <= series.tolerance;
    svg << "<circle cx=\"" << x_of(layer) << "\" cy=\"" << y_of(error)
        << "\" r=\"2.6\" fill=\"var(--" << (is_in ? "mark" : "failed") << ")\"><title>block "
        << layer << ": " << number(error) << "</title></circle>";
  }
  svg << label(kLeft, kHeight - 5, "middle", "0")
      << label(x_of(last), kHeight - 5, "middle", std::to_string(last)) << "</svg><figcaption>"
      << escaped(row) << "</figcaption></figure>\n";
  return svg.str();
}

std::string verdict_row(const Phase& phase) {
  std::ostringstream row;
  row << "<tr><td>" << phase.id << "</td><td>" << escaped(phase.title) << "</td><td>"
      << colored(to_string(phase.verdict())) << "</td><td>" << phase.checks.size() << "</td><td>"
      << number(phase.seconds) << " s</td><td>";
  if (const Check* origin = phase.origin()) {
    row << "<code>" << escaped(origin->name) << "</code>: " << number(origin->measured) << " "
        << escaped(origin->unit) << ", allowed " << number(origin->tolerance)
        << "<br><span class=\"faint\">" << escaped(origin->why) << "</span>";
  }
  for (const Check& check : phase.checks) {
    if (check.is_skipped) row << colored("skipped") << " " << escaped(check.why) << "<br>";
  }
  row << "</td></tr>\n";
  return row.str();
}

std::string checks_of(const Phase& phase) {
  std::ostringstream page;
  page << "<details><summary>" << phase.id << ": all " << phase.checks.size()
       << " checks</summary><div "
          "class=\"wide\"><table><tr><th>check</th><th>verdict</th><th>measured</th>"
          "<th>allowed</th><th></th></tr>\n";
  for (const Check& check : phase.checks) {
    page << "<tr><td><code>" << escaped(check.name) << "</code></td><td>"
         << colored(to_string(check.verdict())) << "</td><td>" << number(check.measured)
         << "</td><td>" << number(check.tolerance) << "</td><td class=\"faint\">"
         << escaped(check.unit) << (check.why.empty() ? "" : ". " + escaped(check.why))
         << "</td></tr>\n";
  }
  page << "</table></div></details>\n";
  return page.str();
}

std::string section(const Report& report) {
  std::ostringstream page;
  page << "<h2>" << escaped(report.model) << ": " << colored(report.passed() ? "passed" : "failed")
       << "</h2>\n<p class=\"faint\">" << escaped(report.dtype) << " on " << escaped(report.device)
       << (report.reference.empty() ? "" : ", against " + escaped(report.reference) + " of ")
       << escaped(readable(report.versions))
       << "</p>\n<div class=\"wide\"><table><tr><th></th><th>phase</th>"
          "<th>verdict</th><th>checks</th><th>time</th><th>first failure</th></tr>\n";
  for (const Phase& phase : report.phases) page << verdict_row(phase);
  page << "</table></div>\n";
  for (const Phase& phase : report.phases) {
    const auto series = series_of(phase);
    if (!series.empty()) {
      page << "<h3>" << phase.id
           << ": error by layer</h3><p class=\"faint\">The largest relative RMS "
              "error over all inputs; dashed: what is allowed.</p><div class=\"plots\">\n";
      for (const auto& [row, values] : series) page << plot(row, values);
      page << "</div>\n";
    }
    page << checks_of(phase);
  }
  return page.str();
}

}  // namespace

std::string to_html(const std::vector<Report>& reports) {
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\"><title>verify_models</title><style>" +
      std::string(kStyle) + "</style></head><body>\n<h1>Is it the same model?</h1>\n";
  for (const Report& report : reports) page += section(report);
  return page + "</body></html>\n";
}

}  // namespace bezel::verify
