#include "pomona/rules.h"

#include "pomona/error.h"
#include "pomona/patterns.h"

#include "base/text.h"

#include <algorithm>
#include <regex>

namespace pomona {
namespace {

constexpr std::string_view kRegexPrefix = "re:";

// Classic glob with one level of backtracking: O(|pattern| * |text|) at worst.
bool matches_glob(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, retry = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || (pattern[p] == text[t] && pattern[p] != '*'))) {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

// The glob matches the name from its start or from just after any of its dots.
bool matches_at_a_boundary(std::string_view pattern, std::string_view name) {
  for (size_t start = 0;;) {
    if (matches_glob(pattern, name.substr(start))) return true;
    const size_t dot = name.find('.', start);
    if (dot == std::string_view::npos) return false;
    start = dot + 1;
  }
}

// The parameter's own name, then the name of each module that contains it, inside out.
bool matches_name_or_module(std::string_view pattern, std::string_view name) {
  for (size_t end = name.size(); end != std::string_view::npos && end > 0;
       end = name.rfind('.', end - 1)) {
    if (matches_at_a_boundary(pattern, name.substr(0, end))) return true;
  }
  return false;
}

class Pattern {
 public:
  // `least` dimensions make a parameter eligible without being spelled out.
  Pattern(const char* what, const std::string& pattern, size_t least)
      : what_(what), pattern_(pattern), least_(least) {
    if (!pattern.starts_with(kRegexPrefix)) return;
    try {
      regex_.emplace(pattern.substr(kRegexPrefix.size()));
    } catch (const std::regex_error& error) {
      throw InvalidArgument(text(what, ": expected `", pattern,
                                 "` to hold a regular expression (ECMAScript), got ", error.what(),
                                 "."));
    }
  }

  bool matches(const Parameter& parameter) const {
    if (parameter.name == pattern_) {
      if (!parameter.is_floating) {
        throw InvalidArgument(text(what_, ": expected `", pattern_,
                                   "` to name a floating-point parameter, got an integer one."));
      }
      return true;
    }
    if (!parameter.is_floating || parameter.shape.size() < least_) return false;
    if (regex_) return std::regex_match(parameter.name, *regex_);
    return matches_name_or_module(pattern_, parameter.name);
  }

 private:
  const char* what_;
  std::string pattern_;
  size_t least_;
  std::optional<std::regex> regex_;
};

std::vector<std::string> eligible_names(std::span<const Parameter> parameters, size_t least) {
  std::vector<std::string> names;
  for (const auto& parameter : parameters) {
    if (parameter.is_floating && parameter.shape.size() >= least) names.push_back(parameter.name);
  }
  return names;
}

// For each parameter the index of the first pattern that matches it, or -1.
std::vector<int64_t> match(const char* what, std::span<const Parameter> parameters,
                           std::span<const std::string> patterns, size_t least) {
  std::vector<int64_t> decided_by(parameters.size(), -1);
  for (size_t r = 0; r < patterns.size(); ++r) {
    const Pattern pattern(what, patterns[r], least);
    const bool is_a_name = std::any_of(parameters.begin(), parameters.end(),
                                       [&](const auto& p) { return p.name == patterns[r]; });
    bool is_used = false;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (is_a_name && parameters[i].name != patterns[r]) continue;
      if (!pattern.matches(parameters[i])) continue;
      is_used = true;
      if (decided_by[i] < 0) decided_by[i] = static_cast<int64_t>(r);
    }
    if (!is_used) {
      throw InvalidArgument(
          text(what, ": expected `", patterns[r], "` to match a floating-point parameter",
               least > 0 ? " of two or more dimensions" : "",
               ", got no match among: ", join(eligible_names(parameters, least)), "."));
    }
  }
  return decided_by;
}

}  // namespace

std::vector<int64_t> match_rules(std::span<const Parameter> parameters,
                                 std::span<const std::string> patterns) {
  return match("rules", parameters, patterns, 2);
}

std::vector<size_t> match_parameters(const char* what, std::span<const Parameter> parameters,
                                     std::span<const std::string> patterns) {
  const auto decided_by = match(what, parameters, patterns, 0);
  std::vector<size_t> matched;
  for (size_t i = 0; i < decided_by.size(); ++i) {
    if (decided_by[i] >= 0) matched.push_back(i);
  }
  return matched;
}

}  // namespace pomona
