// Fills tensors from a checkpoint: bytes go straight to their place, or through one small buffer
// where dtype or device differ.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "bezel/adapters/checkpoint/checkpoint.h"
#include "bezel/adapters/load.h"

namespace bezel::adapters {

/// The torch dtype of a stored tensor. Throws UnsupportedError for those that bezel does not
/// compute with.
at::ScalarType scalar_type_of(const checkpoint::TensorInfo& tensor);

class WeightReader {
 public:
  WeightReader(const checkpoint::Checkpoint& checkpoint, const LoadOptions& options,
               std::int64_t bytes_total)
      : checkpoint_(checkpoint), options_(options), bytes_total_(bytes_total) {}

  /// destination: contiguous, as many elements as the stored tensor.
  void read(const checkpoint::TensorInfo& stored, const at::Tensor& destination);

 private:
  void read_straight(const checkpoint::TensorInfo& stored, const at::Tensor& destination);
  void read_converted(const checkpoint::TensorInfo& stored, const at::Tensor& destination);
  void read_slab(const checkpoint::TensorInfo& stored, std::int64_t begin, std::byte* destination,
                 std::int64_t n_bytes);

  const checkpoint::Checkpoint& checkpoint_;
  const LoadOptions& options_;
  std::int64_t bytes_total_, bytes_done_ = 0;
};

}  // namespace bezel::adapters
