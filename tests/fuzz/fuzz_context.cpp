// Any bytes as a mask and as codes by the context coder. What decodes is encoded again and must
// decode to the same.
#include "pomona/error.h"

#include "encode/context_codes.h"
#include "encode/context_mask.h"

#include <cstdlib>

namespace {

void decode(std::span<const std::byte> bytes, const pomona::CodedMatrix& shape, int64_t kept,
            int64_t alphabet, bool is_codes) {
  if (!is_codes) {
    const pomona::Mask mask = pomona::decode_mask(bytes, shape, kept);
    if (pomona::decode_mask(pomona::encode_mask(mask, shape), shape, mask.kept()) != mask) {
      std::abort();
    }
    return;
  }
  pomona::Mask mask(shape.rows * shape.cols, false);
  for (int64_t i = 0; i < mask.size(); ++i) mask.set(i, i * kept % 7 < 3);
  const auto codes = pomona::decode_codes_in_context(bytes, mask, shape, alphabet);
  const auto again = pomona::encode_codes(codes, mask, shape, alphabet);
  if (pomona::decode_codes_in_context(again, mask, shape, alphabet) != codes) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 6) return 0;
  const int64_t inner = 1 + data[0] % 9;
  const pomona::CodedMatrix shape{1 + data[1] % 40, inner * (1 + data[2] % 20), inner};
  const int64_t kept = data[3] * shape.rows * shape.cols / 255;
  try {
    decode(std::as_bytes(std::span(data, size)).subspan(6), shape, kept, 2 + data[4] % 255,
           data[5] % 2 != 0);
  } catch (const pomona::CorruptFile&) {
  }
  return 0;
}
