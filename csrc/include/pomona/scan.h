#pragma once
// What a sensitivity scan has measured, in both languages: its points, the rules that they lead to,
// and the lines of its file (thesis §3.2). No torch.
//
//   # pomona.sensitivity {"metric": "error %", "sparsities": [...], "layers": [...], ...}
//   layer,sparsity,kept,size,error %
//   (dense),0.0,430500,430500,0.91
//   conv1.weight,0.1,450,500,0.93

#include "pomona/export.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pomona {

// The layer of the point that measures the network as it is.
inline constexpr std::string_view kDenseLayer = "(dense)";

// One measurement: only this parameter pruned (or shared), the others as they were.
struct ScanPoint {
  std::string layer;
  double setting = 0.0;  // the sparsity, or the bits
  int64_t kept = 0;      // nonzeros of the parameter
  int64_t size = 0;
  double metric = 0.0;
};

// What a scan varies.
enum class ScanKind { kSparsity, kBits };

// The settings in ascending order. Throws InvalidArgument, naming `what`: none, one twice, a
// sparsity outside [0, 1), bits that are no integer in 1..8.
POMONA_API std::vector<double> scan_settings(const char* what, ScanKind kind,
                                             std::vector<double> settings);

// The furthest setting of one layer up to which the metric is at most `tolerance` worse than
// `dense`: the largest sparsity, or the fewest bits; nothing when even the gentlest is too much.
// `points` are those of the layer, settings ascending. Throws InvalidArgument unless tolerance >=
// 0.
POMONA_API std::optional<double> best_setting(ScanKind kind, std::span<const ScanPoint> points,
                                              double dense, double tolerance, bool lower_is_better);

// The line of the file for one point, and the line of the columns' names: CSV, with its end of
// line. Numbers are as short as they can be and still exact.
POMONA_API std::string scan_line(ScanKind kind, const ScanPoint& point);
POMONA_API std::string scan_columns(ScanKind kind, const std::string& metric);

// The point of a line as scan_line writes it, without its end; nothing of any other text.
POMONA_API std::optional<ScanPoint> parse_scan_line(std::string_view line);

}  // namespace pomona
