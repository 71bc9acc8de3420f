#include "bezel/verify/h5.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <numeric>

#include "bezel/hooks/error.h"

namespace bezel::verify::h5 {
namespace {

void be_quiet() {  // our errors carry what there is to say
  static std::once_flag once;
  std::call_once(once, [] {
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  });
}

template <class Number>
hid_t native();
template <>
hid_t native<float>() {
  return H5T_NATIVE_FLOAT;
}
template <>
hid_t native<double>() {
  return H5T_NATIVE_DOUBLE;
}
template <>
hid_t native<std::int64_t>() {
  return H5T_NATIVE_INT64;
}
template <>
hid_t native<std::uint64_t>() {
  return H5T_NATIVE_UINT64;
}

std::vector<std::size_t> extent(hid_t space) {
  const int rank = H5Sget_simple_extent_ndims(space);
  std::vector<hsize_t> lengths(static_cast<std::size_t>(std::max(rank, 0)));
  if (rank > 0) H5Sget_simple_extent_dims(space, lengths.data(), nullptr);
  return {lengths.begin(), lengths.end()};
}

std::size_t n_elements(const std::vector<std::size_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

// Texts of variable length, as HDF5 hands them out, copied and given back.
std::vector<std::string> texts_of(std::vector<char*> given, hid_t type, hid_t space) {
  std::vector<std::string> texts;
  texts.reserve(given.size());
  for (const char* text : given) texts.emplace_back(text == nullptr ? "" : text);
  H5Dvlen_reclaim(type, space, H5P_DEFAULT, given.data());
  return texts;
}

Handle text_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), H5T_VARIABLE);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  return type;
}

}  // namespace

File::File(const std::filesystem::path& path) : path_(path) {
  be_quiet();
  std::error_code error;
  n_bytes_ = std::filesystem::file_size(path, error);
  file_ = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (file_.id() < 0) refuse("the file", "is not HDF5");
}

void File::refuse(const std::string& place, const std::string& why) const {
  throw FormatError(path_.string() + ": " + place + " " + why);
}

