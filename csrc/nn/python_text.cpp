#include "nn/python_text.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace pomona {
namespace {

// The code point that begins at text[i]; i moves behind it.
uint32_t next_code_point(const std::string& text, size_t& i) {
  const auto byte = [&](size_t at) {
    return at < text.size() ? static_cast<uint8_t>(text[at]) : uint8_t{0};
  };
  const uint8_t lead = byte(i++);
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
  uint32_t point = more == 0 ? lead : lead & (0x3Fu >> more);
  for (int k = 0; k < more; ++k) point = (point << 6) | (byte(i++) & 0x3Fu);
  return point;
}

std::string escaped(uint32_t unit) {
  std::array<char, 8> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "\\u%04x", unit & 0xFFFFu);
  return buffer.data();
}

}  // namespace

std::string python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  const std::string shortest(buffer.data(), end.ptr);
  const int exponent = std::atoi(shortest.c_str() + shortest.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return shortest;
  const auto fixed =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  const std::string plain(buffer.data(), fixed.ptr);
  return plain.find('.') == std::string::npos ? plain + ".0" : plain;
}

std::string json_string(const std::string& value) {
  std::string text = "\"";
  for (size_t i = 0; i < value.size();) {
    const uint32_t point = next_code_point(value, i);
    if (point == '"' || point == '\\') {
      text += {'\\', static_cast<char>(point)};
    } else if (point >= 0x20 && point < 0x7F) {
      text += static_cast<char>(point);
    } else if (point >= 0x10000) {  // a pair of surrogates
      text += escaped(0xD800 + ((point - 0x10000) >> 10)) + escaped(0xDC00 + (point & 0x3FF));
    } else {
      text += escaped(point);
    }
  }
  return text + "\"";
}

}  // namespace pomona
