#include "bezel/hooks/store/h5_builder.h"

#include <array>
#include <type_traits>

namespace bezel::store::h5 {
namespace {

Handle space_of(const std::vector<hsize_t>& shape) {
  return Handle(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), H5Sclose);
}

std::vector<const char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<const char*> pointers;
  pointers.reserve(texts.size());
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  return pointers;
}

}  // namespace

void Builder::group(const std::string& path, Order order) const {
  const Handle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.id(), false);
  if (order == Order::kAsMade) {
    H5Pset_link_creation_order(creation.id(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    H5Pset_attr_creation_order(creation.id(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
  }
  const Handle made(H5Gcreate2(file_, path.c_str(), H5P_DEFAULT, creation.id(), H5P_DEFAULT),
                    H5Gclose);
  if (made.id() < 0) fail(storage_, path + ": cannot be made");
}

Handle Builder::dataset(const std::string& path, hid_t type,
                        const std::vector<hsize_t>& shape) const {
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(creation.id(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(creation.id(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER);
  return dataset(path, type, shape, creation.id());
}

Handle Builder::dataset(const std::string& path, hid_t type, const std::vector<hsize_t>& shape,
                        hid_t creation) const {
  H5Pset_obj_track_times(creation, false);
  Handle made(H5Dcreate2(file_, path.c_str(), type, space_of(shape).id(), H5P_DEFAULT, creation,
                         H5P_DEFAULT),
              H5Dclose);
  if (made.id() < 0) fail(storage_, path + ": cannot be made");
  return made;
}

void Builder::texts(const std::string& path, const std::vector<std::string>& texts) const {
  const Handle type = text_type(), creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const Handle made = dataset(path, type.id(), {texts.size()}, creation.id());
  if (!texts.empty() && H5Dwrite(made.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT,
                                 static_cast<const void*>(pointers_to(texts).data())) < 0)
    fail(storage_, path + ": its texts cannot be written");
}

void Builder::link(const std::string& path, const std::string& of) const {
  if (H5Lcreate_hard(file_, of.c_str(), file_, path.c_str(), H5P_DEFAULT, H5P_DEFAULT) < 0)
    fail(storage_, path + ": cannot be a second name of " + of);
}

std::uint64_t Builder::place_of(const Handle& dataset) const {
  const haddr_t place = H5Dget_offset(dataset.id());
  if (place == HADDR_UNDEF) fail(storage_, "a dataset has no place in the file");
  return place;
}

void Builder::attribute(const std::string& path, const std::string& name, hid_t type, hid_t space,
                        const void* value) const {
  const Handle made(H5Acreate_by_name(file_, path.c_str(), name.c_str(), type, space, H5P_DEFAULT,
                                      H5P_DEFAULT, H5P_DEFAULT),
                    H5Aclose);
  if (made.id() < 0 || H5Awrite(made.id(), type, value) < 0)
    fail(storage_, path + ": its attribute " + name + " cannot be made");
}

void Builder::attribute(const std::string& path, const std::string& name,
                        const Attribute& value) const {
  const auto put = [&](const auto& found) {
    using Found = std::decay_t<decltype(found)>;
    if constexpr (std::is_same_v<Found, std::string>) {
      const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
      H5Tset_size(type.id(), std::max<std::size_t>(found.size(), 1));
      H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
      attribute(path, name, type.id(), space_of({}).id(), found.c_str());
    } else if constexpr (std::is_same_v<Found, std::vector<std::int64_t>>) {
      attribute(path, name, H5T_STD_I64LE, space_of({found.size()}).id(), found.data());
    } else {
      const hid_t type = std::is_same_v<Found, bool>     ? H5T_STD_I8LE
                         : std::is_same_v<Found, double> ? H5T_IEEE_F64LE
                                                         : H5T_STD_I64LE;
      attribute(path, name, type, space_of({}).id(), &found);
    }
  };
  std::visit(put, value);
}

// The texts are variable-length on purpose: with fixed-length ones h5py's dims[i].label crashes.
void Builder::labels(const std::string& path, const std::vector<std::string>& axes,
                     DType dtype) const {
  if (!axes.empty())
    attribute(path, "DIMENSION_LABELS", text_type().id(), space_of({axes.size()}).id(),
              static_cast<const void*>(pointers_to(axes).data()));
  if (dtype == DType::kBFloat16) attribute(path, "dtype", "bfloat16");
}

void make_file(SparseStorage& storage, const std::string& what, Use use,
               const std::function<void(const Builder&)>& fill) {
  const auto lock = h5::lock();
  {
    const Handle file = create_file(storage, what, use);
    fill(Builder(storage, file.id()));
    if (H5Fflush(file.id(), H5F_SCOPE_LOCAL) < 0) fail(storage, what + ": cannot be made");
  }
  if (storage.failure) std::rethrow_exception(storage.failure);
}

}  // namespace bezel::store::h5
