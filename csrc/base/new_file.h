#pragma once
// A file that is there whole or not at all: written beside its path under a name of its own,
// flushed to the disk, then renamed over the path.

#include "pomona/export.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace pomona {

class POMONA_API NewFile {
 public:
  // Opens the temporary file. Where `path` is a link, the file that it points to will be replaced;
  // a file that is there already gives its permission bits. Throws FileError when the folder cannot
  // be written, or when `path` is a folder, a device or a file without write permission.
  explicit NewFile(const std::filesystem::path& path);
  ~NewFile();  // without commit() the temporary file is removed
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  // Throws FileError (disk full); then the temporary file is gone and is_open() false.
  void append(std::span<const std::byte> bytes);
  uint64_t size() const { return size_; }  // appended so far
  bool is_open() const { return descriptor_ >= 0; }
  // REQUIRES: is_open(). Throws FileError, and then `path` is as it was.
  void commit();

 private:
  void open_beside_target();
  [[noreturn]] void fail(const char* action);
  void discard() noexcept;

  std::filesystem::path path_;    // as the caller gave it, for messages
  std::filesystem::path target_;  // links followed
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

}  // namespace pomona
