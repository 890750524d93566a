// Any bytes as a file: opened, listed, decoded as weights and straight into memory. What is read is
// written and read again, and must be the same.
#include "pomona/error.h"
#include "pomona/file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace {

// Bytes as a file in memory, with a path.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("pomona", 0)) {}
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  bool write(const uint8_t* data, size_t size) const {
    return ::write(descriptor_, data, size) == static_cast<ssize_t>(size);
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

void read_everything(const pomona::FileReader& reader) {
  constexpr int64_t kMostElements = int64_t{1} << 20;  // larger ones are slow, not wrong
  for (const pomona::FileEntry& entry : reader.entries()) {
    if (entry.numel > kMostElements) continue;
    try {
      const pomona::Weight weight = reader.read(entry.name);
      weight.check();
      std::vector<std::byte> dense(
          static_cast<size_t>(entry.numel * pomona::item_size(entry.dtype)));
      const pomona::FileReader::Target target{entry.name, dense};
      reader.read_into(std::span(&target, 1));
      if (dense != weight.to_dense()) std::abort();
    } catch (const pomona::CorruptFile&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile file;
  if (!file.write(data, size)) return 0;
  try {
    read_everything(pomona::FileReader(file.path()));
  } catch (const pomona::CorruptFile&) {
  } catch (const pomona::InvalidArgument&) {  // a newer version
  }
  return 0;
}
