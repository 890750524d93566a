#include "pomona/eie.h"
#include "pomona/error.h"

#include "base/text.h"
#include "eie/arithmetic.h"
#include "eie/array.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

namespace pomona::eie {
namespace {

constexpr int kMostShift = 62;

// What a layer is laid out for.
Config geometry(Config config) {
  const Config standard;
  config.queue_slots = standard.queue_slots;
  config.sram_width_bits = standard.sram_width_bits;
  config.clock_hz = standard.clock_hz;
  config.technology = standard.technology;
  return config;
}

// Calls use(arithmetic) with the arithmetic of the machine.
template <class Use>
void with_arithmetic(const Layer& layer, const Config& config, const Format& format, Use use) {
  if (config.arithmetic == Arithmetic::kFloat32) {
    use(FloatArithmetic(layer.codebook()));
  } else {
    use(FixedArithmetic(layer.codebook(), format, bits_of(config.arithmetic)));
  }
}

// A layer at work on one input: accumulators by PE, tile after tile.
template <class Unit>
class Execution {
 public:
  using Value = typename Unit::Value;

  Execution(const Unit& unit, const Layer& layer, const Config& config,
            std::span<const float> activations)
      : unit_(unit), layer_(layer), config_(config) {
    inputs_.reserve(activations.size());
    for (const float activation : activations) inputs_.push_back(unit.input(activation));
  }

  // Cycle by cycle.
  void run(const RunOptions& options, Run& run) {
    Trace trace(config_.pes, options.trace_first, options.trace_last);
    for (const auto& tile : layer_.tiles()) {
      const auto& rows = layer_.row_tiles()[tile.row_tile];
      if (tile.begin == 0) begin(rows);
      run_tile(rows, tile, trace, run.statistics);
      if (tile.end == layer_.cols()) write_out(rows, options.relu, run.outputs, &run.integers);
    }
    run.trace = trace.str();
  }

  // The same additions in the same order, without a clock.
  void multiply(bool relu, std::span<float> outputs) {
    std::vector<size_t> active;
    for (size_t j = 0; j < inputs_.size(); ++j) {
      if (config_.signed_activations ? inputs_[j] != 0 : inputs_[j] > 0) active.push_back(j);
    }
    bool is_saturated = false;
    for (const auto& rows : layer_.row_tiles()) {
      begin(rows);
      for (size_t pe = 0; pe < accumulators_.size(); ++pe) {
        const auto& bank = rows.banks[pe];
        auto& sums = accumulators_[pe];
        for (const size_t j : active) {
          size_t row = 0;
          const auto end = static_cast<size_t>(bank.starts[j + 1]);
          for (auto entry = static_cast<size_t>(bank.starts[j]); entry < end; ++entry, ++row) {
            row += bank.gaps[entry];
            if (bank.codes[entry] == 0) continue;
            const auto product = unit_.multiply(unit_.weight(bank.codes[entry]), inputs_[j]);
            sums[row] = unit_.add(sums[row], product, is_saturated);
          }
        }
      }
      write_out(rows, relu, outputs, nullptr);
    }
  }

 private:
  // Accumulators as the rows begin: their biases, or zeros.
  void begin(const Layer::RowTile& rows) {
    accumulators_.assign(static_cast<size_t>(config_.pes), {});
    const auto bias = layer_.bias();
    for (int64_t row = 0; row < rows.rows; ++row) {
      const auto at = static_cast<size_t>(rows.first_row + row);
      accumulators_[static_cast<size_t>(row % config_.pes)].push_back(
          bias.empty() ? Value{} : unit_.bias(bias[at]));
    }
  }

  void run_tile(const Layer::RowTile& rows, const Layer::Tile& tile, Trace& trace,
                Statistics& statistics) {
    std::vector<ProcessingElement<Unit>> pes;
    for (size_t pe = 0; pe < accumulators_.size(); ++pe) {
      pes.push_back(make_pe(rows.banks[pe], tile, accumulators_[pe]));
    }
    const auto count = static_cast<size_t>(tile.end - tile.begin);
    const auto inputs = std::span(inputs_).subspan(static_cast<size_t>(tile.begin), count);
    Array<Unit> array(std::move(pes),
                      CentralControl<Value>(std::span<const Value>(inputs), config_.pes,
                                            config_.signed_activations));
    for (int64_t clock = statistics.cycles; array.tick(clock, trace); ++clock) {
    }
    statistics += array.statistics();
    if (tile.end - tile.begin > config_.pes * config_.activation_registers) {
      statistics.activation_sram_reads += tile.end - tile.begin;  // they came in batches
    }
  }

