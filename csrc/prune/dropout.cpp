#include "pomona/dropout.h"

#include "pomona/error.h"

#include "base/text.h"

#include <algorithm>
#include <cmath>

namespace pomona {
namespace {

// C_r / C_o.
double share_left(int64_t left, int64_t total) {
  return total == 0 ? 1.0 : static_cast<double>(left) / static_cast<double>(total);
}

int64_t total_before(const AdjustedDropout* earlier, const std::string& layer) {
  if (earlier == nullptr) return 0;
  const auto found = std::ranges::find(earlier->layers, layer, &Connections::layer);
  return found == earlier->layers.end() ? 0 : found->total;
}

}  // namespace

double dropout_rate(double original, int64_t left, int64_t total) {
  return original * std::sqrt(share_left(left, total));
}

AdjustedDropout adjust_dropout(const std::string& name, double rate,
                               std::span<const Connections> layers,
                               const AdjustedDropout* earlier) {
  const bool is_ours = earlier != nullptr && earlier->adjusted == rate;
  AdjustedDropout dropout{name, is_ours ? earlier->original : rate, 0.0, {}};
  for (const auto& layer : layers) {
    const int64_t total = std::max(layer.total, total_before(earlier, layer.layer));
    dropout.layers.push_back({layer.layer, layer.left, total});
  }
  const auto share = [](const Connections& layer) { return share_left(layer.left, layer.total); };
  const bool are_alike = std::ranges::adjacent_find(dropout.layers, std::ranges::not_equal_to{},
                                                    share) == dropout.layers.end();
  if (dropout.layers.empty() || !are_alike) {
    std::vector<std::string> names;
    for (const auto& layer : layers) names.push_back(layer.layer);
    throw InvalidArgument(
        text("adjust_dropout_: expected each dropout of `model` to follow one "
             "layer, got `",
             name, "` after ", names.empty() ? "none" : join(names),
             are_alike ? "."
                       : ", which are pruned differently. Give each layer "
                         "a dropout of its own."));
  }
  const auto& [_, left, total] = dropout.layers.front();
  dropout.adjusted = dropout_rate(dropout.original, left, total);
  return dropout;
}

}  // namespace pomona
