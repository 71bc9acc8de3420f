// A sealed file as arrays; what is wrong with it is a FormatError.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>
#include <xtensor/xarray.hpp>

#include "bezel/hooks/store/sealed_reader.h"

namespace bezel::verify {

/// Paths in it: "/cases/prose/tokens". Each call throws FormatError where there is no such thing.
class BundleFile {
 public:
  explicit BundleFile(const std::filesystem::path& path);

  /// In the order in which they were made, where the group kept it.
  std::vector<std::string> members(const std::string& group) const;
  bool is_integer(const std::string& dataset) const;
  std::vector<std::string> axes(const std::string& dataset) const;
  /// A whole dataset of these very numbers.
  template <class Number>
  xt::xarray<Number> read(const std::string& dataset) const;
  std::vector<std::string> texts(const std::string& dataset) const;

  bool has_attribute(const std::string& object, const std::string& name) const;
  /// Kind: std::string, std::int64_t, double, std::vector<std::int64_t>.
  template <class Kind>
  Kind attribute(const std::string& object, const std::string& name) const;

 private:
  store::SealedFile file_;
};

}  // namespace bezel::verify
