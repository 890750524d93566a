#pragma once
// The cache of load_packed_ as tensors. It is of one file, one way to pack, one version of the
// library and one processor.

#include "pomona/export.h"
#include "pomona/packing.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pomona {

struct CachedTensors {
  using Named = std::vector<std::pair<std::string, at::Tensor>>;
  Named packed;  // uint8 [bytes]
  Named dense;
};

// What decides the bytes: see above. Throws FileError.
POMONA_API std::string cache_key(const std::filesystem::path& file, const Packing& packing);
// Tensors in the mapped file, which lives as long as one of them; writing to
// them changes no file. Nothing where there is no such file, it is of another key, or damaged.
POMONA_API std::optional<CachedTensors> read_cached_tensors(const std::filesystem::path& path,
                                                            std::string_view key);
// On the CPU, in dtypes that a file can hold. Throws FileError.
POMONA_API void write_cached_tensors(const std::filesystem::path& path, std::string_view key,
                                     const CachedTensors& tensors);

}  // namespace pomona
