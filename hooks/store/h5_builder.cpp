#include "bezel/hooks/store/h5_builder.h"

#include <array>

namespace bezel::store::h5 {

void Builder::group(const std::string& path) const {
  const Handle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.id(), false);
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
  const Handle space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
                     H5Sclose);
  Handle made(H5Dcreate2(file_, path.c_str(), type, space.id(), H5P_DEFAULT, creation, H5P_DEFAULT),
              H5Dclose);
  if (made.id() < 0) fail(storage_, path + ": cannot be made");
  return made;
}

std::uint64_t Builder::place_of(const Handle& dataset) const {
  const haddr_t place = H5Dget_offset(dataset.id());
  if (place == HADDR_UNDEF) fail(storage_, "a dataset has no place in the file");
  return place;
}

void Builder::attribute(hid_t object, const char* name, hid_t type, hid_t space,
                        const void* value) const {
  const Handle made(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (made.id() < 0 || H5Awrite(made.id(), type, value) < 0)
    fail(storage_, std::string("attribute ") + name + ": cannot be made");
}

void Builder::number(hid_t object, const char* name, std::uint64_t number) const {
  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
  const auto value = static_cast<std::int64_t>(number);
  attribute(object, name, H5T_STD_I64LE, scalar.id(), &value);
}

void Builder::text(hid_t object, const char* name, const std::string& text) const {
  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), text.size());
  H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  attribute(object, name, type.id(), scalar.id(), text.data());
}

// The texts are variable-length on purpose: with fixed-length ones h5py's dims[i].label crashes.
void Builder::labels(hid_t made, const Dataset& dataset) const {
  const std::vector<std::string> axes = axes_of(dataset);
  std::vector<const char*> labels;
  labels.reserve(axes.size());
  for (const std::string& axis : axes) labels.push_back(axis.c_str());
  const std::array<hsize_t, 1> length = {labels.size()};
  const Handle space(H5Screate_simple(1, length.data(), nullptr), H5Sclose);
  attribute(made, "DIMENSION_LABELS", text_type().id(), space.id(), labels.data());
  if (dataset.dtype == DType::kBFloat16) text(made, "dtype", "bfloat16");
}

}  // namespace bezel::store::h5
