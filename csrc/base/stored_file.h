#pragma once
// A regular file, read at any offset by any number of threads. By pread, not mmap: a file that is
// cut short while it is open gives an error and not a signal.

#include "pomona/export.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace pomona {

class POMONA_API StoredFile {
 public:
  // Throws FileError (no such file, no permission, a folder).
  explicit StoredFile(const std::filesystem::path& path);
  ~StoredFile();
  StoredFile(const StoredFile&) = delete;
  StoredFile& operator=(const StoredFile&) = delete;

  uint64_t size() const { return size_; }  // when it was opened
  const std::filesystem::path& path() const { return path_; }
  // Fewer bytes than asked for when the file ends first. Throws FileError.
  std::vector<std::byte> read(uint64_t offset, uint64_t size) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

}  // namespace pomona
