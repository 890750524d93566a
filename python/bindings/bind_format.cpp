#include "pomona/error.h"
#include "pomona/infer.h"
#include "pomona/io.h"
#include "pomona/mask.h"
#include "pomona/packing.h"

#include "bindings.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <set>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

Mask mask_from_tensor(const at::Tensor& keep) {
  if (keep.scalar_type() != at::kBool) {
    throw py::type_error(
        std::string("Mask.from_tensor: expected `keep` to be a bool tensor, got ") +
        c10::toString(keep.scalar_type()) + ".");
  }
  const at::Tensor dense = keep.cpu().contiguous();
  const bool* bits = dense.const_data_ptr<bool>();
  Mask mask(dense.numel(), false);
  for (int64_t i = 0; i < dense.numel(); ++i) {
    if (bits[i]) mask.set(i, true);
  }
  return mask;
}

at::Tensor mask_to_tensor(const Mask& mask) {
  at::Tensor keep = at::empty({mask.size()}, at::kBool);
  bool* bits = keep.mutable_data_ptr<bool>();
  for (int64_t i = 0; i < mask.size(); ++i) bits[i] = mask[i];
  return keep;
}

at::Tensor words_tensor(const Mask& mask) {
  const auto words = mask.words();
  at::Tensor tensor = at::empty({static_cast<int64_t>(words.size())}, at::kUInt64);
  if (!words.empty()) std::memcpy(tensor.mutable_data_ptr(), words.data(), words.size_bytes());
  return tensor;
}

int64_t checked_index(const Mask& mask, int64_t index) {
  const int64_t i = index < 0 ? index + mask.size() : index;
  if (i < 0 || i >= mask.size()) {
    throw py::index_error("Mask: expected an index below " + std::to_string(mask.size()) +
                          ", got " + std::to_string(index) + ".");
  }
  return i;
}

std::string describe(const Mask& mask) {
  return "Mask(size=" + std::to_string(mask.size()) + ", kept=" + std::to_string(mask.kept()) + ")";
}

py::tuple state_of(const Mask& mask) {
  const auto words = mask.words();
  return py::make_tuple(mask.size(),
                        py::bytes(reinterpret_cast<const char*>(words.data()), words.size_bytes()));
}

Mask mask_of(const py::tuple& state) {
  const auto bytes = state[1].cast<std::string>();
  std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * sizeof(uint64_t));
  return Mask(state[0].cast<int64_t>(), std::move(words));
}

void bind_mask(py::module_& m) {
  py::class_<Mask>(m, "Mask", "Which weights of a tensor are kept: one bit a weight, row-major.")
      .def(py::init<int64_t, bool>(), py::arg("size"), py::arg("keep") = true)
      .def_static("from_tensor", &mask_from_tensor, py::arg("keep"))
      .def("to_tensor", &mask_to_tensor, "bool [size]")
      .def("words", &words_tensor, "uint64 [ceil(size / 64)]; bit i of word i / 64")
      .def("hash", &Mask::hash, "The same on every machine.")
      .def_property_readonly("size", &Mask::size)
      .def_property_readonly("kept", &Mask::kept)
      .def_property_readonly("sparsity", &Mask::sparsity)
      .def("__len__", &Mask::size)
      .def("__getitem__", [](const Mask& a, int64_t i) { return a[checked_index(a, i)]; })
      .def("__setitem__", [](Mask& a, int64_t i, bool keep) { a.set(checked_index(a, i), keep); })
      .def("__and__", &Mask::operator&, py::is_operator())
      .def("__or__", &Mask::operator|, py::is_operator())
      .def("__invert__", &Mask::operator~, py::is_operator())
      .def(
          "__eq__", [](const Mask& a, const Mask& b) { return a == b; }, py::is_operator())
      .def("__repr__", &describe)
      .def(py::pickle(&state_of, &mask_of));
}

// Empty where there is nothing to code.
std::string position_coder(const FileEntry& entry) {
  return entry.positions == Positions::kGaps ? std::string(coder_name(entry.position_coder)) : "";
}

