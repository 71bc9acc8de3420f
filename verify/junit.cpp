#include "bezel/verify/junit.h"

#include <algorithm>
#include <sstream>

#include "bezel/verify/escape.h"

namespace bezel::verify {
namespace {

void write_case(const Check& check, const std::string& suite, std::ostringstream& xml) {
  xml << "    <testcase classname=\"" << escaped(suite) << "\" name=\"" << escaped(check.name)
      << "\">";
  if (check.verdict() == Verdict::kSkipped) {
    xml << "<skipped message=\"" << escaped(check.why) << "\"/>";
  } else if (check.verdict() == Verdict::kFailed) {
    xml << "<failure message=\"" << check.measured << " " << escaped(check.unit) << ", allowed "
        << check.tolerance << ". " << escaped(check.why) << "\"/>";
  }
  xml << "</testcase>\n";
}

void write_suite(const Phase& phase, const std::string& model, std::ostringstream& xml) {
  const auto n = [&](Verdict verdict) {
    return std::ranges::count(phase.checks, verdict, &Check::verdict);
  };
  const std::string suite = model + "." + phase.id;
  xml << "  <testsuite name=\"" << escaped(suite) << "\" tests=\"" << phase.checks.size()
      << "\" failures=\"" << n(Verdict::kFailed) << "\" skipped=\"" << n(Verdict::kSkipped)
      << "\" time=\"" << phase.seconds << "\">\n";
  for (const Check& check : phase.checks) write_case(check, suite, xml);
  xml << "  </testsuite>\n";
}

}  // namespace

std::string to_junit(const std::vector<Report>& reports) {
  std::ostringstream xml;
  xml << "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n";
  for (const Report& report : reports) {
    for (const Phase& phase : report.phases) write_suite(phase, report.model, xml);
  }
  xml << "</testsuites>\n";
  return xml.str();
}

}  // namespace bezel::verify
