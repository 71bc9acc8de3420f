// Small files and folders for the tests of the checkpoint readers, and what a refusal was.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bezel::checkpoint {

/// A folder that goes away with the object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  /// Writes a new file, making the folders above it; one of that name is removed.
  std::filesystem::path write(const std::string& name, std::string_view bytes) const;
  /// Makes `name` a link to `target`, making the folders above it.
  std::filesystem::path link(const std::string& name, const std::filesystem::path& target) const;

 private:
  std::filesystem::path path_;
};

/// The bytes of a safetensors file: length of `header`, `header`, `data`.
std::string file_image(std::string_view header, std::string_view data);

/// One tensor of a header: "name":{"dtype":…,"shape":…,"data_offsets":…}.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets);

/// What an action threw: the exact type's name and the message; empty if it threw nothing.
struct Refusal {
  std::string type;
  std::string message;
};
Refusal refusal_of(const std::function<void()>& action);

/// One row of a table of inputs that must be refused with "<file>: <where>: found …, expected …".
struct Case {
  std::string name;
  std::string input;
  std::string where;     // tensor or field; may be empty
  std::string found;     // how the text after "found " begins
  std::string expected;  // how the text after ", expected " begins
  std::string type = "FormatError";
};

/// Runs `action` on every row and compares type and message, which must start with `file`.
void expect_refusals(const std::vector<Case>& cases, const std::string& file,
                     const std::function<void(const std::string&)>& action);

/// True if a person can read it: one line of UTF-8 without control characters, bounded.
bool is_readable(const std::string& message);

}  // namespace bezel::checkpoint
