#pragma once
// Files of bytes: what a reader says of damaged ones.

#include "pomona/error.h"
#include "pomona/file.h"

#include "temporary_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace pomona::testing {

// Some bytes as a file, read whole: verified, and each tensor decoded.
class Damaged {
 public:
  // "" when the bytes are accepted, else the message of the CorruptFile.
  std::string operator()(const std::string& bytes) {
    write_contents(folder_ / "a", bytes);
    const std::string refused =
        message_of(bytes.size(), [](FileReader reader) { reader.verify(); });
    const std::string not_read = message_of(bytes.size(), [](FileReader reader) {
      for (const FileEntry& entry : reader.entries()) reader.read(entry.name);
    });
    EXPECT_EQ(refused.empty(), not_read.empty()) << refused << "; " << not_read;
    return refused;
  }

 private:
  template <class Use>
  std::string message_of(size_t size, Use use) {
    try {
      use(FileReader(folder_ / "a"));
    } catch (const CorruptFile& error) {
      EXPECT_FALSE(error.section.empty());
      EXPECT_LE(error.offset, std::max<size_t>(size, 100));
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
};

inline std::string file_of(const std::vector<Weight>& weights) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a");
  for (const auto& weight : weights) writer.add(weight);
  writer.commit();
  return contents_of(folder / "a");
}

}  // namespace pomona::testing
