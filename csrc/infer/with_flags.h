#pragma once
// From flags known when a kernel runs to constants that it is compiled for.

#include <type_traits>

namespace pomona {

// Calls call(std::bool_constant<flag>...).
template <class Call>
void with_flags(const Call& call) {
  call();
}
template <class Call, class... Flags>
void with_flags(const Call& call, bool flag, Flags... flags) {
  const auto with = [&](auto constant) {
    with_flags([&](auto... rest) { call(constant, rest...); }, flags...);
  };
  flag ? with(std::true_type{}) : with(std::false_type{});
}

}  // namespace pomona
