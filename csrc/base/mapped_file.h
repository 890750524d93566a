#pragma once
// A regular file as memory, read by any number of threads. Pages come in as they are touched, and
// release() lets them go, so that reading a large file does not fill the memory.

#include "pomona/export.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace pomona {

// A file that another process cuts short while it is mapped ends this one with SIGBUS, as any
// mapping does; NewFile never does that: it puts a new file in the old one's place.
class POMONA_API MappedFile {
 public:
  // kCopyOnWrite: pages that are written become this process's own, and never the file's.
  enum class Access { kReadOnly, kCopyOnWrite };
  // Throws FileError (no such file, no permission, a folder, no memory to map it).
  explicit MappedFile(const std::filesystem::path& path, Access access = Access::kReadOnly);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  // REQUIRES: kCopyOnWrite.
  std::span<std::byte> writable_bytes() const {
    return {const_cast<std::byte*>(bytes_.data()), bytes_.size()};
  }
  // The pages of these bytes may leave the memory; they come back when they are touched again.
  void release(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace pomona
