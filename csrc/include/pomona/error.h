#pragma once
// The exceptions of Pomona. Messages read `<what>: expected <argument> <condition>, got <value>.
// <hint>.`

#include "pomona/export.h"

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

namespace pomona {

// A wrong argument. Python sees a subclass of ValueError.
class POMONA_API InvalidArgument : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
  ~InvalidArgument() override;
};

// A `.pomona` file whose bytes are not what was written. Python sees a subclass of ValueError.
class POMONA_API CorruptFile : public std::runtime_error {
 public:
  // `section` names the damaged part ("header", "directory", "fc1.weight/positions"); `offset` is
  // its byte in the file.
  CorruptFile(const std::string& section, uint64_t offset, const std::string& what);
  ~CorruptFile() override;
  const std::string section;
  const uint64_t offset;
};

// What the operating system refused (no permission, disk full, no such file). Python sees OSError
// with errno and file name, so PermissionError and FileNotFoundError work.
class POMONA_API FileError : public std::system_error {
 public:
  FileError(int error_number, const std::string& action, const std::filesystem::path& path);
  ~FileError() override;
  const std::filesystem::path path;
};

// The version of the library, "major.minor.patch".
POMONA_API const char* version();

}  // namespace pomona
