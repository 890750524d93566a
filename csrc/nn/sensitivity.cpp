#include "pomona/sensitivity.h"

#include "pomona/error.h"
#include "pomona/optim.h"

#include "base/crc32c.h"
#include "base/new_file.h"
#include "base/text.h"
#include "nn/python_text.h"
#include "nn/rules_json.h"
#include "nn/scan_file.h"
#include "nn/surroundings.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>

namespace pomona {
namespace {

template <class Rule>
constexpr ScanKind kKind = std::is_same_v<Rule, Prune> ? ScanKind::kSparsity : ScanKind::kBits;

constexpr const char* column_of(ScanKind kind) {
  return kind == ScanKind::kSparsity ? "sparsity" : "bits";
}

// The rule at this setting, reached in one step.
Prune at_setting(Prune rule, double sparsity) {
  rule.sparsity = sparsity;
  rule.schedule = {};
  return rule;
}

Share at_setting(Share rule, double bits) {
  rule.bits = static_cast<int>(bits);
  rule.codes = 0;
  return rule;
}

double gentlest(ScanKind kind) {
  return kind == ScanKind::kSparsity ? 0.0 : 8.0;
}

// Prunes or shares one parameter, as for good; how many of its weights are kept.
int64_t apply_alone(const Ruled<Prune>& layer, std::span<const Live> live) {
  Pruner pruner({layer});
  pruner.step(live);
  return pruner.report()[0].kept;
}

int64_t apply_alone(const Ruled<Share>& layer, std::span<const Live> live) {
  Sharer sharer({layer});
  sharer.assign(live);
  return sharer.report()[0].kept;
}

SensitivityOptions checked(ScanKind kind, SensitivityOptions options) {
  const bool is_one_line = std::ranges::none_of(
      options.metric, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (options.metric.empty() || !is_one_line) {
    throw InvalidArgument(text("sensitivity: expected `metric` to be a name on one line, got ",
                               json_string(options.metric), "."));
  }
  if (kind == ScanKind::kSparsity && options.settings.empty()) {
    options.settings = {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95};
  }
  options.settings = scan_settings("settings", kind, std::move(options.settings));
  return options;
}

double measure(const std::function<double()>& evaluate, Surroundings& surroundings,
               const std::string& where) {
  double metric = 0.0;
  try {
    metric = evaluate();
  } catch (...) {
    surroundings.restore();
    throw;
  }
  surroundings.restore();
  if (std::isnan(metric)) {
    throw InvalidArgument(
        text("sensitivity: expected `evaluate` to return a number, got nan for ", where, "."));
  }
  return metric;
}

// Which scan it is: {"metric": ..., "lower_is_better": ..., "sparsities": [...], "layers": [...],
// "weights": ...}.
template <class Rule>
std::string identity_json(const Sensitivity<Rule>& scan) {
  const bool are_bits = kKind<Rule> == ScanKind::kBits;
  const auto all = [](const std::vector<std::string>& items) {
    return text("[", join(items, items.size()), "]");
  };
  std::vector<std::string> settings, layers;
  for (const double setting : scan.options.settings) {
    settings.push_back(are_bits ? text(setting) : python_float(setting));
  }
  for (const auto& [parameter, rule] : scan.layers) {
    std::vector<std::string> shape;
    for (const int64_t size : parameter.shape) shape.push_back(text(size));
    layers.push_back(text("{\"name\": ", json_string(parameter.name), ", \"shape\": ", all(shape),
                          ", \"rule\": ", to_json(rule), "}"));
  }
  return text("{\"metric\": ", json_string(scan.options.metric),
              ", \"lower_is_better\": ", scan.options.lower_is_better ? "true" : "false",
              are_bits ? ", \"bits\": " : ", \"sparsities\": ", all(settings),
              ", \"layers\": ", all(layers), ", \"weights\": ", json_string(scan.weights), "}");
}

std::string checksum_of(const torch::nn::Module& model) {
  uint32_t checksum = 0;
  for (const auto& parameter : model.parameters()) {
    const at::Tensor values = parameter.detach().cpu().contiguous();
    checksum =
        crc32c({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()}, checksum);
  }
  return text("crc32c ", checksum);
}

// How many weights the scanned parameters have.
template <class Rule>
int64_t size_of(const Sensitivity<Rule>& scan) {
  int64_t size = 0;
  for (const auto& [parameter, rule] : scan.layers) {
    int64_t numel = 1;
    for (const int64_t extent : parameter.shape) numel *= extent;
    size += numel;
  }
  return size;
}

// A scan at work: each point is found in the file, or measured and added to it.
template <class Rule>
class Scan {
 public:
  Scan(torch::nn::Module& model, const std::function<double()>& evaluate, Sensitivity<Rule>& scan)
      : model_(model), evaluate_(evaluate), scan_(scan), surroundings_(model) {
    const auto& options = scan.options;
    if (options.resume.empty()) return;
    file_.emplace(options.resume, kKind<Rule>, identity_json(scan), options.metric);
  }

  void run() {
    const std::string dense(kDenseLayer);
    const int64_t size = size_of(scan_);
    scan_.dense = point(dense, 0.0, [&] {
                    const double metric = measure(evaluate_, surroundings_, "the dense network");
                    return ScanPoint{dense, 0.0, size, size, metric};
                  }).metric;
    for (const auto& layer : scan_.layers) {
      const auto& name = layer.parameter.name;
      for (const double setting : scan_.options.settings) {
        scan_.rows.push_back(point(name, setting, [&] { return measured(layer, setting); }));
      }
    }
  }

 private:
  ScanPoint point(const std::string& layer, double setting,
                  const std::function<ScanPoint()>& measured) {
    if (const ScanPoint* known = file_ ? file_->find(layer, setting) : nullptr) return *known;
    ScanPoint point = measured();
    if (file_) file_->append(point);
    return point;
  }

  // What really pruning (or sharing) this parameter does to the metric.
  ScanPoint measured(const Ruled<Rule>& layer, double setting) {
    const auto& name = layer.parameter.name;
    const auto live = pomona::live(model_, {name});
    const Restored weight(live[0].weight);
    const Ruled<Rule> one{layer.parameter, at_setting(layer.rule, setting)};
    const int64_t kept = apply_alone(one, live);
    double metric = scan_.dense;
    if (!weight.is_unchanged()) {
      const auto where = text(name, " at ", column_of(kKind<Rule>), " ", setting);
      metric = measure(evaluate_, surroundings_, where);
    }
    return {name, setting, kept, live[0].weight.numel(), metric};
  }

  torch::nn::Module& model_;
  const std::function<double()>& evaluate_;
  Sensitivity<Rule>& scan_;
  Surroundings surroundings_;
  std::optional<ScanFile> file_;
};

template <class Rule>
Sensitivity<Rule> scan_of(torch::nn::Module& model, const std::function<double()>& evaluate,
                          const Rules<Rule>& rules, SensitivityOptions options) {
  constexpr ScanKind kind = kKind<Rule>;
  if (!evaluate) {
    throw InvalidArgument("sensitivity: expected `evaluate` to be callable, got none.");
  }
  Sensitivity<Rule> scan{.options = checked(kind, std::move(options)),
                         .weights = checksum_of(model)};
  scan.layers = resolve<Rule>(parameters(model), rules);
  if (scan.layers.empty()) {
    throw InvalidArgument("sensitivity: expected `rules` to name a parameter, got none that does.");
  }
  for (auto& layer : scan.layers) layer.rule = at_setting(layer.rule, gentlest(kind));
  Scan<Rule>(model, evaluate, scan).run();
  return scan;
}

}  // namespace

template <class Rule>
Rules<Rule> Sensitivity<Rule>::rules(double tolerance) const {
  Rules<Rule> found;
  for (const auto& [parameter, rule] : layers) {
    std::vector<ScanPoint> points;
    std::ranges::copy_if(rows, std::back_inserter(points),
                         [&name = parameter.name](const auto& p) { return p.layer == name; });
    const auto best = best_setting(kKind<Rule>, points, dense, tolerance, options.lower_is_better);
    found.emplace_back(parameter.name,
                       best ? std::optional(at_setting(rule, *best)) : std::nullopt);
  }
  return found;
}

template <class Rule>
void Sensitivity<Rule>::to_csv(const std::filesystem::path& path) const {
  constexpr ScanKind kind = kKind<Rule>;
  const int64_t size = size_of(*this);
  std::string lines = text("# pomona.sensitivity ", identity_json(*this), "\n");
  lines += scan_columns(kind, options.metric);
  lines += scan_line(kind, {std::string(kDenseLayer), 0.0, size, size, dense});
  for (const auto& point : rows) lines += scan_line(kind, point);
  NewFile file(path);
  file.append(std::as_bytes(std::span(lines)));
  file.commit();
}

// Hidden otherwise, as the types of the rules are.
template struct POMONA_API Sensitivity<Prune>;
template struct POMONA_API Sensitivity<Share>;

Sensitivity<Prune> sensitivity(torch::nn::Module& model, const std::function<double()>& evaluate,
                               const Rules<Prune>& rules, SensitivityOptions options) {
  return scan_of(model, evaluate, rules, std::move(options));
}

Sensitivity<Share> sensitivity(torch::nn::Module& model, const std::function<double()>& evaluate,
                               const Rules<Share>& rules, SensitivityOptions options) {
  return scan_of(model, evaluate, rules, std::move(options));
}

}  // namespace pomona
