#include "bezel/verify/escape.h"

namespace bezel::verify {

std::string escaped(const std::string& text) {
  std::string made;
  made.reserve(text.size());
  for (const char c : text) {
    if (c == '<') {
      made += "&lt;";
    } else if (c == '>') {
      made += "&gt;";
    } else if (c == '&') {
      made += "&amp;";
    } else if (c == '"') {
      made += "&quot;";
    } else if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') {
      made += "\xEF\xBF\xBD";
    } else {
      made += c;
    }
  }
  return made;
}

}  // namespace bezel::verify
