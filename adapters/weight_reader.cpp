#include "bezel/adapters/weight_reader.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <span>

#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::adapters {
namespace {

using checkpoint::DType;
using checkpoint::TensorInfo;

constexpr std::int64_t kSlabBytes = std::int64_t{64} << 20;  // between two calls of on_progress
constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;  // of one thread; page faults dominate

}  // namespace

at::ScalarType scalar_type_of(const TensorInfo& tensor) {
  switch (tensor.dtype) {
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF32:
      return at::kFloat;
    case DType::kF64:
      return at::kDouble;
    case DType::kF16:
      return at::kHalf;
    default:
      break;
  }
  throw UnsupportedError(checkpoint::show(tensor.file) + ": tensor " +
                         checkpoint::quote(tensor.name) + ": found " + tensor.dtype_name +
                         ", expected BF16, F32, F16 or F64" + "; load an unquantised checkpoint");
}

void WeightReader::read(const TensorInfo& stored, const at::Tensor& destination) {
  TORCH_INTERNAL_ASSERT(destination.is_contiguous());
  const bool straight = destination.is_cpu() && destination.scalar_type() == scalar_type_of(stored);
  straight ? read_straight(stored, destination) : read_converted(stored, destination);
}

void WeightReader::read_straight(const TensorInfo& stored, const at::Tensor& destination) {
  auto* bytes = static_cast<std::byte*>(destination.data_ptr());
  const auto total = static_cast<std::int64_t>(destination.nbytes());
  for (std::int64_t begin = 0; begin < total; begin += kSlabBytes) {
    read_slab(stored, begin, bytes + begin, std::min(kSlabBytes, total - begin));
  }
}

void WeightReader::read_converted(const TensorInfo& stored, const at::Tensor& destination) {
  const auto type = scalar_type_of(stored);
  const auto width = static_cast<std::int64_t>(c10::elementSize(type));
  const auto flat = destination.view(-1);
  const std::int64_t slab = std::min(kSlabBytes / width, flat.numel());
  const auto buffer = at::empty({slab}, at::TensorOptions(type));
  for (std::int64_t begin = 0; begin < flat.numel(); begin += slab) {
    const std::int64_t n = std::min(slab, flat.numel() - begin);
    read_slab(stored, begin * width, static_cast<std::byte*>(buffer.data_ptr()), n * width);
    flat.narrow(0, begin, n).copy_(buffer.narrow(0, 0, n));
  }
}

void WeightReader::read_slab(const TensorInfo& stored, std::int64_t begin, std::byte* destination,
                             std::int64_t n_bytes) {
  at::parallel_for(0, n_bytes, kPieceBytes, [&](std::int64_t first, std::int64_t last) {
    checkpoint_.read(stored, static_cast<std::uint64_t>(begin + first),
                     std::span(destination + first, static_cast<std::size_t>(last - first)));
  });
  bytes_done_ += n_bytes;
  if (options_.on_progress) options_.on_progress(bytes_done_, bytes_total_);
}

}  // namespace bezel::adapters
