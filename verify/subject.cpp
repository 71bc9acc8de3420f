#include "bezel/verify/subject.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <vector>
#include <xtensor/xdynamic_view.hpp>

namespace bezel::verify {
namespace {

template <class Number>
xt::xarray<Number> copied(const at::Tensor& values, at::ScalarType type) {
  const auto plain = values.detach().to(at::kCPU, type).contiguous();
  const auto sizes = plain.sizes();
  auto made = xt::xarray<Number>::from_shape({sizes.begin(), sizes.end()});
  std::copy_n(plain.const_data_ptr<Number>(), plain.numel(), made.data());
  return made;
}

}  // namespace

at::Tensor as_text(at::Tensor ids, const bridge::ModelSpec& spec) {
  std::vector<std::int64_t> media;
  for (const auto& id : {spec.media_ids.image, spec.media_ids.video, spec.media_ids.audio}) {
    if (id) media.push_back(*id);
  }
  std::ranges::sort(media, std::greater());  // the highest first: its neighbour may be one, too
  for (const std::int64_t id : media) ids = at::where(ids == id, id - 1, ids);
  return ids;
}

template <class Number>
at::Tensor to_tensor(const xt::xarray<Number>& values) {
  const std::vector<std::int64_t> shape(values.shape().begin(), values.shape().end());
  auto made = at::empty(shape, c10::CppTypeToScalarType<Number>::value);
  std::copy_n(values.data(), values.size(), made.template mutable_data_ptr<Number>());
  return made;
}
template at::Tensor to_tensor(const xt::xarray<float>& values);
template at::Tensor to_tensor(const xt::xarray<std::int64_t>& values);

xt::xarray<float> to_xarray(const at::Tensor& values) { return copied<float>(values, at::kFloat); }

xt::xarray<std::int64_t> to_whole_xarray(const at::Tensor& values) {
  return copied<std::int64_t>(values, at::kLong);
}

template <class Number>
xt::xarray<Number> select(const xt::xarray<Number>& values,
                          const std::vector<std::vector<std::size_t>>& kept) {
  xt::xdynamic_slice_vector slices;
  for (const auto& axis : kept) slices.emplace_back(xt::keep(axis));
  return xt::dynamic_view(values, slices);
}
template xt::xarray<float> select(const xt::xarray<float>&,
                                  const std::vector<std::vector<std::size_t>>&);
template xt::xarray<std::int64_t> select(const xt::xarray<std::int64_t>&,
                                         const std::vector<std::vector<std::size_t>>&);

}  // namespace bezel::verify