// Of the codes; of values "raw" or "planes".
std::string code_coder(const FileEntry& entry) {
  if (entry.kept == 0) return "";
  if (entry.centroids == 0) return entry.value_form == ValueForm::kRaw ? "raw" : "planes";
  const bool has_codes = entry.centroids > 1 || entry.positions == Positions::kInCodes;
  return has_codes ? std::string(coder_name(entry.code_coder)) : "";
}

void bind_entry(py::module_& m) {
  py::class_<FileEntry>(m, "FileEntry", "Where the bytes of one tensor of a file go.")
      .def_readonly("name", &FileEntry::name)
      .def_property_readonly("dtype",
                             [](const FileEntry& e) { return std::string(dtype_name(e.dtype)); })
      .def_property_readonly("item_size", [](const FileEntry& e) { return item_size(e.dtype); })
      .def_property_readonly("is_floating", [](const FileEntry& e) { return is_floating(e.dtype); })
      .def_readonly("shape", &FileEntry::shape)
      .def_readonly("numel", &FileEntry::numel)
      .def_readonly("kept", &FileEntry::kept)
      .def_readonly("centroids", &FileEntry::centroids)
      .def_readonly("group", &FileEntry::group)
      .def_property_readonly(
          "positions", [](const FileEntry& e) { return std::string(positions_name(e.positions)); })
      .def_property_readonly("position_coder", &position_coder)
      .def_property_readonly("code_coder", &code_coder)
      .def_readonly("gap_bits", &FileEntry::gap_bits)
      .def_readonly("fillers", &FileEntry::fillers)
      .def_readonly("chunk", &FileEntry::chunk)
      .def_readonly("offset", &FileEntry::offset)
      .def_readonly("codebook_bytes", &FileEntry::codebook_bytes)
      .def_readonly("position_bytes", &FileEntry::position_bytes)
      .def_readonly("code_bytes", &FileEntry::code_bytes)
      .def_readonly("value_bytes", &FileEntry::value_bytes)
      .def_readonly("chunk_bytes", &FileEntry::chunk_bytes)
      .def_property_readonly("bytes", &FileEntry::bytes)
      .def_property_readonly("is_worth_packing", &is_worth_packing)
      .def_property_readonly("is_worth_packing_rows", &is_worth_packing_rows);
}

using ReleaseGil = py::call_guard<py::gil_scoped_release>;
using Saved = std::tuple<std::vector<FileEntry>, uint64_t, uint64_t>;
using Progress = std::optional<std::function<void(const std::string&)>>;
using ByteProgress = std::optional<std::function<void(uint64_t)>>;

Coding coding_of(const std::string& goal, int gap_bits) {
  static const std::map<std::string, Goal> kGoals{{"smallest", Goal::kSmallest},
                                                  {"fast", Goal::kFast},
                                                  {"huffman", Goal::kHuffman},
                                                  {"rans", Goal::kRans},
                                                  {"context", Goal::kContext}};
  const auto found = kGoals.find(goal);
  if (found == kGoals.end()) {
    throw InvalidArgument(
        "save: expected `coding` to be 'smallest', 'fast', 'huffman', 'rans' or 'context', got '" +
        goal + "'.");
  }
  return {.goal = found->second, .gap_bits = gap_bits, .parallel = {}};
}

Saved save_tensors(const NamedTensors& tensors, const std::filesystem::path& path,
                   const std::string& goal, int gap_bits, const std::string& metadata,
                   const Progress& progress) {
  SaveOptions options{.coding = coding_of(goal, gap_bits), .metadata = metadata, .progress = {}};
  if (progress) options.progress = *progress;
  auto report = save(tensors, path, options);
  return {std::move(report.entries), report.file_bytes, report.dense_bytes};
}

std::vector<FileEntry> entries_of(const NamedTensors& tensors, const std::string& goal,
                                  int gap_bits) {
  return coded_entries(tensors, coding_of(goal, gap_bits));
}

