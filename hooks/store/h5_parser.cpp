#include "bezel/hooks/store/h5_parser.h"

#include <algorithm>
#include <utility>

#include "bezel/hooks/store/h5_heap.h"

namespace bezel::store::h5 {
namespace {

constexpr const char* kLabels = "DIMENSION_LABELS";

std::vector<std::string> copies_of(const std::vector<char*>& given) {
  std::vector<std::string> texts;
  texts.reserve(given.size());
  for (const char* text : given) texts.emplace_back(text == nullptr ? "" : text);
  return texts;
}

bool is_variable_text(const Handle& type) {
  return H5Tget_class(type.id()) == H5T_STRING && H5Tis_variable_str(type.id()) > 0;
}

}  // namespace

Handle Parser::open_dataset(const std::string& path) const {
  for (auto slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    H5L_info_t link{};
    if (H5Lget_info(file_.id(), path.substr(0, slash).c_str(), &link, H5P_DEFAULT) < 0 ||
        link.type != H5L_TYPE_HARD)
      refuse(path + " is missing, or a link to elsewhere");
    if (slash == path.npos) break;
  }
  Handle dataset(H5Dopen2(file_.id(), path.c_str(), H5P_DEFAULT), H5Dclose);
  if (dataset.id() < 0) refuse(path + " is no dataset");
  return dataset;
}

Handle Parser::root() const {
  Handle root(H5Gopen2(file_.id(), "/", H5P_DEFAULT), H5Gclose);
  if (root.id() < 0) refuse("has no groups");
  return root;
}

Handle Parser::open_at(const std::string& path, haddr_t address) const {
  Handle object(H5Oopen_by_addr(file_.id(), address), H5Oclose);
  if (object.id() < 0) refuse(path + " cannot be opened");
  return object;
}

// In the file's own order: to sort, HDF5 1.10 makes a table, and dies of one that it cannot fill.
std::vector<Parser::Member> Parser::members_of(const std::string& path, const Handle& group) const {
  const auto add = [](hid_t, const char* name, const H5L_info_t* link, void* into) -> herr_t {
    const bool is_hard = link->type == H5L_TYPE_HARD;
    static_cast<std::vector<Member>*>(into)->push_back(
        {name, is_hard ? link->u.address : HADDR_UNDEF, link->corder_valid ? link->corder : 0});
    return 0;
  };
  std::vector<Member> members;
  if (H5Literate(group.id(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &members) < 0)
    refuse(path + " cannot be listed");
  for (const Member& member : members)
    if (member.address == HADDR_UNDEF)
      refuse("\"" + member.name + "\" in " + path +
             " is a link to elsewhere; wanted the value itself");
  std::ranges::sort(members, {}, [](const Member& one) { return std::pair(one.order, one.name); });
  return members;
}

std::vector<hsize_t> Parser::shape_of(const std::string& path, const Handle& dataset) const {
  const Handle space(H5Dget_space(dataset.id()), H5Sclose);
  const H5S_class_t kind = H5Sget_simple_extent_type(space.id());
  const int rank = H5Sget_simple_extent_ndims(space.id());
  if ((kind != H5S_SIMPLE && kind != H5S_SCALAR) || rank < 0) refuse(path + " has no shape");
  std::vector<hsize_t> shape(static_cast<std::size_t>(rank));
  if (rank > 0 && H5Sget_simple_extent_dims(space.id(), shape.data(), nullptr) < 0)
    refuse(path + " has no shape");
  return shape;
}

std::uint64_t Parser::place_of(const std::string& path, const Handle& dataset,
                               std::uint64_t n_bytes) const {
  const Handle made(H5Dget_create_plist(dataset.id()), H5Pclose);
  if (H5Pget_layout(made.id()) != H5D_CONTIGUOUS || H5Pget_external_count(made.id()) != 0)
    refuse(path + " is stored in pieces or elsewhere; wanted it contiguous");
  const std::uint64_t place = H5Dget_offset(dataset.id());
  if (n_bytes > 0 &&
      (place == HADDR_UNDEF || place > storage_.size() || n_bytes > storage_.size() - place))
    refuse(path + " claims " + std::to_string(n_bytes) + " bytes, more than the file has");
  return n_bytes > 0 ? place : 0;
}

std::vector<std::string> Parser::texts_of(const std::string& path, const Handle& dataset) const {
  const auto shape = shape_of(path, dataset);
  if (shape.size() != 1 || !is_variable_text(Handle(H5Dget_type(dataset.id()), H5Tclose)))
    refuse("the type of " + path + " is none that bezel writes");
  return texts_at(storage_, place_of(path, dataset, shape[0]), shape[0]);
}

std::vector<std::string> Parser::labels_of(const std::string& path, const Handle& dataset) const {
  if (H5Aexists(dataset.id(), kLabels) <= 0) return {};
  const Handle found(H5Aopen(dataset.id(), kLabels, H5P_DEFAULT), H5Aclose);
  const Handle space(H5Aget_space(found.id()), H5Sclose), type = text_type();
  const hssize_t n = H5Sget_simple_extent_npoints(space.id());
  if (n < 0 || n > H5S_MAX_RANK || !is_variable_text(Handle(H5Aget_type(found.id()), H5Tclose)))
    refuse(path + " has labels that are no texts, one for each axis");
  std::vector<char*> given(static_cast<std::size_t>(n));
  if (n > 0 && H5Aread(found.id(), type.id(), static_cast<void*>(given.data())) < 0)
    refuse(path + " has labels that cannot be read");
  auto labels = copies_of(given);
  H5Dvlen_reclaim(type.id(), space.id(), H5P_DEFAULT, static_cast<void*>(given.data()));
  return labels;
}

Attribute Parser::attribute_of(const std::string& path, const Handle& object,
                               const std::string& name) const {
  const Handle found(H5Aopen(object.id(), name.c_str(), H5P_DEFAULT), H5Aclose);
  if (found.id() < 0) refuse(path + " has no " + name);
  const Handle type(H5Aget_type(found.id()), H5Tclose), space(H5Aget_space(found.id()), H5Sclose);
  const H5S_class_t kind = H5Sget_simple_extent_type(space.id());
  const H5T_class_t of = H5Tget_class(type.id());
  const auto read = [&](hid_t as, void* into) {
    if (H5Aread(found.id(), as, into) < 0)
      refuse(path + ": its attribute " + name + " cannot be read");
  };
  if (kind == H5S_SCALAR && of == H5T_STRING && H5Tis_variable_str(type.id()) == 0 &&
      H5Tget_size(type.id()) <= storage_.size()) {
    std::string text(H5Tget_size(type.id()), '\0');
    read(type.id(), text.data());
    return text.substr(0, text.find('\0'));
  }
  if (kind == H5S_SCALAR && of == H5T_FLOAT) {
    double number = 0;
    read(H5T_NATIVE_DOUBLE, &number);
    return number;
  }
  const hssize_t n = H5Sget_simple_extent_npoints(space.id());
  if (of != H5T_INTEGER || n < 0 || static_cast<std::uint64_t>(n) > storage_.size() ||
      H5Sget_simple_extent_ndims(space.id()) > 1)
    refuse(path + ": its attribute " + name + " is of a kind that bezel does not write");
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(n));
  if (n > 0) read(H5T_NATIVE_INT64, numbers.data());
  if (kind == H5S_SCALAR) return numbers.at(0);
  return numbers;
}

std::map<std::string, Attribute> Parser::attributes_of(const std::string& path,
                                                       const Handle& object) const {
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5A_info_t*, void* into) -> herr_t {
    static_cast<std::vector<std::string>*>(into)->emplace_back(name);
    return 0;
  };
  if (H5Aiterate2(object.id(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &names) < 0)
    refuse(path + " has attributes that cannot be listed");
  std::map<std::string, Attribute> attributes;
  for (const std::string& name : names)
    if (name != kLabels) attributes[name] = attribute_of(path, object, name);
  return attributes;
}

}  // namespace bezel::store::h5
