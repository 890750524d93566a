#pragma once
// The compressed model file, `*.pomona` (docs/format.md): relative indices with fillers and Huffman
// codes (thesis §4.5), a directory, a checksum for every byte. No torch: pomona::core alone lists
// and decodes a file.

#include "pomona/export.h"
#include "pomona/weight.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pomona {

// How a file is coded.
struct Coding {
  // Bits of a gap, 2 to 8 (thesis: 5 fc, 8 conv). 0: for each tensor the width from 2 to 8 whose
  // coded size is least.
  int gap_bits = 0;
};

// Where the bytes of one tensor go; what `pomona inspect` prints.
struct FileEntry {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  int64_t numel = 0;
  int64_t kept = 0;
  int64_t centroids = 0;  // entries of the codebook; 0 when not shared
  int gap_bits = 0;       // 0 when positions are not stored (nothing pruned)
  int64_t fillers = 0;
  uint64_t offset = 0;  // of its first section in the file
  // Sections, in bytes, tables included.
  uint64_t codebook_bytes = 0;
  uint64_t position_bytes = 0;
  uint64_t code_bytes = 0;
  uint64_t value_bytes = 0;
  uint64_t bytes() const { return codebook_bytes + position_bytes + code_bytes + value_bytes; }
};

// Writes a file beside `path` and renames it over `path` in commit(): an existing file stays whole
// until then, whatever happens.
class POMONA_API FileWriter {
 public:
  // Throws FileError when the folder cannot be written, InvalidArgument for gap_bits outside
  // 0, 2..8.
  explicit FileWriter(std::filesystem::path path, Coding coding = {});
  ~FileWriter();  // without commit() nothing is left behind
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  // Throws InvalidArgument for a weight that fails check(), has more than 2^36 elements or a name
  // that stands twice (the writer goes on), FileError when the disk is full (the writer is done).
  FileEntry add(const Weight& weight);
  // Flushes to the disk and renames. Returns the size of the file in bytes. Throws FileError;
  // InvalidArgument when it was called before or add() met a FileError.
  uint64_t commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads a file. The header and the directory are checked when it is opened, a tensor's sections
// when it is read.
class POMONA_API FileReader {
 public:
  // Throws FileError (no such file, no permission), CorruptFile (not a pomona file, truncated,
  // damaged), InvalidArgument (written by a newer version).
  explicit FileReader(const std::filesystem::path& path);
  ~FileReader();
  FileReader(FileReader&&) noexcept;

  const std::vector<FileEntry>& entries() const;  // in the order written
  uint64_t size() const;                          // of the whole file, bytes
  bool contains(std::string_view name) const;
  // Throws InvalidArgument when there is no such name, CorruptFile when a section is damaged. Any
  // number of threads may read at once.
  Weight read(std::string_view name) const;
  // Reads every tensor and lets it go: after this the file is known to be whole. Throws
  // CorruptFile.
  void verify() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pomona
