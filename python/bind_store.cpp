// The activation store: manifests, the writer and the reader, with tensors as rows.
#include <ATen/ATen.h>
#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <mutex>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/check.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/index.h"
#include "bezel/hooks/store/info.h"
#include "bezel/hooks/store/merge.h"
#include "bezel/hooks/store/reader.h"
#include "bezel/hooks/store/writer.h"
#include "bind.h"
#include "dtypes.h"

namespace bezel::python {
namespace {

using store::DType;
using store::Manifest;
using store::Value;

DType dtype_named(const std::string& word) {
  if (const auto found = store::dtype_of(word)) return *found;
  throw ArgumentError("dtype is \"" + word +
                      "\"; wanted bfloat16, float32, float64, uint8, int32 or int64");
}

std::vector<std::int64_t> shape_of(const store::Dataset& dataset, std::int64_t n_rows) {
  std::vector<std::int64_t> shape = {n_rows};
  shape.insert(shape.end(), dataset.shape.begin(), dataset.shape.end());
  return shape;
}

/// A writer that takes tensors; what it has done may be asked at any time.
class TensorWriter {
 public:
  TensorWriter(const std::filesystem::path& folder, const Manifest& manifest,
               store::WriterOptions options)
      : datasets_(store::datasets_of(manifest)) {
    options.progress = [this](const store::Progress& progress) {
      const std::lock_guard lock(mutex_);
      progress_ = progress;
    };
    writer_ = std::make_unique<store::Writer>(folder, manifest, std::move(options));
  }

  store::Writer& writer() const {
    if (!writer_) throw ArgumentError("the writer of this store is closed");
    return *writer_;
  }
  store::Progress progress() const {
    const std::lock_guard lock(mutex_);
    return progress_;
  }
  void close() { writer_.reset(); }

  /// The rows must lie in memory as they are to be stored; they are not copied.
  void put(const std::string& name, const at::Tensor& rows) const {
    check(name, rows);
    const auto owner = std::make_shared<at::Tensor>(rows);
    const auto* bytes = static_cast<const std::byte*>(rows.const_data_ptr());
    writer().put(name, {bytes, rows.nbytes()}, owner);
  }

 private:
  void check(const std::string& name, const at::Tensor& rows) const {
    const auto wanted = std::ranges::find(datasets_, name, &store::Dataset::name);
    if (wanted == datasets_.end()) return;  // the writer says so
    const auto shape = shape_of(*wanted, rows.dim() == 0 ? 0 : rows.size(0));
    if (rows.sizes() == at::IntArrayRef(shape) && rows.scalar_type() == type_of(wanted->dtype) &&
        rows.is_contiguous() && rows.is_cpu())
      return;
    throw ArgumentError("\"" + name + "\": got " + std::string(c10::toString(rows.scalar_type())) +
                        " " + c10::str(rows.sizes()) + " on " + rows.device().str() +
                        "; wanted contiguous " + std::string(to_string(wanted->dtype)) + " " +
                        c10::str(at::IntArrayRef(shape)) + " on the CPU");
  }

