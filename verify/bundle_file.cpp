#include "bezel/verify/bundle_file.h"

#include <span>

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

using store::DType;

template <class Action>
auto as_format(Action action) {
  try {
    return action();
  } catch (const StoreError& error) {
    throw FormatError(error.what());
  }
}

template <class Number>
constexpr DType kStored = DType::kFloat32;
template <>
constexpr DType kStored<double> = DType::kFloat64;
template <>
constexpr DType kStored<std::int64_t> = DType::kInt64;
template <>
constexpr DType kStored<std::uint64_t> = DType::kUInt64;

store::SealedFile opened(const std::filesystem::path& path) {
  const auto io = store::make_posix_io();
  return {*io, path, {"a reference that bezel wrote", "Make it again with `bezel reference`"}};
}

}  // namespace

BundleFile::BundleFile(const std::filesystem::path& path)
    : file_(as_format([&] { return opened(path); })) {}

std::vector<std::string> BundleFile::members(const std::string& group) const {
  return as_format([&] { return file_.members(group); });
}

bool BundleFile::is_integer(const std::string& dataset) const {
  return as_format([&] { return file_.dataset(dataset).dtype == DType::kInt64; });
}

std::vector<std::string> BundleFile::axes(const std::string& dataset) const {
  return as_format([&] { return file_.dataset(dataset).axes; });
}

template <class Number>
xt::xarray<Number> BundleFile::read(const std::string& dataset) const {
  return as_format([&] {
    const store::SealedDataset& found = file_.dataset(dataset);
    if (found.dtype != kStored<Number>)
      file_.refuse(dataset + " holds " + std::string(to_string(found.dtype)) + "; wanted " +
                   std::string(to_string(kStored<Number>)));
    const std::vector<std::size_t> shape(found.shape.begin(), found.shape.end());
    xt::xarray<Number> values = xt::xarray<Number>::from_shape(shape);
    file_.read(found, std::as_writable_bytes(std::span(values.data(), values.size())));
    return values;
  });
}
template xt::xarray<float> BundleFile::read(const std::string&) const;
template xt::xarray<double> BundleFile::read(const std::string&) const;
template xt::xarray<std::int64_t> BundleFile::read(const std::string&) const;
template xt::xarray<std::uint64_t> BundleFile::read(const std::string&) const;

std::vector<std::string> BundleFile::texts(const std::string& dataset) const {
  return as_format([&] { return file_.texts(dataset); });
}

bool BundleFile::has_attribute(const std::string& object, const std::string& name) const {
  return as_format([&] { return file_.attributes(object).contains(name); });
}

template <class Kind>
Kind BundleFile::attribute(const std::string& object, const std::string& name) const {
  return as_format([&] { return file_.attribute<Kind>(object, name); });
}
template std::string BundleFile::attribute(const std::string&, const std::string&) const;
template std::int64_t BundleFile::attribute(const std::string&, const std::string&) const;
template double BundleFile::attribute(const std::string&, const std::string&) const;
template std::vector<std::int64_t> BundleFile::attribute(const std::string&,
                                                         const std::string&) const;

}  // namespace bezel::verify
