#include "support.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <typeinfo>

#include "bezel/hooks/error.h"

namespace bezel::checkpoint {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string pattern = fs::temp_directory_path() / "bezel_checkpoint_XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = fs::canonical(pattern);
}

TempFolder::~TempFolder() { fs::remove_all(path_); }

fs::path TempFolder::write(const std::string& name, std::string_view bytes) const {
  fs::create_directories((path_ / name).parent_path());
  std::ofstream(path_ / name, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path_ / name;
}

fs::path TempFolder::link(const std::string& name, const fs::path& target) const {
  fs::create_directories((path_ / name).parent_path());
  fs::create_symlink(target, path_ / name);
  return path_ / name;
}

std::string file_image(std::string_view header, std::string_view data) {
  const std::uint64_t n = header.size();
  std::string image(sizeof n, '\0');
  std::memcpy(image.data(), &n, sizeof n);
  return image.append(header).append(data);
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

Refusal refusal_of(const std::function<void()>& action) {
  const auto name = [](const std::exception& error) -> std::string {
    if (typeid(error) == typeid(FormatError)) return "FormatError";
    if (typeid(error) == typeid(UnsupportedError)) return "UnsupportedError";
    if (typeid(error) == typeid(ResourceLimitError)) return "ResourceLimitError";
    if (typeid(error) == typeid(CheckpointError)) return "CheckpointError";
    if (typeid(error) == typeid(ArgumentError)) return "ArgumentError";
    return typeid(error).name();
  };
  try {
    action();
  } catch (const std::exception& error) {
    return {name(error), error.what()};
  }
  return {};
}

void expect_refusals(const std::vector<Case>& cases, const std::string& start,
                     const std::function<void(const std::string&)>& action) {
  for (const Case& row : cases) {
    SCOPED_TRACE(row.name);
    const Refusal refusal = refusal_of([&] { action(row.input); });
    EXPECT_EQ(refusal.type, row.type) << refusal.message;
    EXPECT_TRUE(refusal.message.starts_with(start)) << refusal.message;
    for (const std::string& part : row.parts)
      EXPECT_NE(refusal.message.find(part), std::string::npos)
          << "no '" << part << "' in: " << refusal.message;
    EXPECT_TRUE(std::ranges::none_of(refusal.message, [](unsigned char c) { return c < ' '; }));
    EXPECT_LT(refusal.message.size(), 1000u);
  }
}

}  // namespace bezel::checkpoint