NamedTensors load_tensors(const std::filesystem::path& path, const ByteProgress& progress) {
  return load(path, progress ? *progress : LoadProgress());
}

at::Tensor read_tensor(const FileReader& reader, const std::string& name) {
  return to_tensor(reader.read(name, torch_threads()));
}

// (codebook [groups, centroids] float32, codes uint8 [kept], mask): a tensor as it is stored, or
// nothing where it has no codebook.
std::optional<std::tuple<at::Tensor, at::Tensor, Mask>> read_shared(const FileReader& reader,
                                                                    const std::string& name) {
  Weight weight = reader.read(name, torch_threads());
  if (!weight.is_shared()) return std::nullopt;
  at::Tensor codebook = at::empty({weight.groups(), weight.centroids()}, at::kFloat);
  std::memcpy(codebook.mutable_data_ptr(), weight.codebook.data(), codebook.nbytes());
  at::Tensor codes = at::empty({static_cast<int64_t>(weight.codes.size())}, at::kByte);
  if (!weight.codes.empty()) {
    std::memcpy(codes.mutable_data_ptr(), weight.codes.data(), codes.nbytes());
  }
  return std::tuple{std::move(codebook), std::move(codes), std::move(weight.mask)};
}

std::vector<at::Tensor> packed_parts(const FileReader& reader, const std::string& name,
                                     int64_t parts, const std::string& layout,
                                     const std::string& precision) {
  const Packing packing = packing_of(layout, precision);
  std::vector<at::Tensor> tensors;
  for (const Packed& packed : read_packed_parts(reader, name, parts, packing, torch_threads())) {
    tensors.push_back(to_tensor(packed));
  }
  return tensors;
}

at::Tensor packed_rows(const FileReader& reader, const std::string& name) {
  return to_tensor(read_packed_rows(reader, name, torch_threads()));
}

void bind_reader(py::module_& m) {
  py::class_<FileReader>(m, "FileReader", "A file, read tensor by tensor.")
      .def(py::init<const std::filesystem::path&>(), py::arg("path"), ReleaseGil())
      .def_property_readonly("entries", &FileReader::entries)
      .def_property_readonly("size", &FileReader::size)
      .def_property_readonly("metadata",
                             [](const FileReader& r) { return py::bytes(r.metadata()); })
      .def("read", &read_tensor, py::arg("name"), ReleaseGil())
      .def("read_packed", &packed_parts, py::arg("name"), py::arg("parts"), py::arg("layout"),
           py::arg("precision"), ReleaseGil())
      .def("read_packed_rows", &packed_rows, py::arg("name"), ReleaseGil())
      .def("read_shared", &read_shared, py::arg("name"), ReleaseGil())
      .def(
          "verify",
          [](const FileReader& reader, const ByteProgress& progress) {
            reader.verify(torch_threads(), progress ? *progress : LoadProgress());
          },
          py::arg("progress") = py::none(), ReleaseGil());
}

void bind_io(py::module_& m) {
  m.def("check_finite", &check_finite, py::arg("parameters"), ReleaseGil());
  m.def("save", &save_tensors, py::arg("tensors"), py::arg("path"), py::arg("coding"),
        py::arg("gap_bits"), py::arg("metadata"), py::arg("progress"), ReleaseGil(),
        "(entries, bytes of the file, bytes of the tensors)");
  m.def("coded_entries", &entries_of, py::arg("tensors"), py::arg("coding"), py::arg("gap_bits"),
        ReleaseGil());
  m.def("load", &load_tensors, py::arg("path"), py::arg("progress"), ReleaseGil());
  m.def("load_",
        static_cast<void (*)(const NamedTensors&, const std::filesystem::path&,
                             const std::set<std::string>&)>(&load_),
        py::arg("targets"), py::arg("path"), py::arg("must_be_finite"), ReleaseGil());
}

}  // namespace

void bind_format(py::module_& m) {
  bind_mask(m);
  bind_entry(m);
  bind_reader(m);
  bind_io(m);
}

}  // namespace pomona::bindings
