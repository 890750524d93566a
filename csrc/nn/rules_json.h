#pragma once
// A rule as JSON, as pomona.rules writes it in Python: members that have their default are left
// out.

#include "pomona/codebook.h"
#include "pomona/prune_rule.h"

#include <string>

namespace pomona {

// {"sparsity": 0.9, "criterion": {"kind": "Taylor"}, "scope": "global"}. REQUIRES: a one-shot
// schedule from the first step on.
std::string to_json(const Prune& rule);
// {"bits": 5, "granularity": "channel"}.
std::string to_json(const Share& rule);

}  // namespace pomona
