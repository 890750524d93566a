#include "infer/pg_codebook.h"

#include "base/float16.h"
#include "infer/fixed_point.h"

#include <algorithm>
#include <cmath>

namespace pomona {

PgCodebook make_pg_codebook(std::span<const float> values, PackedForm form, Precision precision) {
  PgCodebook book{};
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  const bool is_int8 = precision == Precision::kInt8;
  book.scale = signed_scale(precision, largest);
  for (size_t c = 0; c < values.size(); ++c) {
    const float value = values[c];
    book.values[c] = value;
    book.high[c] = bfloat16_from_float(value);
    book.low[c] = bfloat16_from_float(value - float_from_bfloat16(book.high[c]));
    if (float_from_bfloat16(book.high[c]) != value) book.has_low = 1;  // denormal rests round to 0
    if (form != PackedForm::kBytes) continue;
    const auto whole = static_cast<int>(std::lrint(value / book.scale));
    const int high = is_int8 ? whole : (whole + 128) >> 8;
    book.byte_high[c] = static_cast<int8_t>(high);
    book.byte_low[c] = static_cast<int8_t>(is_int8 ? 0 : whole - 256 * high);
  }
  // The permute looks at six bits of a code, of which only four or five are its own: repeat.
  const size_t period = values.size() <= 16 ? 16 : 32;
  for (size_t c = period; form == PackedForm::kBytes && c < 64; ++c) {
    book.byte_high[c] = book.byte_high[c - period];
    book.byte_low[c] = book.byte_low[c - period];
  }
  book.codes = static_cast<uint32_t>(values.size());
  return book;
}

}  // namespace pomona