  // The columns of a tile, as the memories of a PE hold them.
  ProcessingElement<Unit> make_pe(const InterleavedBank& bank, const Layer::Tile& tile,
                                  std::span<Value> accumulators) const {
    const auto pointers = std::span(bank.starts)
                              .subspan(static_cast<size_t>(tile.begin),
                                       static_cast<size_t>(tile.end - tile.begin) + 1);
    const auto from = static_cast<size_t>(pointers.front());
    const auto count = static_cast<size_t>(pointers.back() - pointers.front());
    const MatrixRead matrix(std::span(bank.codes).subspan(from, count),
                            std::span(bank.gaps).subspan(from, count), config_.entries_per_line());
    return {unit_, config_.queue_slots, PointerRead(pointers), matrix,
            ActivationRegisters<Value>(accumulators)};
  }

  void write_out(const Layer::RowTile& rows, bool relu, std::span<float> outputs,
                 std::vector<int32_t>* integers) const {
    for (int64_t row = 0; row < rows.rows; ++row) {
      const auto pe = static_cast<size_t>(row % config_.pes);
      const Value value = accumulators_[pe][static_cast<size_t>(row / config_.pes)];
      const Value written = relu && !(value > 0) ? Value{} : value;
      const auto at = static_cast<size_t>(rows.first_row + row);
      outputs[at] = unit_.output(written);
      if constexpr (Unit::kIsFixed) {
        if (integers) (*integers)[at] = written;
      }
    }
  }

  const Unit& unit_;
  const Layer& layer_;
  const Config& config_;
  std::vector<Value> inputs_;
  std::vector<std::vector<Value>> accumulators_;
};

}  // namespace

Machine::Machine(const Config& config) : config_(config) {
  check_config(config);
}

void Machine::check(const Layer& layer, size_t activations, const Format& format) const {
  if (geometry(layer.config()) != geometry(config_)) {
    throw InvalidArgument(text("eie: expected `", layer.name(),
                               "` to be laid out for this machine, got a layer for another."));
  }
  if (static_cast<int64_t>(activations) != layer.cols()) {
    throw InvalidArgument(text("eie: expected `", layer.name(), "` to get ", layer.cols(),
                               " activations, got ", activations, "."));
  }
  const int shift = format.weight + format.input - format.output;
  if (config_.arithmetic != Arithmetic::kFloat32 && (shift < 0 || shift > kMostShift)) {
    throw InvalidArgument(text("eie: expected a format that shifts by 0 to ", kMostShift,
                               " (weight + input - output digits), got ", shift, "."));
  }
}

Run Machine::run(const Layer& layer, std::span<const float> activations, const Format& format,
                 const RunOptions& options) const {
  check(layer, activations.size(), format);
  const auto rows = static_cast<size_t>(layer.rows());
  Run run{.outputs = std::vector<float>(rows)};
  if (config_.arithmetic != Arithmetic::kFloat32) run.integers.resize(rows);
  run.statistics.pes.resize(static_cast<size_t>(config_.pes));
  with_arithmetic(layer, config_, format, [&](const auto& unit) {
    Execution(unit, layer, config_, activations).run(options, run);
  });
  for (const float activation : activations) {
    run.statistics.skipped_nan += std::isnan(activation);
    run.statistics.skipped_negative += !config_.signed_activations && activation < 0;
  }
  return run;
}

std::vector<float> Machine::outputs(const Layer& layer, std::span<const float> activations,
                                    const Format& format, bool relu) const {
  const auto cols = static_cast<size_t>(layer.cols()), rows = static_cast<size_t>(layer.rows());
  const size_t samples = cols == 0 ? 0 : activations.size() / cols;
  check(layer, activations.size() == samples * cols ? cols : activations.size(), format);
  std::vector<float> outputs(samples * rows);
  with_arithmetic(layer, config_, format, [&](const auto& unit) {
    for (size_t sample = 0; sample < samples; ++sample) {
      Execution(unit, layer, config_, activations.subspan(sample * cols, cols))
          .multiply(relu, std::span(outputs).subspan(sample * rows, rows));
    }
  });
  return outputs;
}

int64_t lnzd_nodes(int64_t lanes) {
  return LeadingNonZero(lanes).nodes();
}

}  // namespace pomona::eie
