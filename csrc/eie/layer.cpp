#include "pomona/eie.h"
#include "pomona/error.h"

#include "base/text.h"
#include "eie/arithmetic.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace pomona::eie {
namespace {

// Rows first to first + count of a matrix, as a weight of its own.
Weight rows_of(const Weight& weight, int64_t first, int64_t count) {
  const int64_t cols = weight.shape[1];
  const auto begin = static_cast<size_t>(first * cols),
             end = begin + static_cast<size_t>(count * cols);
  Weight part{.name = weight.name,
              .dtype = weight.dtype,
              .shape = {count, cols},
              .mask = Mask(count * cols, false),
              .codebook = weight.codebook};
  size_t i = 0;
  for_each_kept(weight.mask, [&](size_t position) {
    if (position >= begin && position < end) {
      part.mask.set(static_cast<int64_t>(position - begin), true);
      part.codes.push_back(weight.codes[i]);
    }
    ++i;
  });
  return part;
}

// The kept values, in order; nothing of a dtype that has no codebooks.
std::vector<float> kept_values(const Weight& weight) {
  std::vector<float> values;
  if (!weight.is_shared()) {
    if (weight.dtype != DType::kFloat32) return values;
    values.resize(weight.values.size() / sizeof(float));
    std::memcpy(values.data(), weight.values.data(), weight.values.size());
    return values;
  }
  const auto centroids = static_cast<size_t>(weight.centroids());
  for_each_kept(weight.mask, [&](size_t position) {
    const size_t group = weight.group == 0 ? 0 : position / static_cast<size_t>(weight.group);
    values.push_back(weight.codebook[group * centroids + weight.codes[values.size()]]);
  });
  return values;
}

// The same weight with one codebook, where it has one for each group, or none; as it is when that
// would have more than 256 entries.
Weight with_one_codebook(const Weight& weight) {
  if (weight.is_shared() && weight.groups() == 1) return weight;
  const auto values = kept_values(weight);
  auto codebook = values;
  std::ranges::sort(codebook);
  codebook.erase(std::unique(codebook.begin(), codebook.end()), codebook.end());
  if (codebook.empty() || codebook.size() > 256 || !std::isfinite(codebook.front()) ||
      !std::isfinite(codebook.back())) {
    return weight;
  }
  Weight merged{.name = weight.name,
                .dtype = weight.dtype,
                .shape = weight.shape,
                .mask = weight.mask,
                .codebook = codebook};
  for (const float value : values) {
    merged.codes.push_back(
        static_cast<uint8_t>(std::ranges::lower_bound(codebook, value) - codebook.begin()));
  }
  return merged;
}

[[noreturn]] void refuse(const std::string& name, const std::string& condition,
                         const std::string& got, const char* advice = "") {
  throw InvalidArgument(text("eie: expected `", name, "` ", condition, ", got ", got, ".", advice));
}

}  // namespace

Layer::Layer(const Weight& given, std::span<const float> bias, const Config& config)
    : config_(config), name_(given.name), bias_(bias.begin(), bias.end()) {
  check_config(config);
  const Weight weight = with_one_codebook(given);
  if (weight.shape.size() != 2) {
    refuse(name_, "to have 2 dimensions [rows, cols]", text(weight.shape.size()));
  }
  rows_ = weight.shape[0], cols_ = weight.shape[1];
  const int64_t most = (int64_t{1} << config.code_bits) - 1;
  if (weight.is_shared() && weight.centroids() > most && weight.mask.kept() > 0) {
    refuse(name_,
           text("to have at most ", most, " centroids (codes of ", config.code_bits,
                " bits, one for fillers)"),
           text(weight.centroids()), " Raise code_bits, or share by fewer.");
  }
  if (!bias.empty() && std::ssize(bias) != rows_) {
    refuse(name_, text("to have a bias of ", rows_), text(bias.size()));
  }
  nonzeros_ = weight.mask.kept();
  codebook_.push_back(0.0f);
  codebook_.insert(codebook_.end(), weight.codebook.begin(), weight.codebook.end());
  const int64_t rows_per_tile = config.pes * config.activation_registers;
  for (int64_t first = 0; first < rows_; first += rows_per_tile) {
    const int64_t count = std::min(rows_per_tile, rows_ - first);
    add_rows(count == rows_ ? weight : rows_of(weight, first, count), first);
  }
}