  std::vector<store::Dataset> datasets_;
  mutable std::mutex mutex_;
  store::Progress progress_;
  std::unique_ptr<store::Writer> writer_;
};

at::Tensor empty_rows(const store::Dataset& dataset, std::int64_t n) {
  return at::empty(shape_of(dataset, n), at::TensorOptions(type_of(dataset.dtype)));
}

std::span<std::byte> bytes_of(const at::Tensor& rows) {
  return {static_cast<std::byte*>(rows.mutable_data_ptr()), rows.nbytes()};
}

at::Tensor read(const store::Reader& reader, const std::string& name, std::uint64_t first,
                std::uint64_t n) {
  const auto rows = empty_rows(reader.dataset(name), static_cast<std::int64_t>(n));
  const py::gil_scoped_release released;
  reader.read_bytes(name, {first, n}, bytes_of(rows));
  return rows;
}

at::Tensor read_shard(const store::Reader& reader, const std::string& name, std::uint64_t shard) {
  const auto entry = empty_rows(reader.dataset(name), 1)[0];
  const py::gil_scoped_release released;
  reader.read_shard_bytes(name, shard, bytes_of(entry));
  return entry;
}

// Rows [row] int64 in any order; neighbours in one read. `room` is for at least as many, and is
// where they go.
at::Tensor read_rows(const store::Reader& reader, const std::string& name, const at::Tensor& index,
                     const std::optional<at::Tensor>& room) {
  const auto& dataset = reader.dataset(name);
  const auto rows = room ? room->narrow(0, 0, index.size(0)) : empty_rows(dataset, index.size(0));
  if (rows.sizes() != at::IntArrayRef(shape_of(dataset, index.size(0))) ||
      rows.scalar_type() != type_of(dataset.dtype) || !rows.is_contiguous() || !rows.is_cpu())
    throw ArgumentError("\"" + name + "\": the room is for other rows");
  const py::gil_scoped_release released;
  const auto wanted = index.to(at::kLong).contiguous();
  const auto* at = wanted.const_data_ptr<std::int64_t>();
  const std::int64_t n_rows = wanted.size(0);
  const auto into = bytes_of(rows);
  for (std::int64_t i = 0, n = 1; i < n_rows; i += n) {
    for (n = 1; i + n < n_rows && at[i + n] == at[i] + n;) ++n;
    reader.read_bytes(name, {static_cast<std::uint64_t>(at[i]), static_cast<std::uint64_t>(n)},
                      into.subspan(i * dataset.row_bytes, n * dataset.row_bytes));
  }
  return rows;
}

py::list datasets(const Manifest& manifest) {
  py::list found;
  for (const auto& dataset : store::datasets_of(manifest)) {
    found.append(py::make_tuple(dataset.name, dataset.axes, dataset.shape,
                                std::string(to_string(dataset.dtype)), dataset.row_bytes,
                                dataset.per_shard));
  }
  return found;
}

// For work without the GIL, in Python's main thread, which is where it hears Ctrl-C.
store::ShardProgress interruptible(const store::ShardProgress& progress) {
  return [progress, interrupted = interrupt_check()](std::uint64_t done, std::uint64_t all) {
    interrupted();
    const py::gil_scoped_acquire gil;
    if (progress) progress(done, all);
  };
}

py::tuple check_store(const std::filesystem::path& folder, bool full,
                      const store::ShardProgress& progress) {
  const auto heard = interruptible(progress);
  store::CheckReport report;
  {
    const py::gil_scoped_release released;
    const auto io = store::make_posix_io();
    const auto depth = full ? store::Depth::kFull : store::Depth::kQuick;
    report = store::check(*io, folder, depth, heard);
  }
  py::list findings;
  for (const auto& finding : report.findings)
    findings.append(py::make_tuple(finding.is_damage, finding.file, finding.what));
  return py::make_tuple(findings, report.n_rows, report.total_rows);
}

// Progress comes from a writer's thread, where Python hears no signal: to stop, it throws.
void merge_stores(const std::vector<std::filesystem::path>& sources,
                  const std::filesystem::path& out, const store::ShardProgress& progress) {
  const py::gil_scoped_release released;
  store::merge(sources, out, [&](const store::Progress& done) {
    const py::gil_scoped_acquire gil;
    if (progress) progress(done.shards, done.shards_planned);
  });
}

// XXH3-64 of the bytes of a tensor on the CPU.
std::uint64_t hash_of(const at::Tensor& values) {
  const py::gil_scoped_release released;
  const auto plain = values.contiguous();
  store::Xxh3 hash;
  hash.update({static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
  return hash.digest64();
}

store::Start start_named(const std::string& word) {
  if (word == "new") return store::Start::kNew;
  if (word == "resume") return store::Start::kResume;
  if (word == "repair") return store::Start::kRepair;
  throw ArgumentError("start is \"" + word + "\"; wanted \"new\", \"resume\" or \"repair\"");
}

store::Checksum checksum_named(const std::string& word) {
  if (word == "always") return store::Checksum::kAlways;
  if (word == "first") return store::Checksum::kFirst;
  if (word == "never") return store::Checksum::kNever;
  throw ArgumentError("checksum is \"" + word + "\"; wanted \"always\", \"first\" or \"never\"");
}

void bind_writer(py::module_& module) {
  py::class_<TensorWriter>(module, "StoreWriter")
      .def(py::init([](const std::filesystem::path& folder, const Manifest& manifest,
                       const std::string& start, std::uint64_t rank, std::uint64_t n_ranks,
                       const std::string& run, std::uint64_t queue_bytes,
                       const store::ShardProgress& repair_progress) {
             const auto how = start_named(start);
             const auto heard = interruptible(repair_progress);
             const py::gil_scoped_release released;
             return std::make_unique<TensorWriter>(folder, manifest,
                                                   store::WriterOptions{.start = how,
                                                                        .rank = rank,
                                                                        .n_ranks = n_ranks,
                                                                        .run = run,
                                                                        .queue_bytes = queue_bytes,
                                                                        .repair_progress = heard});
           }),
           py::arg("folder"), py::arg("manifest"), py::kw_only(), py::arg("start"), py::arg("rank"),
           py::arg("n_ranks"), py::arg("run"), py::arg("queue_bytes"),
           py::arg("repair_progress") = store::ShardProgress())
      .def_property_readonly("todo", [](const TensorWriter& own) { return own.writer().todo(); })
      .def_property_readonly("bytes_needed",
                             [](const TensorWriter& own) { return own.writer().bytes_needed(); })
      .def_property_readonly("done",
                             [](const TensorWriter& own) {
                               const auto done = own.progress();
                               return py::make_tuple(done.shards, done.rows, done.bytes);
                             })
      .def("rows_of",
           [](const TensorWriter& own, std::uint64_t shard) {
             const auto rows = own.writer().rows_of(shard);
             return py::make_tuple(rows.first, rows.n);
           })
      .def(
          "begin", [](const TensorWriter& own, std::uint64_t shard) { own.writer().begin(shard); },
          py::call_guard<py::gil_scoped_release>())
      .def("put", &TensorWriter::put, py::call_guard<py::gil_scoped_release>())
      .def(
          "finish", [](const TensorWriter& own) { own.writer().finish(); },
          py::call_guard<py::gil_scoped_release>())
      .def("close", &TensorWriter::close, py::call_guard<py::gil_scoped_release>());
}

void bind_reader(py::module_& module) {
  py::class_<store::Reader, std::shared_ptr<store::Reader>>(module, "StoreReader")
      .def(py::init(
               [](const std::filesystem::path& folder, const std::string& checksum, bool trust) {
                 const auto parsed = checksum_named(checksum);
                 const py::gil_scoped_release released;
                 return std::make_shared<store::Reader>(
                     folder, store::ReaderOptions{.checksum = parsed,
                                                  .trust = trust ? store::Trust::kRecordedBytes
                                                                 : store::Trust::kOwnBytesOnly});
               }),
           py::arg("folder"), py::arg("checksum"), py::arg("trust"))
      .def_property_readonly("id", &store::Reader::id)
      .def_property_readonly("manifest",
                             [](const store::Reader& reader) { return to_text(reader.manifest()); })
      .def_property_readonly("total_rows", &store::Reader::total_rows)
      .def_property_readonly("recorded",
                             [](const store::Reader& reader) {
                               std::vector<std::pair<std::uint64_t, std::uint64_t>> runs;
                               for (const auto& rows : reader.recorded())
                                 runs.emplace_back(rows.first, rows.n);
                               return runs;
                             })
      .def_property_readonly(
          "datasets", [](const store::Reader& reader) { return datasets(reader.manifest()); })
      .def_property_readonly("shards",
                             [](const store::Reader& reader) {
                               std::vector<std::uint64_t> numbers;
                               for (const auto& shard : reader.shards())
                                 numbers.push_back(shard.shard);
                               return numbers;
                             })
      .def("read_shard", &read_shard, py::arg("name"), py::arg("shard"))
      .def("read", &read, py::arg("name"), py::arg("first"), py::arg("n"))
      .def("read_rows", &read_rows, py::arg("name"), py::arg("rows"), py::arg("room") = py::none());
}

}  // namespace

void bind_store(py::module_& module) {
  module.attr("has_store") = true;
  py::class_<Value>(module, "StoreValue")
      .def(py::init([](const std::string& name, const std::vector<std::string>& axes,
                       const std::vector<std::uint64_t>& shape, const std::string& dtype,
                       bool per_shard) {
             return Value{.name = name,
                          .axes = axes,
                          .shape = shape,
                          .dtype = dtype_named(dtype),
                          .per_shard = per_shard};
           }),
           py::arg("name"), py::arg("axes"), py::arg("shape"), py::arg("dtype"),
           py::arg("per_shard") = false)
      .def_property_readonly("entry_bytes", &store::entry_bytes)
      .def_readonly("per_shard", &Value::per_shard);
  py::class_<Manifest>(module, "StoreManifest")
      .def(py::init([](std::uint64_t total_rows, std::uint64_t rows_per_shard, bool has_types,
                       const std::vector<Value>& values, const std::string& request) {
             return store::checked({.total_rows = total_rows,
                                    .rows_per_shard = rows_per_shard,
                                    .has_types = has_types,
                                    .values = values,
                                    .request = request});
           }),
           py::kw_only(), py::arg("total_rows"), py::arg("rows_per_shard"), py::arg("has_types"),
           py::arg("values"), py::arg("request"))
      .def_property_readonly("n_shards", &store::n_shards)
      .def_property_readonly("datasets", &datasets)
      .def("__str__", &store::to_text);
  bind_writer(module);
  bind_reader(module);
  module.def("store_check", &check_store, py::arg("folder"), py::arg("full"), py::arg("progress"));
  module.def("store_merge", &merge_stores, py::arg("stores"), py::arg("out"), py::arg("progress"));
  module.def("store_hash", &hash_of);
  module.def("store_info", [](const std::filesystem::path& folder) {
    const auto io = store::make_posix_io();
    return store::info_text(*io, folder);
  });
  module.def("store_index", [](const std::filesystem::path& folder) {
    const auto io = store::make_posix_io();
    store::write_index(*io, folder);
  });
  bind_sealed(module);
}

}  // namespace bezel::python
