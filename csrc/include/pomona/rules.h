#pragma once
// Which rule decides which parameter: an ordered list of (pattern, rule or nothing); the first
// pattern that matches wins.
//
// A pattern is a glob (`*` any run of characters, dots included; `?` one) over the qualified name
// of a parameter
// ("layer1.0.conv1.weight") or of a module that contains it ("layer1.0.conv1", "layer1"); a match
// may begin at any module boundary, so "conv1" finds it too. `re:<regex>` must match the whole
// qualified parameter name. Patterns select floating-point parameters of two or more dimensions
// unless they spell a parameter's name out: that one means this parameter alone ("conv1.weight" is
// not "layer1.0.conv1.weight").

#include "pomona/export.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pomona {

// What a rule may look at.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  bool is_floating = true;
};

// A parameter and the rule that decides it.
template <class Rule>
struct Ruled {
  Parameter parameter;
  Rule rule;
};

template <class Rule>
using Rules = std::vector<std::pair<std::string, std::optional<Rule>>>;

// For each parameter the index of the pattern that decides it, or -1. Throws InvalidArgument when a
// pattern matches nothing (the message lists the names), spells out an integer parameter, or is not
// a valid regular expression.
POMONA_API std::vector<int64_t> match_rules(std::span<const Parameter> parameters,
                                            std::span<const std::string> patterns);

// The parameters that have a rule, in their order. Errors as match_rules.
template <class Rule>
std::vector<Ruled<Rule>> resolve(std::span<const Parameter> parameters, const Rules<Rule>& rules) {
  std::vector<std::string> patterns;
  for (const auto& [pattern, rule] : rules) patterns.push_back(pattern);
  const auto decided_by = match_rules(parameters, patterns);
  std::vector<Ruled<Rule>> ruled;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (decided_by[i] < 0) continue;
    if (const auto& rule = rules[static_cast<size_t>(decided_by[i])].second) {
      ruled.push_back({parameters[i], *rule});
    }
  }
  return ruled;
}

}  // namespace pomona