void Layer::add_rows(const Weight& weight, int64_t first_row) {
  auto banks = interleaved_columns(weight, config_.pes, config_.gap_bits);
  for (const auto& bank : banks) fillers_ += bank.fillers;
  row_tiles_.push_back({first_row, weight.shape[0], std::move(banks)});
  add_tiles(row_tiles_.size() - 1);
}

// As many columns at a time as the memories hold: pointers, entries of the fullest PE, activations.
void Layer::add_tiles(size_t row_tile) {
  const auto& banks = row_tiles_[row_tile].banks;
  const int64_t value_bytes = bits_of(config_.arithmetic) / 8;
  const int64_t inputs =
      config_.pes * (config_.activation_registers + config_.activation_sram_bytes / value_bytes);
  const int64_t most_columns = std::min(config_.pointer_bytes / 2 - 1, inputs);
  const int64_t most_entries = config_.matrix_bytes * 8 / config_.entry_bits();
  const auto fits = [&](int64_t begin, int64_t end) {
    return std::ranges::all_of(banks, [&](const auto& bank) {
      return bank.starts[static_cast<size_t>(end)] - bank.starts[static_cast<size_t>(begin)] <=
             most_entries;
    });
  };
  for (int64_t begin = 0; begin < cols_;) {
    int64_t end = std::min(begin + most_columns, cols_);
    if (!fits(begin, end)) {  // the largest that does, by halves
      int64_t good = begin, bad = end;
      while (bad - good > 1) {
        const int64_t middle = std::midpoint(good, bad);
        (fits(begin, middle) ? good : bad) = middle;
      }
      end = good;
      if (end == begin) {
        refuse(name_, text("to have at most ", most_entries, " entries of a column in a PE"),
               text("more in column ", begin));
      }
    }
    tiles_.push_back({row_tile, begin, end});
    begin = end;
  }
}

Format Layer::choose_format(std::span<const float> activations) const {
  if (cols_ == 0 || std::ssize(activations) % cols_ != 0) {
    refuse(name_, text("to get activations in rows of ", cols_), text(activations.size()));
  }
  double largest_weight = 0, largest_input = 0, largest_sum = 0;
  for (const float w : codebook_) largest_weight = std::max(largest_weight, std::abs(double{w}));
  for (const float b : bias_) largest_sum = std::max(largest_sum, std::abs(double{b}));
  for (const float a : activations) {
    if (std::isfinite(a)) largest_input = std::max(largest_input, std::abs(double{a}));
  }
  std::vector<double> sums;
  for (size_t sample = 0; sample < activations.size(); sample += static_cast<size_t>(cols_)) {
    for (const auto& tile : row_tiles_) {
      for (int64_t b = 0; b < config_.pes; ++b) {
        const auto& bank = tile.banks[static_cast<size_t>(b)];
        sums.clear();
        for (int64_t row = tile.first_row + b; row < tile.first_row + tile.rows;
             row += config_.pes) {
          sums.push_back(bias_.empty() ? 0.0 : bias_[static_cast<size_t>(row)]);
        }
        for (size_t j = 0; j < static_cast<size_t>(cols_); ++j) {
          const double a = activations[sample + j];
          if (!std::isfinite(a) || (config_.signed_activations ? a == 0 : a <= 0)) continue;
          size_t row = 0;
          for (auto e = static_cast<size_t>(bank.starts[j]);
               e < static_cast<size_t>(bank.starts[j + 1]); ++e, ++row) {
            row += bank.gaps[e];
            if (bank.codes[e] == 0) continue;
            sums[row] += double{codebook_[bank.codes[e]]} * a;
            largest_sum = std::max(largest_sum, std::abs(sums[row]));
          }
        }
      }
    }
  }
  const int bits = bits_of(config_.arithmetic);
  Format format{.weight = fraction_digits(largest_weight, bits),
                .input = fraction_digits(largest_input, bits)};
  format.output = std::min(fraction_digits(largest_sum, bits), format.weight + format.input);
  return format;
}

}  // namespace pomona::eie
