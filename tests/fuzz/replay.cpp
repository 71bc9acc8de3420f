// Stands in for libFuzzer where there is no clang: replay_<reader> SEEDS RUNS runs every file of
// the folder SEEDS, then RUNS mutations of them, the same ones each time.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);
extern "C" [[gnu::weak]] std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                                             std::size_t max_size, unsigned seed);

namespace {

namespace fs = std::filesystem;
using Input = std::vector<std::uint8_t>;

constexpr std::size_t kMaxInputBytes = 4096;  // libFuzzer's own default

std::mt19937_64& random() {
  static std::mt19937_64 generator(3);
  return generator;
}
std::size_t below(std::size_t n) { return random()() % n; }

// One small change, made in place; the size stays within `max_size`.
void mutate(Input& input, std::size_t max_size) {
  static const std::string kBytes = "\"{}[]:,0123456789-.eE \\/u\t\n\xff\xc3";
  const auto at = [&] { return input.begin() + static_cast<std::ptrdiff_t>(below(input.size())); };
  const auto part = [&](auto begin) {
    const auto rest = static_cast<std::size_t>(input.end() - begin);
    return begin + static_cast<std::ptrdiff_t>(1 + below(std::min<std::size_t>(rest, 24)));
  };
  switch (input.empty() ? 2 : below(6)) {
    case 0:
      *at() ^= static_cast<std::uint8_t>(1U << below(8));
      break;
    case 1:
      *at() = static_cast<std::uint8_t>(kBytes[below(kBytes.size())]);
      break;
    case 2:
      input.insert(input.empty() ? input.end() : at(),
                   static_cast<std::uint8_t>(kBytes[below(kBytes.size())]));
      break;
    case 3: {
      const auto begin = at();
      input.erase(begin, part(begin));
      break;
    }
    case 4: {  // a part again, elsewhere
      const auto begin = at();
      const Input copy(begin, part(begin));
      input.insert(at(), copy.begin(), copy.end());
      break;
    }
    default:
      std::swap(*at(), *at());
  }
  if (input.size() > max_size) input.resize(max_size);
}

Input read(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return Input(std::istreambuf_iterator<char>(stream), {});
}

Input mutated(Input input) {
  for (std::size_t left = 1 + below(4); left > 0; --left) {
    std::size_t size = input.size();
    input.resize(kMaxInputBytes);
    size = LLVMFuzzerCustomMutator != nullptr
               ? LLVMFuzzerCustomMutator(input.data(), size, input.size(),
                                         static_cast<unsigned>(random()()))
               : LLVMFuzzerMutate(input.data(), size, input.size());
    input.resize(size);
  }
  return input;
}

// Copied to its own size, so that a sanitizer sees a read behind the end.
void run(Input input, const std::string& name) {
  input.shrink_to_fit();
  try {
    LLVMFuzzerTestOneInput(input.data(), input.size());
  } catch (const std::exception& error) {
    std::ofstream("crash", std::ios::binary)
        .write(reinterpret_cast<const char*>(input.data()),
               static_cast<std::streamsize>(input.size()));
    std::cerr << name << ": " << error.what() << "; the input is in ./crash\n";
    throw;
  }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size,
                                        std::size_t max_size) {
  Input input(data, data + size);
  mutate(input, max_size);
  std::ranges::copy(input, data);
  return input.size();
}

int main(int argc, char** argv) {
  if (argc != 3) return std::cerr << "usage: " << argv[0] << " SEEDS RUNS\n", 2;
  std::vector<fs::path> files;
  for (const auto& file : fs::directory_iterator(argv[1])) files.push_back(file.path());
  std::ranges::sort(files);
  std::vector<Input> seeds;
  for (const fs::path& file : files) {
    seeds.push_back(read(file));
    run(seeds.back(), file.filename());
  }
  if (seeds.empty()) return std::cerr << argv[1] << ": no seeds\n", 1;
  const std::size_t n_runs = std::stoul(argv[2]);
  for (std::size_t i = 0; i < n_runs; ++i)
    run(mutated(seeds[below(seeds.size())]), "mutation " + std::to_string(i));
  std::cout << seeds.size() << " seeds and " << n_runs << " mutations\n";
}
