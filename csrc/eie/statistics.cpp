#include "pomona/eie.h"

#include <cassert>

namespace pomona::eie {

PeStatistics& PeStatistics::operator+=(const PeStatistics& other) {
  entries += other.entries;
  fillers += other.fillers;
  bubble_cycles += other.bubble_cycles;
  starved_cycles += other.starved_cycles;
  bypasses += other.bypasses;
  saturations += other.saturations;
  queue_pushes += other.queue_pushes;
  pointer_reads += other.pointer_reads;
  matrix_reads += other.matrix_reads;
  register_reads += other.register_reads;
  register_writes += other.register_writes;
  return *this;
}

Statistics& Statistics::operator+=(const Statistics& other) {
  cycles += other.cycles;
  broadcasts += other.broadcasts;
  stall_cycles += other.stall_cycles;
  fetch_cycles += other.fetch_cycles;
  lnzd_cycles += other.lnzd_cycles;
  activation_sram_reads += other.activation_sram_reads;
  skipped_negative += other.skipped_negative;
  skipped_nan += other.skipped_nan;
  tiles += other.tiles;
  if (pes.empty()) pes.resize(other.pes.size());
  for (size_t pe = 0; pe < other.pes.size(); ++pe) pes[pe] += other.pes[pe];
  return *this;
}

PeStatistics Statistics::total() const {
  PeStatistics sum;
  for (const auto& pe : pes) sum += pe;
  return sum;
}

double Statistics::load_balance() const {
  const auto pe_cycles = static_cast<double>(cycles) * static_cast<double>(pes.size());
  return pe_cycles == 0 ? 1.0 : 1.0 - static_cast<double>(total().starved_cycles) / pe_cycles;
}

double Statistics::theoretical_cycles() const {
  if (pes.empty()) return 0.0;
  return static_cast<double>(total().entries) / static_cast<double>(pes.size());
}

}  // namespace pomona::eie
