// Any bytes as a safetensors file. Every accepted tensor lies inside its file, matches shape times
// type, shares no byte with another, and is what a second parser reads in the header.
#include <algorithm>
#include <cstring>
#include <span>

#include "bezel/adapters/checkpoint/safetensors.h"
#include "bezel/hooks/error.h"
#include "tests/adapters/checkpoint/oracle.h"
#include "tests/fuzz/check.h"

namespace bezel::fuzz {
namespace {

using checkpoint::kPrefixBytes;
using checkpoint::TensorInfo;
using nlohmann::json;

void require_as_written(const std::vector<TensorInfo>& tensors, std::string_view header) {
  const json written = json::parse(header);
  require(tensors.size() == written.size() - written.count("__metadata__"), "all are there",
          header);
  for (const TensorInfo& tensor : tensors) {
    const json& entry = written.at(tensor.name);
    const std::uint64_t begin = tensor.offset - kPrefixBytes - header.size();
    require(entry.at("dtype") == tensor.dtype_name, "type", tensor.name);
    require(entry.at("shape") == json(tensor.shape), "shape", tensor.name);
    require(entry.at("data_offsets") == json::array({begin, begin + tensor.n_bytes}), "offsets",
            tensor.name);
  }
}

void run(std::span<const std::byte> image) {
  if (image.size() < kPrefixBytes) return;
  try {
    const std::uint64_t n =
        checkpoint::parse_prefix(image.first<kPrefixBytes>(), image.size(), "file");
    const auto header = image.subspan(kPrefixBytes, n);
    const auto tensors = checkpoint::parse_header(header, image.size(), "file");
    const std::string fault = checkpoint::find_fault(tensors, n, image.size());
    require(fault.empty(), "no fault", fault);
    require_as_written(tensors, {reinterpret_cast<const char*>(header.data()), header.size()});
  } catch (const CheckpointError& error) {
    require_clear(error.what(), "file");
  }
}

// The length in the prefix; of the whole rest if the file cannot hold that.
std::uint64_t header_bytes(const std::uint8_t* image, std::size_t size) {
  std::uint64_t n = 0;
  std::memcpy(&n, image, sizeof n);
  return std::min<std::uint64_t>(n, size - kPrefixBytes);
}

}  // namespace
}  // namespace bezel::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bezel::fuzz::run(std::as_bytes(std::span(data, size)));
  return 0;
}

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

// Three times in four the prefix follows a header that grew or shrank: else few get past it.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  using bezel::checkpoint::kPrefixBytes;
  const std::size_t n_data =
      size < kPrefixBytes ? 0 : size - kPrefixBytes - bezel::fuzz::header_bytes(data, size);
  const std::size_t new_size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 4 != 0 && new_size >= kPrefixBytes + n_data) {
    const std::uint64_t n = new_size - kPrefixBytes - n_data;
    std::memcpy(data, &n, sizeof n);
  }
  return new_size;
}
