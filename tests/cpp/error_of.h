#pragma once
// What a call throws, in words.

#include "pomona/error.h"

#include <string>

namespace pomona::testing {

// The message of the Error that `call` throws; "no error" where it throws none.
template <class Error = InvalidArgument, class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace pomona::testing
