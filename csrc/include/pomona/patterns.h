#pragma once
// Parameters by pattern alone, where there is no rule to decide: the patterns are those of
// `rules.h`, and vectors count like matrices.

#include "pomona/export.h"
#include "pomona/rules.h"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace pomona {

// The floating-point parameters that any of the patterns matches, by index, ascending; a module's
// name takes its biases along. Throws InvalidArgument as match_rules; `what` begins the message.
POMONA_API std::vector<size_t> match_parameters(const char* what,
                                                std::span<const Parameter> parameters,
                                                std::span<const std::string> patterns);

}  // namespace pomona
