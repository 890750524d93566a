#pragma once
// A Weight as the bytes of its sections, and back. Source: docs/format.md, "Sections".

#include "pomona/file.h"
#include "pomona/weight.h"

#include "encode/directory.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pomona {

// Fills everything of `entry` but its offset. REQUIRES: weight.check() passed.
PerSection<std::vector<std::byte>> encode_sections(const Weight& weight, const Coding& coding,
                                                   FileEntry& entry);
// Throws CorruptFile, naming section and byte of the file, for bytes that encode_sections would not
// make. REQUIRES: the sections have the sizes that `entry` says.
Weight decode_sections(const FileEntry& entry, PerSection<std::vector<std::byte>> sections);

}  // namespace pomona