bool File::contains(const std::string& path) const {
  for (auto slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    if (H5Lexists(file_.id(), path.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
  }
  return H5Lexists(file_.id(), path.c_str(), H5P_DEFAULT) > 0;
}

std::vector<std::string> File::members(const std::string& group) const {
  const Handle opened(H5Gopen2(file_.id(), group.c_str(), H5P_DEFAULT), H5Gclose);
  if (opened.id() < 0) refuse(group, "is missing");
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* into) -> herr_t {
    static_cast<std::vector<std::string>*>(into)->emplace_back(name);
    return 0;
  };
  for (const H5_index_t order : {H5_INDEX_CRT_ORDER, H5_INDEX_NAME}) {
    names.clear();
    if (H5Literate(opened.id(), order, H5_ITER_INC, nullptr, add, &names) >= 0) return names;
  }
  refuse(group, "cannot be listed");
}

Handle File::open_dataset(const std::string& path) const {
  Handle dataset(contains(path) ? H5Dopen2(file_.id(), path.c_str(), H5P_DEFAULT) : -1, H5Dclose);
  if (dataset.id() < 0) refuse(path, "is missing");
  return dataset;
}

std::vector<std::size_t> File::shape(const std::string& dataset) const {
  const Handle opened = open_dataset(dataset);
  return extent(Handle(H5Dget_space(opened.id()), H5Sclose).id());
}

bool File::is_integer(const std::string& dataset) const {
  const Handle opened = open_dataset(dataset);
  return H5Tget_class(Handle(H5Dget_type(opened.id()), H5Tclose).id()) == H5T_INTEGER;
}

template <class Number>
xt::xarray<Number> File::read(const std::string& dataset) const {
  const Handle opened = open_dataset(dataset);
  const Handle type(H5Dget_type(opened.id()), H5Tclose);
  const bool is_whole = H5Tget_class(type.id()) == H5T_INTEGER;
  if (is_whole != std::is_integral_v<Number> ||
      (!is_whole && H5Tget_class(type.id()) != H5T_FLOAT)) {
    refuse(dataset, std::string("holds other than ") +
                        (std::is_integral_v<Number> ? "whole numbers" : "floating numbers"));
  }
  const auto shape = extent(Handle(H5Dget_space(opened.id()), H5Sclose).id());
  if (n_elements(shape) * H5Tget_size(type.id()) > n_bytes_) {
    refuse(dataset, "claims more bytes than the file has");
  }
  xt::xarray<Number> values = xt::xarray<Number>::from_shape(shape);
  if (values.size() > 0 &&
      H5Dread(opened.id(), native<Number>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    refuse(dataset, "cannot be read");
  }
  return values;
}
template xt::xarray<float> File::read(const std::string&) const;
template xt::xarray<double> File::read(const std::string&) const;
template xt::xarray<std::int64_t> File::read(const std::string&) const;
template xt::xarray<std::uint64_t> File::read(const std::string&) const;

std::vector<std::string> File::read_texts(const std::string& dataset) const {
  const Handle opened = open_dataset(dataset);
  const Handle space(H5Dget_space(opened.id()), H5Sclose);
  const Handle type = text_type();
  std::vector<char*> given(n_elements(extent(space.id())));
  if (given.size() > n_bytes_) refuse(dataset, "claims more bytes than the file has");
  if (!given.empty() &&
      H5Dread(opened.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, given.data()) < 0) {
    refuse(dataset, "holds no texts");
  }
  return texts_of(std::move(given), type.id(), space.id());
}

bool File::has_attribute(const std::string& object, const std::string& name) const {
  return contains(object) &&
         H5Aexists_by_name(file_.id(), object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

Handle File::open_attribute(const std::string& object, const std::string& name) const {
  Handle attribute(
      has_attribute(object, name)
          ? H5Aopen_by_name(file_.id(), object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT)
          : -1,
      H5Aclose);
  if (attribute.id() < 0) refuse(object, "has no attribute \"" + name + "\"");
  return attribute;
}

std::string File::text_attribute(const std::string& object, const std::string& name) const {
  const Handle attribute = open_attribute(object, name);
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) > 0) {
    refuse(object, "has in \"" + name + "\" no text of fixed length");
  }
  std::string text(H5Tget_size(type.id()), '\0');
  if (text.size() > n_bytes_ || H5Aread(attribute.id(), type.id(), text.data()) < 0) {
    refuse(object, "has in \"" + name + "\" a text that cannot be read");
  }
  return text.substr(0, text.find('\0'));
}

std::vector<std::string> File::texts_attribute(const std::string& object,
                                               const std::string& name) const {
  const Handle attribute = open_attribute(object, name);
  const Handle space(H5Aget_space(attribute.id()), H5Sclose);
  const Handle type = text_type();
  std::vector<char*> given(n_elements(extent(space.id())));
  if (given.size() > n_bytes_ || H5Aread(attribute.id(), type.id(), given.data()) < 0) {
    refuse(object, "has in \"" + name + "\" no texts");
  }
  return texts_of(std::move(given), type.id(), space.id());
}

std::int64_t File::integer_attribute(const std::string& object, const std::string& name) const {
  const auto values = integers_attribute(object, name);
  if (values.size() != 1) refuse(object, "has in \"" + name + "\" no single number");
  return values[0];
}

double File::number_attribute(const std::string& object, const std::string& name) const {
  const Handle attribute = open_attribute(object, name);
  double value = 0;
  const Handle space(H5Aget_space(attribute.id()), H5Sclose);
  if (n_elements(extent(space.id())) != 1 ||
      H5Aread(attribute.id(), H5T_NATIVE_DOUBLE, &value) < 0) {
    refuse(object, "has in \"" + name + "\" no single number");
  }
  return value;
}

std::vector<std::int64_t> File::integers_attribute(const std::string& object,
                                                   const std::string& name) const {
  const Handle attribute = open_attribute(object, name);
  const Handle space(H5Aget_space(attribute.id()), H5Sclose);
  std::vector<std::int64_t> values(n_elements(extent(space.id())));
  if (values.size() > n_bytes_ || H5Aread(attribute.id(), H5T_NATIVE_INT64, values.data()) < 0) {
    refuse(object, "has in \"" + name + "\" no whole numbers");
  }
  return values;
}

}  // namespace bezel::verify::h5
