#pragma once
// EIE, the Efficient Inference Engine, cycle by cycle: what the accelerator would do with a
// compressed layer and real activations. No torch.
//
//   const pomona::eie::Config config{.pes = 64, .queue_slots = 8};
//   const pomona::eie::Layer layer(weight, bias, config);
//   const auto format = layer.choose_format(activations);
//   const auto run = pomona::eie::Machine(config).run(layer, activations, format, {.relu = true});
//   run.statistics.cycles;  pomona::eie::energy(run.statistics, config).total_pj();
//
// Source: thesis ch. 6; Han et al., EIE, ISCA 2016.

#include "pomona/export.h"
#include "pomona/interleaved.h"
#include "pomona/weight.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pomona::eie {

// The numbers in the datapath: codebook, activations and accumulators have this many bits.
enum class Arithmetic { kFixed8, kFixed16, kFixed32, kFloat32 };
POMONA_API int bits_of(Arithmetic arithmetic);

enum class Technology { k45nm, k28nm };

// The machine. Defaults: the thesis's, §6.4 and Table 6.2 (EIE Table II).
struct Config {
  int64_t pes = 64;                  // 1..1024
  int64_t queue_slots = 8;           // of each activation queue; they hold one entry fewer. 2..4096
  int64_t sram_width_bits = 64;      // of a read of the sparse matrix: 32, 64, ... 512
  int64_t matrix_bytes = 128 << 10;  // entries, per PE
  int64_t pointer_bytes = 32 << 10;  // 16-bit column pointers, per PE
  int64_t activation_registers = 64;        // outputs that a PE holds
  int64_t activation_sram_bytes = 2 << 10;  // inputs that a PE holds beside its registers
  int code_bits = 4;                        // 1..8
  int gap_bits = 4;                         // 1..8
  Arithmetic arithmetic = Arithmetic::kFixed16;
  double clock_hz = 800e6;
  Technology technology = Technology::k45nm;  // of energy and area
  // The hardware passes on activations above zero only, as a layer behind a ReLU has them. True:
  // all that are not zero.
  bool signed_activations = false;
  bool operator==(const Config&) const = default;

  int entry_bits() const { return code_bits + gap_bits; }
  int64_t entries_per_line() const { return sram_width_bits / entry_bits(); }
};

// Throws InvalidArgument, naming the member, its condition and its value.
POMONA_API void check_config(const Config& config);
// The machine with memories large enough for any layer: what a study of queues or of PEs assumes.
POMONA_API Config unbounded(Config config);

// Binary digits behind the point of the codebook, of the inputs and of the outputs. A product is
// shifted right by weight + input - output digits (half is added before) and added to its
// accumulator, which saturates.
struct Format {
  int weight = 0, input = 0, output = 0;
  bool operator==(const Format&) const = default;
};

// What one PE did. A cycle is an entry, a bubble or starved.
struct PeStatistics {
  int64_t entries = 0;        // issued to the arithmetic unit, fillers among them
  int64_t fillers = 0;        // of these, entries that occupy their cycle and write nothing
  int64_t bubble_cycles = 0;  // a column without entries of this PE
  int64_t starved_cycles = 0;
  int64_t bypasses = 0;     // accumulator taken from the adder, not from the register
  int64_t saturations = 0;  // additions that ended at the largest or smallest number
  int64_t queue_pushes = 0;
  int64_t pointer_reads = 0;  // pairs, one of each bank
  int64_t matrix_reads = 0;   // lines
  int64_t register_reads = 0, register_writes = 0;
  bool operator==(const PeStatistics&) const = default;
  PeStatistics& operator+=(const PeStatistics& other);
};

struct Statistics {
  int64_t cycles = 0;
  int64_t broadcasts = 0;             // activations that were passed on
  int64_t stall_cycles = 0;           // one could not be: some queue was full
  int64_t fetch_cycles = 0;           // none was left in its group; the next group was read
  int64_t lnzd_cycles = 0;            // quadtree nodes x cycles
  int64_t activation_sram_reads = 0;  // of one value, over all PEs
  int64_t skipped_negative = 0;       // activations below zero that the hardware does not pass on
  int64_t skipped_nan = 0;            // NaN, as which nothing is passed on
  int64_t tiles = 0;                  // parts that the layer was run in, one after the other
  std::vector<PeStatistics> pes{};
  bool operator==(const Statistics&) const = default;

  // Adds a run that came after; the machines must have equally many PEs.
  POMONA_API Statistics& operator+=(const Statistics& other);
  POMONA_API PeStatistics total() const;
  // 1 - starved cycles / cycles, over all PEs (EIE Fig. 8 and 13).
  POMONA_API double load_balance() const;
  // Stored entries of active columns / PEs: what a perfect balance would take (EIE Table IV,
  // "theoretical": fillers count).
  POMONA_API double theoretical_cycles() const;
};

