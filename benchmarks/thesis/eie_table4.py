"""EIE's Table IV: microseconds of the nine layers on 64 PEs, and energy (thesis Tables 6.3, 6.4).

    python benchmarks/thesis/eie_table4.py [--seeds 3] [--unbounded]

Patterns are synthetic: each weight is there with the probability of Table III, and so many of the
activations. Nothing is fitted: the model is its rules. Beside it the paper's "theoretical" and
"actual" times, which are of real networks and images, and what an independent model with the same
rules gave on patterns of its own. NT-Wd has more outputs than 64 PEs have accumulators, and VGG-6
more inputs than there are pointers: they run in tiles, unless --unbounded. A second table is EIE's
Table II: power and area of one PE that is never idle, each column a line of eight entries.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import write_table  # noqa: E402
from eie_layers import LAYERS, make  # noqa: E402

from pomona import eie  # noqa: E402

# EIE abstract and §VI: 590 mW, 1.88e4 frames a second of AlexNet's fully connected layers.
PAPER_UJ_PER_FRAME = 590e-3 / 1.88e4 * 1e6


# EIE Table II: mW and um^2 of a PE by unit.
TABLE_2 = {
    "queue": (0.112, 758),
    "pointer_read": (1.807, 121_849),
    "matrix_read": (4.955, 469_412),
    "arithmetic": (1.162, 3_110),
    "activation": (1.122, 18_934),
}
PE = (9.157, 638_024)


def one_pe() -> None:
    """Power and area of a PE beside Table II."""
    weight, x = torch.full((8, 4096), 0.5), torch.ones(4096)
    result = eie.simulate(weight, x, pes=1, measure=False, unbounded=True)
    layer, area = result.layers[0], eie.Machine(pes=1).area_mm2()
    rows = []
    for unit, (milliwatts, square) in TABLE_2.items():
        found = layer.energy_pj[unit] / layer.microseconds * 1e-3
        rows.append([unit.replace("_", " "), f"{found:.3f}", milliwatts,
                     f"{1e6 * area[unit]:,.0f}", f"{square:,}"])  # fmt: skip
    total = sum(layer.energy_pj.values()) / layer.microseconds * 1e-3
    rows.append(["PE, filler cells too", f"{total:.3f}", PE[0],
                 f"{1e6 * sum(area.values()):,.0f}", f"{PE[1]:,}"])  # fmt: skip
    title = "EIE: one PE, an entry each cycle and a line each eighth (EIE Table II)"
    write_table("eie_table2", title, ["unit", "mW", "paper mW", "um2", "paper um2"], rows)


def main() -> None:
    """Every layer, the mean over some seeds; then one PE."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unbounded", action="store_true", help="memories for any layer")
    arguments = parser.parse_args()
    rows, frame_uj, frame_us, values = [], 0.0, 0.0, {}
    for layer in LAYERS:
        runs, hosts = [], []
        for seed in range(arguments.seeds):
            weight, x = make(layer, seed)
            begin = time.perf_counter()
            result = eie.simulate(weight, x, measure=False, unbounded=arguments.unbounded)
            hosts.append(time.perf_counter() - begin)
            runs.append(result.layers[0])
        mean = {
            what: statistics.mean(getattr(run, what) for run in runs)
            for what in ("microseconds", "theoretical_us", "load_balance", "energy_nj")
        }
        difference = 100 * (mean["microseconds"] / layer.synthetic_us - 1)
        if layer.name.startswith("Alex"):
            frame_uj += mean["energy_nj"] / 1e3
            frame_us += mean["microseconds"]
        values[layer.name] = [run.microseconds for run in runs]
        rows.append([
            layer.name,
            f"{(runs[0].nonzeros + runs[0].fillers) / 1e6:.2f} M",
            f"{100 * runs[0].filler_share:.1f} %",
            f"{mean['theoretical_us']:.1f}",
            f"{mean['microseconds']:.1f}",
            f"{layer.synthetic_us} ({difference:+.1f} %)",
            f"{layer.paper_ideal_us} / {layer.paper_us}",
            f"{100 * mean['load_balance']:.0f} %",
            f"{mean['energy_nj'] / 1e3:.2f}",
            runs[0].tiles,
            f"{min(hosts):.2f}",
        ])  # fmt: skip
    rows.append([
        "AlexNet's three", "", "", "", f"{frame_us:.1f}", "", "53.2 (1.88e4 frames/s)", "",
        f"{frame_uj:.1f} (paper: {PAPER_UJ_PER_FRAME:.1f})", "", "",
    ])  # fmt: skip
    kind = ", memories for any layer" if arguments.unbounded else ""
    write_table(
        "eie_table4_unbounded" if arguments.unbounded else "eie_table4",
        f"EIE, 64 PEs, 8 queue slots, synthetic layers{kind} (EIE Table IV)",
        ["layer", "entries", "fillers", "ideal us", "simulated us", "an independent model's us",
         "paper: ideal / actual us", "balance", "uJ", "tiles", "seconds here"],
        rows,
        microseconds_of_seeds=values,
    )  # fmt: skip
    if not arguments.unbounded:
        one_pe()


if __name__ == "__main__":
    main()
