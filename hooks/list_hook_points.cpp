// Prints the table of hook points for other languages: `list_hook_points python` makes
// python/bezel/hook_names.py, `list_hook_points markdown` the page of names.
#include <iostream>
#include <string>
#include <string_view>

#include "bezel/hooks/hook_points.h"
#include "bezel/hooks/part_rows.h"

namespace {

using namespace bezel::hooks;

std::string axes_of(const HookPoint& point) {
  std::string words;
  for (const Axis axis : point.axes) {
    words += (words.empty() ? "" : " ") + std::string(to_string(axis));
  }
  return words;
}

void print_python() {
  std::cout
      << "\"\"\"Made from hooks/hook_points.h by list_hook_points; do not edit.\"\"\"\n\n"
         "from typing import Literal, TypeAlias\n\n"
         "# The rows of the table; the full name of a row in a block begins with \"blocks.3.\",\n"
         "# \"vision_encoder.blocks.3.\" or \"audio_encoder.blocks.3.\".\n"
         "HookName: TypeAlias = Literal[\n";
  for (const HookPoint& point : kHookPoints) std::cout << "    \"" << point.name << "\",\n";
  std::cout << "]\n";
}

void print_row(const char* prefix, const HookPoint& point) {
  std::cout << "| `" << prefix << point.name << "` | " << axes_of(point) << " | "
            << to_string(point.where) << " | "
            << (point.access == Access::kOnDemand ? "on demand" : "edit") << " | " << point.meaning
            << " |\n";
}

void print_blocks(Part part, const char* prefix) {
  for (const HookPoint& point : table_of(part)) {
    if (is_in_blocks_of(part, point.where)) print_row(prefix, point);
  }
}

void print_markdown() {
  std::cout << "| name | axes | where | access | meaning |\n|---|---|---|---|---|\n";
  for (const HookPoint& point : kHookPoints) {
    if (!is_in_layer(point.where)) print_row("", point);
  }
  print_blocks(Part::kText, "blocks.{i}.");
  print_blocks(Part::kVision, "vision_encoder.blocks.{i}.");
  print_blocks(Part::kAudio, "audio_encoder.blocks.{i}.");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view form = argc == 2 ? argv[1] : "";
  if (form == "python") {
    print_python();
  } else if (form == "markdown") {
    print_markdown();
  } else {
    std::cerr << "usage: list_hook_points python|markdown\n";
    return 2;
  }
  return 0;
}
