#pragma once
// The compressed model file, `*.pomona` (docs/format.md): relative indices with fillers and Huffman
// codes (thesis §4.5) or what is smaller, a directory, a checksum for every byte. No torch:
// pomona::core alone lists and decodes a file.

#include "pomona/encode.h"
#include "pomona/export.h"
#include "pomona/parallel.h"
#include "pomona/weight.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pomona {

// What a file is made for.
enum class Goal : uint8_t {
  kSmallest,  // each tensor in whatever is smallest, the context coder included
  kFast,      // the smallest of what decodes at a gigasymbol a second: fixed width, Huffman, rANS
  kHuffman,   // the thesis: gaps with fillers and codes, both Huffman-coded
  kRans,      // the same with rANS
  kContext,   // positions and codes by the context coder
};

// How a file is coded.
struct Coding {
  Goal goal = Goal::kSmallest;
  // Bits of a gap, 2 to 16 (thesis: 5 fc, 8 conv). 0: for each tensor the width whose coded size is
  // least. Any other number makes positions gaps of that width.
  int gap_bits = 0;
  // Encoders of one tensor run as these tasks; empty: one after the other.
  ParallelFor parallel{};
};

// Where the kept weights of a tensor stand. The numbers are part of the file format, as those of
// the next two.
enum class Positions : uint8_t {
  kNone = 0,     // nowhere: all are kept, or none
  kGaps = 1,     // zeros before each, with fillers
  kBitmask = 2,  // a bit for each weight
  kContext = 3,  // a bit for each weight, by the context coder
  kInCodes = 4,  // a code for each weight, of which 0 is zero
};

// How the entries of codebooks are stored.
enum class CodebookForm : uint8_t {
  kDType = 0,        // as the tensor's elements
  kBFloat16 = 1,     // which holds them exactly
  kFloat16 = 2,      // which holds them exactly
  kFixed16 = 3,      // integers of 16 bits times one power of two
  kProgression = 4,  // some of first, first + 1, ... times one power of two; a bit says which
  kPlanes = 5,       // of many codebooks: as ValueForm::kPlanes
};

// How the values of a tensor without a codebook are stored.
enum class ValueForm : uint8_t {
  kRaw = 0,     // as they lie in memory
  kPlanes = 1,  // the first bytes of all, the second bytes of all, ..., each entropy-coded
};

// Where the bytes of one tensor go; what `pomona inspect` prints.
struct FileEntry {
  std::string name{};
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape{};
  int64_t numel = 0;
  int64_t kept = 0;
  int64_t centroids = 0;  // entries of a codebook; 0 when not shared
  int64_t group = 0;      // elements that share a codebook; 0: all
  // A codebook that serves the file only: read() gives plain values.
  bool is_plain = false;
  CodebookForm codebook_form = CodebookForm::kDType;
  ValueForm value_form = ValueForm::kRaw;
  int64_t distance = 0;  // of values: each is stored as its difference from the one so far before
  Positions positions = Positions::kNone;
  Coder position_coder = Coder::kFixed;  // of gaps
  Coder code_coder = Coder::kFixed;
  int gap_bits = 0;     // of gaps
  int64_t fillers = 0;  // of gaps
  int64_t chunk = 0;    // elements that decode on their own; 0: the tensor is one chunk
  uint64_t offset = 0;  // of its section in the file
  // Parts of the section, in bytes, tables included.
  uint64_t codebook_bytes = 0;
  uint64_t position_bytes = 0;
  uint64_t code_bytes = 0;
  uint64_t value_bytes = 0;
  uint64_t chunk_bytes = 0;  // what lies where, in a tensor of several chunks
  uint64_t bytes() const {
    return codebook_bytes + position_bytes + code_bytes + value_bytes + chunk_bytes;
  }
};

// What add() would make of a weight, without a file; the offset is 0. Throws as FileWriter.
POMONA_API FileEntry coded_entry(const Weight& weight, const Coding& coding = {});

POMONA_API std::string_view coder_name(Coder coder);         // "huffman", ...
POMONA_API std::string_view positions_name(Positions kind);  // "gaps", ...

// Writes a file beside `path` and renames it over `path` in commit(): an existing file stays whole
// until then, whatever happens.
class POMONA_API FileWriter {
 public:
  // Throws FileError when the folder cannot be written, InvalidArgument for gap_bits outside
  // 0, 2..16.
  explicit FileWriter(std::filesystem::path path, Coding coding = {});
  ~FileWriter();  // without commit() nothing is left behind
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  // Throws InvalidArgument for a weight that fails check(), has more than 2^36 elements or a name
  // that stands twice (the writer goes on), FileError when the disk is full (the writer is done).
  FileEntry add(const Weight& weight);
  // Free text, JSON by convention; the last one counts. Throws InvalidArgument above 2^32 bytes.
  void set_metadata(std::string json);
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
  // Empty when there is none.
  const std::string& metadata() const;
  // Throws InvalidArgument when there is no such name, CorruptFile when a section is damaged. Any
  // number of threads may read at once.
  Weight read(std::string_view name, const ParallelFor& parallel = {}) const;

  // One tensor and where its elements go: row-major, numel times the size of an element.
  struct Target {
    std::string_view name;
    std::span<std::byte> dense;
  };
  // Decodes tensors chunk by chunk straight into memory, on as many threads as `parallel` has;
  // beside the targets it needs a few megabytes a thread. Throws as read(), and InvalidArgument
  // when a size is wrong; what the targets hold then is undefined. `progress` is told the bytes of
  // tensors that are done, from any thread, one call at a time.
  void read_into(std::span<const Target> targets, const ParallelFor& parallel = {},
                 const std::function<void(uint64_t)>& progress = {}) const;
  // Decodes every tensor and lets it go: after this the file is known to be whole. Throws
  // CorruptFile.
  void verify(const ParallelFor& parallel = {},
              const std::function<void(uint64_t)>& progress = {}) const;
  // The same for some of them. Throws InvalidArgument for a name that is not there.
  void verify(std::span<const std::string> names, const ParallelFor& parallel = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pomona
