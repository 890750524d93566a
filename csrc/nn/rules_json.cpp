#include "nn/rules_json.h"

#include "base/text.h"
#include "nn/python_text.h"

#include <array>
#include <utility>
#include <vector>

namespace pomona {
namespace {

// A member's name and its JSON.
using Members = std::vector<std::pair<const char*, std::string>>;

std::string object(const Members& members) {
  std::vector<std::string> items;
  for (const auto& [name, value] : members) items.push_back(text("\"", name, "\": ", value));
  return text("{", join(items, items.size()), "}");
}

std::string word(const std::string& value) {
  return text("\"", value, "\"");
}

std::string criterion_json(const Criterion& criterion) {
  constexpr std::array kNames{"Magnitude", "StdFactor", "Taylor", "OBD", "Random", "Scores"};
  using Kind = Criterion::Kind;
  const Criterion defaults;
  Members members{{"kind", word(kNames.at(static_cast<size_t>(criterion.kind)))}};
  if (criterion.kind == Kind::kStdFactor) {
    members.emplace_back("quality", python_float(criterion.quality));
    if (criterion.growth != 0) members.emplace_back("growth", python_float(criterion.growth));
  }
  if (criterion.kind == Kind::kObd) {
    if (criterion.decay != defaults.decay) {
      members.emplace_back("decay", python_float(criterion.decay));
    }
    if (criterion.from_optimizer) members.emplace_back("from_optimizer", "true");
  }
  if (criterion.kind == Kind::kRandom && criterion.seed != 0) {
    members.emplace_back("seed", text(criterion.seed));
  }
  return object(members);
}

std::string pieces(const Granularity& granularity) {
  const auto& [kind, rows, columns] = granularity;
  switch (kind) {
    case Granularity::Kind::kRow:
      return "row";
    case Granularity::Kind::kColumn:
      return "column";
    case Granularity::Kind::kBlock:
      return text("block:", rows, "x", columns);
    case Granularity::Kind::kNOfM:
      return text(rows, ":", columns);
    case Granularity::Kind::kBalanced:
      return text("balanced:", rows);
    case Granularity::Kind::kElement:
      break;
  }
  return "element";
}

}  // namespace

std::string to_json(const Prune& rule) {
  Members members{{"sparsity", python_float(rule.sparsity)}};
  if (rule.criterion.kind != Criterion::Kind::kMagnitude) {
    members.emplace_back("criterion", criterion_json(rule.criterion));
  }
  if (rule.granularity.kind != Granularity::Kind::kElement) {
    members.emplace_back("granularity", word(pieces(rule.granularity)));
  }
  if (rule.scope == Scope::kGlobal) members.emplace_back("scope", word("global"));
  if (rule.may_empty) members.emplace_back("may_empty", "true");
  return object(members);
}

std::string to_json(const Share& rule) {
  constexpr std::array kFits{"exact", "linear", "density", "forgy", "kmeans++"};
  constexpr std::array kEntries{"same", "float16", "bfloat16", "fixed16"};
  Members members{{"bits", text(rule.bits)}};
  if (rule.codes != 0) members.emplace_back("codes", text(rule.codes));
  if (rule.group != 0) {
    const bool by_channel = rule.group == Share::kPerChannel;
    members.emplace_back("granularity", word(by_channel ? "channel" : text("group:", rule.group)));
  }
  if (rule.fit != Fit::kExact) {
    members.emplace_back("fit", word(kFits.at(static_cast<size_t>(rule.fit))));
  }
  if (rule.entries != EntryType::kSame) {
    members.emplace_back("entries", word(kEntries.at(static_cast<size_t>(rule.entries))));
  }
  if (rule.rate != 0) members.emplace_back("rate", python_float(rule.rate));
  if (rule.seed != 0) members.emplace_back("seed", text(rule.seed));
  return object(members);
}

}  // namespace pomona
