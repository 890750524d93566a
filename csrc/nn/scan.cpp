#include "pomona/scan.h"

#include "pomona/error.h"

#include "base/text.h"
#include "nn/python_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace pomona {
namespace {

bool is_setting(ScanKind kind, double setting) {
  if (kind == ScanKind::kSparsity) return setting >= 0 && setting < 1;
  return setting >= 1 && setting <= 8 && setting == std::floor(setting);
}

std::string shown(ScanKind kind, double setting) {
  return kind == ScanKind::kBits ? text(setting) : python_float(setting);
}

std::string csv_cell(const std::string& cell) {
  if (cell.find_first_of(",\"\r\n") == std::string::npos) return cell;
  std::string text = "\"";
  for (const char c : cell) text += c == '"' ? std::string("\"\"") : std::string(1, c);
  return text + "\"";
}

// What `csv_cell` was given.
std::string unquoted(std::string_view cell) {
  if (!cell.starts_with('"')) return std::string(cell);
  std::string text;
  for (size_t i = 1; i + 1 < cell.size(); ++i) {
    text += cell[i];
    if (cell[i] == '"') ++i;  // one of two is kept
  }
  return text;
}

// Takes the last cell, a number, and the comma before it from `line`.
template <class Number>
bool take_number(std::string_view& line, Number& number) {
  const size_t comma = line.rfind(',');
  if (comma == line.npos) return false;
  const char *begin = line.data() + comma + 1, *end = line.data() + line.size();
  line = line.substr(0, comma);
  const auto [stopped, error] = std::from_chars(begin, end, number);
  return error == std::errc() && stopped == end;
}

}  // namespace

std::vector<double> scan_settings(const char* what, ScanKind kind, std::vector<double> settings) {
  const auto wrong = std::ranges::find_if_not(
      settings, [kind](double setting) { return is_setting(kind, setting); });
  if (settings.empty() || wrong != settings.end()) {
    throw InvalidArgument(text("sensitivity: expected `", what, "` to be ",
                               kind == ScanKind::kBits ? "integers in 1..8" : "numbers in [0, 1)",
                               ", got ", settings.empty() ? "none" : shown(kind, *wrong), "."));
  }
  std::ranges::sort(settings);
  const auto twice = std::ranges::adjacent_find(settings);
  if (twice != settings.end()) {
    throw InvalidArgument(text("sensitivity: expected `", what, "` to be distinct, got ",
                               shown(kind, *twice), " twice."));
  }
  return settings;
}

std::optional<double> best_setting(ScanKind kind, std::span<const ScanPoint> points, double dense,
                                   double tolerance, bool lower_is_better) {
  if (!(tolerance >= 0)) {
    throw InvalidArgument(
        text("Sensitivity.rules: expected `tolerance` to be at least 0, got ", tolerance, "."));
  }
  const double sign = lower_is_better ? 1.0 : -1.0;
  std::optional<double> best;
  for (size_t i = 0; i < points.size(); ++i) {  // from the gentlest setting on
    const auto& point = points[kind == ScanKind::kSparsity ? i : points.size() - 1 - i];
    if (!(sign * (point.metric - dense) <= tolerance)) break;
    best = point.setting;
  }
  return best;
}

std::string scan_line(ScanKind kind, const ScanPoint& point) {
  const bool are_bits = kind == ScanKind::kBits && point.layer != kDenseLayer;
  const std::string setting = shown(are_bits ? kind : ScanKind::kSparsity, point.setting);
  return text(csv_cell(point.layer), ",", setting, ",", point.kept, ",", point.size, ",",
              python_float(point.metric), "\n");
}

std::string scan_columns(ScanKind kind, const std::string& metric) {
  return text("layer,", kind == ScanKind::kBits ? "bits" : "sparsity", ",kept,size,",
              csv_cell(metric), "\n");
}

std::optional<ScanPoint> parse_scan_line(std::string_view line) {
  ScanPoint point;
  const bool are_numbers = take_number(line, point.metric) && take_number(line, point.size) &&
                           take_number(line, point.kept) && take_number(line, point.setting);
  point.layer = unquoted(line);
  if (!are_numbers || csv_cell(point.layer) != line) return std::nullopt;
  return point;
}

}  // namespace pomona