// A layer as the machine holds it. Rows beyond the accumulators, and columns beyond the memories of
// pointers or entries, make tiles: the layer is then loaded in parts, and that loading (DMA) is not
// in the cycles.
class POMONA_API Layer {
 public:
  // As many rows as there are accumulators: their entries, by PE.
  struct RowTile {
    int64_t first_row = 0;
    int64_t rows = 0;
    std::vector<InterleavedBank> banks{};
  };
  // What is run at a time: columns begin to end of a row tile.
  struct Tile {
    size_t row_tile;
    int64_t begin, end;
  };

  // Copies what it needs; codebooks of groups, and float32 values of which there are few, become
  // one codebook. `bias` [rows] or empty; it is in the accumulators when the layer begins. Throws
  // InvalidArgument: as check_config and interleaved_columns; more centroids than code_bits have
  // codes beside that of the fillers; a bias of another size; a column that has more entries in one
  // PE than the memory holds.
  Layer(const Weight& weight, std::span<const float> bias, const Config& config);

  const Config& config() const { return config_; }
  const std::string& name() const { return name_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t nonzeros() const { return nonzeros_; }
  int64_t fillers() const { return fillers_; }
  std::span<const float> codebook() const { return codebook_; }  // by code; code 0 is 0.0
  std::span<const float> bias() const { return bias_; }          // empty, or [rows]
  std::span<const RowTile> row_tiles() const { return row_tiles_; }
  std::span<const Tile> tiles() const { return tiles_; }  // in the order in which they are run

  // The digits with which neither codebook, inputs nor any partial sum of these activations
  // [n x cols] saturates, but for roundings. Throws InvalidArgument unless n x cols fits.
  Format choose_format(std::span<const float> activations) const;

 private:
  void add_rows(const Weight& weight, int64_t first_row);
  void add_tiles(size_t row_tile);

  Config config_;
  std::string name_;
  int64_t rows_ = 0, cols_ = 0, nonzeros_ = 0, fillers_ = 0;
  std::vector<float> codebook_, bias_;
  std::vector<RowTile> row_tiles_;
  std::vector<Tile> tiles_;
};

struct RunOptions {
  bool relu = false;  // as the accumulators are written out
  // A text of these cycles, first to last: a row is a PE, see docs/eie.md.
  int64_t trace_first = 0, trace_last = -1;
};

struct Run {
  std::vector<float> outputs{};     // [rows]
  std::vector<int32_t> integers{};  // [rows], as the machine holds them; empty for float
  Statistics statistics{};
  std::string trace{};
};

// The array of PEs with its central control.
class POMONA_API Machine {
 public:
  // Throws InvalidArgument as check_config.
  explicit Machine(const Config& config);
  const Config& config() const { return config_; }

  // One input. Throws InvalidArgument: activations [cols] of another size; a layer that was made
  // for another machine; a format that would shift to the left, or by more than 62.
  Run run(const Layer& layer, std::span<const float> activations, const Format& format,
          const RunOptions& options = {}) const;
  // Outputs alone of inputs [n x cols], without a clock: [n x rows], the very numbers of run().
  std::vector<float> outputs(const Layer& layer, std::span<const float> activations,
                             const Format& format, bool relu = false) const;

 private:
  void check(const Layer& layer, size_t activations, const Format& format) const;

  Config config_;
};

// By hardware unit, of the whole array.
struct Energy {
  double queue_pj = 0, pointer_read_pj = 0, matrix_read_pj = 0, arithmetic_pj = 0;
  double activation_pj = 0;  // registers and activation SRAM
  double lnzd_pj = 0;
  POMONA_API double total_pj() const;
};
struct Area {
  double queue_um2 = 0, pointer_read_um2 = 0, matrix_read_um2 = 0, arithmetic_um2 = 0;
  double activation_um2 = 0, filler_um2 = 0, lnzd_um2 = 0;
  POMONA_API double total_um2() const;
};

// Counters x energies of an event, and the clock's share of each cycle. Source: EIE Table II.
POMONA_API Energy energy(const Statistics& statistics, const Config& config);
// Source: EIE Table II; memories in proportion to their bytes.
POMONA_API Area area(const Config& config);
// The machine at 28 nm as the last column of EIE's Table V projects it: 1.5 times the clock.
POMONA_API Config at_28nm(Config config);

// Nodes of the quadtree that finds the leading nonzero of so many lanes: 21 for 64.
POMONA_API int64_t lnzd_nodes(int64_t lanes);

}  // namespace pomona::eie
