#include "bezel/verify/bundle.h"

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

constexpr std::string_view kKind = "bezel.Reference";
constexpr std::int64_t kSchema = 2;

}  // namespace

Bundle::Bundle(const std::filesystem::path& path) : path_(path), file_(path) {
  const auto kind = text("/meta", "kind");
  if (kind != kKind) {
    throw FormatError(path.string() + " is a " + kind + "; wanted a " + std::string(kKind) +
                      ", as `bezel reference MODEL --out ref.h5` writes");
  }
  const auto schema = file_.attribute<std::int64_t>("/meta", "schema");
  if (schema != kSchema) {
    throw FormatError(path.string() + " has schema " + std::to_string(schema) +
                      "; this bezel reads " + std::to_string(kSchema) +
                      ". Make it again with `bezel reference`");
  }
}

std::string Bundle::at(const std::string& input, const std::string& what) {
  return "/cases/" + input + "/" + what;
}

std::vector<ReferenceWeight> Bundle::weights() const {
  const auto names = file_.texts("/weights/name");
  const auto types = file_.texts("/weights/dtype"), shapes = file_.texts("/weights/shape");
  const auto hashes = file_.read<std::uint64_t>("/weights/hash");
  if (types.size() != names.size() || shapes.size() != names.size() ||
      hashes.size() != names.size()) {
    throw FormatError(path_.string() + ": /weights has columns of different lengths");
  }
  std::vector<ReferenceWeight> weights;
  weights.reserve(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    weights.push_back({names[i], types[i], shapes[i], hashes.flat(i)});
  }
  return weights;
}

std::vector<std::string> Bundle::cases(std::string_view phase) const {
  std::vector<std::string> found;
  for (const std::string& name : file_.members("/cases")) {
    if (text("/cases/" + name, "phase") == phase) found.push_back(name);
  }
  return found;
}

std::string Bundle::about(const std::string& input) const {
  return text("/cases/" + input, "about");
}

xt::xarray<std::int64_t> Bundle::tokens(const std::string& input) const {
  return file_.read<std::int64_t>(at(input, "tokens"));
}

xt::xarray<std::int64_t> Bundle::mask(const std::string& input) const {
  return file_.read<std::int64_t>(at(input, "attention_mask"));
}

ReferenceMedia Bundle::media(const std::string& input) const {
  ReferenceMedia found;
  for (const std::string& name : file_.members(at(input, "media"))) {
    const auto place = at(input, "media/" + name);
    if (file_.is_integer(place)) {
      found.integers[name] = file_.read<std::int64_t>(place);
    } else {
      found.numbers[name] = file_.read<float>(place);
    }
  }
  return found;
}

NamedIntegers Bundle::valid(const std::string& input) const {
  NamedIntegers found;
  for (const std::string& axis : file_.members(at(input, "valid"))) {
    found[axis] = file_.read<std::int64_t>(at(input, "valid/" + axis));
  }
  return found;
}

std::vector<std::string> Bundle::names(const std::string& input) const {
  return file_.members(at(input, "acts"));
}

ReferenceValue Bundle::value(const std::string& input, const std::string& name) const {
  const auto place = at(input, "acts/" + name);
  ReferenceValue value;
  value.axes = file_.axes(place);
  value.is_integer = file_.is_integer(place);
  if (value.is_integer) {
    value.integers = file_.read<std::int64_t>(place);
  } else {
    value.numbers = file_.read<float>(place);
  }
  if (file_.has_attribute(place, "positions")) {
    value.sample =
        Sample{.positions = file_.attribute<std::vector<std::int64_t>>(place, "positions"),
               .dims = file_.attribute<std::vector<std::int64_t>>(place, "dims"),
               .norm = file_.attribute<double>(place, "norm"),
               .sum = file_.attribute<double>(place, "sum")};
  }
  return value;
}

ReferenceLogits Bundle::logits(const std::string& input) const {
  return {.top_ids = file_.read<std::int64_t>(at(input, "logits/top_ids")),
          .top_values = file_.read<float>(at(input, "logits/top_values")),
          .log_sum_exp = file_.read<float>(at(input, "logits/log_sum_exp")),
          .positions = file_.read<std::int64_t>(at(input, "logits/positions")),
          .full = file_.read<float>(at(input, "logits/full"))};
}

double Bundle::loss(const std::string& input) const {
  return file_.read<double>(at(input, "loss")).flat(0);
}

xt::xarray<float> Bundle::loss_per_token(const std::string& input) const {
  return file_.read<float>(at(input, "loss_per_token"));
}

ReferenceBfloat16 Bundle::bfloat16(const std::string& input, Against against) const {
  const auto place = at(input, against == Against::kStored ? "bfloat16/stored/" : "bfloat16/");
  const auto number = [&](const char* what) { return file_.read<double>(place + what).flat(0); };
  ReferenceBfloat16 found{.names = file_.texts(place + "name"),
                          .relative_rms = file_.read<double>(place + "relative_rms"),
                          .logits_relative_rms = number("logits_relative_rms"),
                          .logits_kl = number("logits_kl"),
                          .top1 = number("top1")};
  if (found.names.size() == found.relative_rms.size()) return found;
  throw FormatError(path_.string() + ": " + place + " has columns of different lengths");
}

std::map<std::string, double> ReferenceBfloat16::by_name() const {
  std::map<std::string, double> errors;
  for (std::size_t i = 0; i < names.size(); ++i) errors[names[i]] = relative_rms(i);
  return errors;
}

ReferenceGreedy Bundle::greedy(const std::string& input) const {
  return {.tokens = file_.read<std::int64_t>(at(input, "greedy/tokens")),
          .gap = file_.read<float>(at(input, "greedy/gap"))};
}

}  // namespace bezel::verify
