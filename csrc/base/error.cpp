#include "pomona/error.h"

namespace pomona {

InvalidArgument::~InvalidArgument() = default;

CorruptFile::CorruptFile(const std::string& section_name, uint64_t at, const std::string& what)
    : std::runtime_error(section_name + " at byte " + std::to_string(at) + ": " + what),
      section(section_name),
      offset(at) {}
CorruptFile::~CorruptFile() = default;

FileError::FileError(int error_number, const std::string& action, const std::filesystem::path& file)
    : std::system_error(error_number, std::generic_category(), action + " " + file.string()),
      path(file) {}
FileError::~FileError() = default;

const char* version() {
  return POMONA_VERSION;
}

}  // namespace pomona
