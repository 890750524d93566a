#include "pomona/rules.h"

#include "pomona/error.h"

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
  explicit Pattern(const std::string& pattern) : pattern_(pattern) {
    if (!pattern.starts_with(kRegexPrefix)) return;
    try {
      regex_.emplace(pattern.substr(kRegexPrefix.size()));
    } catch (const std::regex_error& error) {
      throw InvalidArgument(text("rules: expected `", pattern,
                                 "` to hold a regular expression (ECMAScript), got ", error.what(),
                                 "."));
    }
  }

  bool matches(const Parameter& parameter) const {
    if (parameter.name == pattern_) {
      if (!parameter.is_floating) {
        throw InvalidArgument(text("rules: expected `", pattern_,
                                   "` to name a floating-point parameter, got an integer one."));
      }
      return true;
    }
    if (!parameter.is_floating || parameter.shape.size() < 2) return false;
    if (regex_) return std::regex_match(parameter.name, *regex_);
    return matches_name_or_module(pattern_, parameter.name);
  }

 private:
  std::string pattern_;
  std::optional<std::regex> regex_;
};

std::vector<std::string> eligible_names(std::span<const Parameter> parameters) {
  std::vector<std::string> names;
  for (const auto& parameter : parameters) {
    if (parameter.is_floating && parameter.shape.size() >= 2) names.push_back(parameter.name);
  }
  return names;
}

}  // namespace

std::vector<int64_t> match_rules(std::span<const Parameter> parameters,
                                 std::span<const std::string> patterns) {
  std::vector<int64_t> decided_by(parameters.size(), -1);
  for (size_t r = 0; r < patterns.size(); ++r) {
    const Pattern pattern(patterns[r]);
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
      throw InvalidArgument(text("rules: expected `", patterns[r],
                                 "` to match a floating-point parameter of two or more dimensions, "
                                 "got no match among: ",
                                 join(eligible_names(parameters)), "."));
    }
  }
  return decided_by;
}

}  // namespace pomona
