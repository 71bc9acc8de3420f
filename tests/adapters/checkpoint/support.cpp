#include "support.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <typeinfo>

#include "bezel/hooks/error.h"

namespace bezel::checkpoint {

namespace fs = std::filesystem;

namespace {

bool is_utf8(const std::string& text) {
  try {
    return !nlohmann::json(text).dump().empty();  // throws on anything else
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

}  // namespace

TempFolder::TempFolder() {
  std::string pattern = fs::temp_directory_path() / "bezel_checkpoint_XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = fs::canonical(pattern);
}

TempFolder::~TempFolder() { fs::remove_all(path_); }

fs::path TempFolder::write(const std::string& name, std::string_view bytes) const {
  fs::create_directories((path_ / name).parent_path());
  fs::remove(path_ / name);  // ext4 makes rewriting a file in place wait for the disk
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

void expect_refusals(const std::vector<Case>& cases, const std::string& file,
                     const std::function<void(const std::string&)>& action) {
  for (const Case& row : cases) {
    SCOPED_TRACE(row.name);
    const Refusal refusal = refusal_of([&] { action(row.input); });
    EXPECT_EQ(refusal.type, row.type) << refusal.message;
    const std::string start = file + ": " + (row.where.empty() ? "" : row.where + ": ") + "found ";
    EXPECT_TRUE(refusal.message.starts_with(start + row.found))
        << "want: " << start << row.found << "\n got: " << refusal.message;
    EXPECT_NE(refusal.message.find(", expected " + row.expected), std::string::npos)
        << "want: , expected " << row.expected << "\n got: " << refusal.message;
    EXPECT_TRUE(is_readable(refusal.message)) << refusal.message;
  }
}

bool is_readable(const std::string& message) {
  constexpr std::size_t kMaxBytes = 1000;
  const bool has_control = std::ranges::any_of(message, [](unsigned char c) { return c < ' '; });
  return !has_control && message.size() < kMaxBytes && is_utf8(message);
}

}  // namespace bezel::checkpoint
