#pragma once
// The codebook part of a section: entries in as few bytes as hold them exactly.
// Source: docs/format.md, "Codebooks".

#include "pomona/file.h"
#include "pomona/weight.h"

#include "encode/coded_part.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pomona {

struct CodedCodebooks {
  CodebookForm form = CodebookForm::kDType;
  Bytes bytes;
};

// The smallest form. REQUIRES: weight.is_shared().
CodedCodebooks encode_codebooks(const Weight& weight, const Coding& coding);

// Bytes of a form whose size follows from the number of entries; nothing for the others.
std::optional<uint64_t> fixed_codebook_size(CodebookForm form, DType dtype, int64_t entries);

// `entries` floats. Throws CorruptFile (offset within `bytes`).
std::vector<float> decode_codebooks(CodebookForm form, DType dtype, int64_t entries,
                                    std::span<const std::byte> bytes);

}  // namespace pomona
