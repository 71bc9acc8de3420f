// The report as HTML and as JUnit XML.
#include <gtest/gtest.h>

#include <cmath>

#include "bezel/verify/html.h"
#include "bezel/verify/junit.h"

namespace bezel::verify {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

std::vector<Report> reports() {
  Phase phase{.id = "P1", .title = "forward <parity>"};
  for (int layer = 0; layer < 3; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    for (const char* input : {"prose: ", "code: "}) {
      phase.checks.push_back({.name = input + block + "attn.hook_z",
                              .measured = layer == 2 ? INFINITY : 1e-7,
                              .tolerance = 1e-5,
                              .unit = "relative RMS",
                              .layer = layer,
                              .why = layer == 2 ? "NaN & \"more\"" : ""});
    }
  }
  phase.checks.push_back({.name = "media", .why = "no <reference>", .is_skipped = true});
  return {{.model = "a&b",
           .dtype = "float32",
           .device = "cpu",
           .versions = "{\"torch\": \"2\"}",
           .reference = "ref.h5",
           .phases = {phase}}};
}

TEST(Pages, TheHtmlNeedsNothingButItself) {
  const auto page = to_html(reports());
  for (const char* outside : {"http://", "https://", "<script", "<link", "src=", "@import"}) {
    EXPECT_EQ(count(page, outside), 0U) << outside;
  }
}

TEST(Pages, TheHtmlShowsVerdictsOriginAndEachBlocksWorstError) {
  const auto page = to_html(reports());
  EXPECT_NE(page.find("a&amp;b"), std::string::npos);
  EXPECT_NE(page.find("forward &lt;parity&gt;"), std::string::npos);
  EXPECT_NE(page.find("<code>prose: blocks.2.attn.hook_z</code>: inf"), std::string::npos);
  EXPECT_NE(page.find("no &lt;reference&gt;"), std::string::npos);
  EXPECT_NE(page.find("of torch 2"), std::string::npos);
  EXPECT_EQ(count(page, "<svg"), 1U);
  EXPECT_EQ(count(page, "<circle"), 3U);
  EXPECT_EQ(count(page, "fill=\"var(--failed)\""), 1U);
}

TEST(Pages, AReportWithoutPhasesIsAPage) {
  EXPECT_NE(to_html({Report{}}).find("failed"), std::string::npos);
  EXPECT_NE(to_html({}).find("</html>"), std::string::npos);
}

TEST(Pages, JUnitCountsAndSaysWhy) {
  const auto xml = to_junit(reports());
  EXPECT_NE(xml.find("<testsuite name=\"a&amp;b.P1\" tests=\"7\" failures=\"2\" skipped=\"1\""),
            std::string::npos);
  EXPECT_EQ(count(xml, "<testcase"), 7U);
  EXPECT_EQ(count(xml, "<failure message=\"inf relative RMS, allowed 1e-05. NaN &amp; &quot;more"),
            2U);
  EXPECT_EQ(count(xml, "<skipped message=\"no &lt;reference&gt;\"/>"), 1U);
}

}  // namespace
}  // namespace bezel::verify
