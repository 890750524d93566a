#pragma once
// Words for error messages.

#include <sstream>
#include <string>

namespace pomona {

// text("sparsity ", 1.5) == "sparsity 1.5".
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// join({"a", "b"}) == "a, b"; after `most` items it ends in ", ... (n in all)".
template <class Items>
std::string join(const Items& items, size_t most = 20) {
  std::ostringstream out;
  size_t count = 0;
  for (const auto& item : items) {
    if (count < most) out << (count == 0 ? "" : ", ") << item;
    ++count;
  }
  if (count > most) out << ", ... (" << count << " in all)";
  return out.str();
}

}  // namespace pomona
