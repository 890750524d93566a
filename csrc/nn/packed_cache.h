#pragma once
// The cache of load_packed_: packed matrices and dense tensors in a file beside the model's, mapped
// into memory the next time. It is of one file, one way to pack, one version and one processor, and
// is made anew for any other: no format to keep.
//
//   64 bytes: magic, bytes of the key, of the directory and of the file, a checksum of all that
//   comes before the tensors; the key; the directory; the tensors, each at a multiple of 64

#include "pomona/export.h"
#include "pomona/packing.h"
#include "pomona/weight.h"

#include "base/mapped_file.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pomona {

struct CachedTensor {
  std::string name{};
  bool is_packed = false;  // bytes that pack() made
  DType dtype = DType::kUInt8;
  std::vector<int64_t> shape{};
  std::span<std::byte> bytes{};  // of a mapping, at a multiple of 64; writing changes no file
};

struct PackedCache {
  std::shared_ptr<const MappedFile> file;  // keeps the bytes
  std::vector<CachedTensor> tensors;
};

// What decides the bytes: the file's size and checksums, how it is packed, this version of the
// library and this processor. Throws FileError.
POMONA_API std::string packed_cache_key(const std::filesystem::path& file, const Packing& packing);

// Nothing where there is no such file, it is of another key, or damaged: cut short, a changed
// directory, packed bytes that pack() cannot have made. (Values of tensors are not checked.)
POMONA_API std::optional<PackedCache> read_packed_cache(const std::filesystem::path& path,
                                                        std::string_view key);

// Whole or not at all. Throws FileError.
POMONA_API void write_packed_cache(const std::filesystem::path& path, std::string_view key,
                                   std::span<const CachedTensor> tensors);

}  // namespace pomona
