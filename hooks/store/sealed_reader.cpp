#include "bezel/hooks/store/sealed_reader.h"

#include <array>
#include <set>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/h5_parser.h"

namespace bezel::store {
namespace {

using h5::Handle;
using Object = SealedFile::Object;

constexpr auto kDTypes = std::to_array(
    {DType::kFloat32, DType::kInt64, DType::kBFloat16, DType::kFloat16, DType::kFloat64,
     DType::kUInt8, DType::kUInt64, DType::kInt8, DType::kInt16, DType::kInt32});
constexpr int kMaxDepth = 16;  // of groups in groups

// Goes through the whole file once.
class Walk {
 public:
  Walk(const h5::Parser& parser, std::uint64_t n_bytes, SealedFile::Objects& objects)
      : parser_(parser), n_left_(n_bytes), objects_(objects) {
    for (const DType dtype : kDTypes) types_.emplace_back(dtype, h5::type_of(dtype));
  }

  void group(const std::string& path, const Handle& opened, int depth) {
    if (depth > kMaxDepth) parser_.refuse(path + " lies too deep");
    Object object{.attributes = parser_.attributes_of(path, opened), .holds = SealedFile::Group{}};
    auto& names = std::get<SealedFile::Group>(object.holds).members;
    for (const auto& found : parser_.members_of(path, opened)) {
      names.push_back(found.name);
      member((path == "/" ? path : path + "/") + found.name, found.address, depth);
    }
    objects_[path] = std::make_shared<const Object>(std::move(object));
  }

 private:
  void member(const std::string& path, haddr_t address, int depth) {
    auto& known = known_[address];
    if (!known) {
      const Handle opened = parser_.open_at(path, address);
      if (H5Iget_type(opened.id()) == H5I_GROUP) {
        if (!groups_.insert(address).second) parser_.refuse(path + " is a group with two names");
        return group(path, opened, depth + 1);
      }
      if (H5Iget_type(opened.id()) != H5I_DATASET)
        parser_.refuse(path + " is neither group nor dataset");
      known = std::make_shared<const Object>(dataset(path, opened));
    }
    objects_[path] = known;
  }

  Object dataset(const std::string& path, const Handle& opened) {
    Object object{.attributes = parser_.attributes_of(path, opened), .holds = {}};
    const Handle type(H5Dget_type(opened.id()), H5Tclose);
    if (H5Tget_class(type.id()) == H5T_STRING) {
      object.holds = SealedFile::Texts{parser_.texts_of(path, opened)};
      return object;
    }
    SealedDataset values{.dtype = dtype_of(path, type, object.attributes)};
    const auto shape = parser_.shape_of(path, opened);
    values.shape.assign(shape.begin(), shape.end());
    values.axes = parser_.labels_of(path, opened);
    values.n_bytes = n_bytes_of(path, values);
    values.place = parser_.place_of(path, opened, values.n_bytes);
    if (values.n_bytes > n_left_)
      parser_.refuse(path + " claims " + std::to_string(values.n_bytes) +
                     " bytes: with the datasets before it more than the file has");
    n_left_ -= values.n_bytes;
    object.holds = std::move(values);
    return object;
  }

  DType dtype_of(const std::string& path, const Handle& type,
                 const std::map<std::string, Attribute>& attributes) const {
    const auto word = attributes.find("dtype");
    const bool says_bfloat16 =
        word != attributes.end() && word->second == Attribute(std::string("bfloat16"));
    for (const auto& [dtype, stored] : types_)
      if (H5Tequal(type.id(), stored.id()) > 0 && says_bfloat16 == (dtype == DType::kBFloat16))
        return dtype;
    parser_.refuse("the type of " + path + " is none that bezel writes");
  }

  std::uint64_t n_bytes_of(const std::string& path, const SealedDataset& values) const {
    std::uint64_t n_bytes = size_of(values.dtype);
    for (const std::uint64_t length : values.shape)
      if (__builtin_mul_overflow(n_bytes, length, &n_bytes))
        parser_.refuse(path + " claims more than the file has");
    return n_bytes;
  }

  const h5::Parser& parser_;
  std::uint64_t n_left_;
  SealedFile::Objects& objects_;
  std::vector<std::pair<DType, Handle>> types_;
  std::map<haddr_t, std::shared_ptr<const Object>> known_;
  std::set<haddr_t> groups_;
};

}  // namespace

SealedFile::SealedFile(Io& io, const std::filesystem::path& path, SealedKind kind)
    : kind_(std::move(kind)) {
  file_ = io.open(path, OpenMode::kReadThroughLinks);
  const std::uint64_t n_bytes = check_seal(*file_, kind_);
  const auto lock = h5::lock();
  h5::FileStorage storage(*file_, n_bytes);
  const h5::Parser parser(storage);
  Walk(parser, n_bytes, objects_).group("/", parser.root(), 0);
}

void SealedFile::refuse(const std::string& why) const {
  throw StoreError(path().string() + " is not " + kind_.wanted + ": " + why);
}

const Object& SealedFile::object(const std::string& path) const {
  const auto found = objects_.find(path);
  if (found == objects_.end()) refuse(path + " is missing");
  return *found->second;
}

template <class Kind>
const Kind& SealedFile::held(const std::string& path, const char* what) const {
  const Kind* const found = std::get_if<Kind>(&object(path).holds);
  if (found == nullptr) refuse("at " + path + " there is something else; wanted " + what);
  return *found;
}

const std::vector<std::string>& SealedFile::members(const std::string& group) const {
  return held<Group>(group, "a group").members;
}
const SealedDataset& SealedFile::dataset(const std::string& path) const {
  return held<SealedDataset>(path, "a dataset of numbers");
}
const std::vector<std::string>& SealedFile::texts(const std::string& path) const {
  return held<Texts>(path, "a list of texts").texts;
}
const std::map<std::string, Attribute>& SealedFile::attributes(const std::string& path) const {
  return object(path).attributes;
}

template <class Kind>
const Kind& SealedFile::attribute(const std::string& path, const std::string& name) const {
  const auto found = attributes(path).find(name);
  if (found == attributes(path).end()) refuse(path + " has no attribute " + name);
  const Kind* const value = std::get_if<Kind>(&found->second);
  if (value == nullptr)
    refuse(path + ": its attribute " + name + " is of another kind than wanted");
  return *value;
}
template const std::string& SealedFile::attribute(const std::string&, const std::string&) const;
template const std::int64_t& SealedFile::attribute(const std::string&, const std::string&) const;
template const double& SealedFile::attribute(const std::string&, const std::string&) const;
template const std::vector<std::int64_t>& SealedFile::attribute(const std::string&,
                                                                const std::string&) const;

void SealedFile::read(const SealedDataset& dataset, std::span<std::byte> into) const {
  if (into.size() != dataset.n_bytes)
    throw ArgumentError("room for " + std::to_string(into.size()) + " bytes; wanted " +
                        std::to_string(dataset.n_bytes));
  read_all(*file_, dataset.place, into);
}

}  // namespace bezel::store
