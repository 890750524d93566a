"""EIE's design space: queues, PEs, width of the memory (EIE Figures 8, 9, 11, 12, 13).

    python benchmarks/thesis/eie_design_space.py [--layers Alex-7 NT-We ...]

Synthetic layers of Table III, machines with memories for any of them. Three tables and five
pictures. The energy of a read against its width is an assumption (csrc/eie/energy.cpp), since the
paper's Figure 9 gives no numbers; how often the memory is read is not.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import RESULTS, write_table  # noqa: E402
from eie_layers import BY_NAME, Layer, make  # noqa: E402

from pomona import eie  # noqa: E402

SLOTS = (2, 3, 5, 8, 16, 32, 256)
PES = (1, 4, 16, 32, 64, 128, 256)
WIDTHS = (32, 64, 128, 256, 512)
# An independent model with the same rules, on synthetic layers of its own: cycles by slots,
# microseconds by PEs.
CYCLES = {
    "Alex-7": (12126, 11042, 10503, 10327, 10168, 10096, 10096),
    "NT-We": (11765, 8481, 6656, 6043, 5735, 5662, 5566),
}
MICROSECONDS = {
    "Alex-7": (849, 212, 52.7, 26.2, 12.9, 6.4, 3.6),
    "VGG-7": (647, 160, 38.3, 18.0, 8.3, 4.1, 2.5),
    "NT-We": (374, 92, 22.5, 11.7, 7.6, 5.9, 5.4),
}


def beside(value: float, others: tuple[float, ...] | None, index: int, digits: int) -> str:
    """A value, and by how much it differs from the independent model's."""
    text = f"{value:.{digits}f}"
    return text if others is None else f"{text} ({100 * (value / others[index] - 1):+.1f} %)"


def queues(layers: list[Layer]) -> None:
    """Figure 8: how deep the queues must be."""
    rows, curves = [], {}
    for layer in layers:
        weight, x = make(layer)
        found = [eie.simulate(weight, x, fifo=s, unbounded=True, measure=False) for s in SLOTS]
        curves[layer.name] = [100 * r.layers[0].load_balance for r in found]
        others = CYCLES.get(layer.name)
        rows.append([layer.name, *(beside(r.cycles, others, i, 0) for i, r in enumerate(found))])
    title = "EIE: cycles by slots of the queues, and beside an independent model (EIE Fig. 8)"
    write_table("eie_queues", title, ["layer", *map(str, SLOTS)], rows, balance_percent=curves)
    plot("eie_queues", "slots of a queue", "balance, %", SLOTS, curves)


def scaling(layers: list[Layer]) -> None:
    """Figures 11 to 13: more PEs have fewer fillers and a worse balance."""
    rows, curves, fillers, balance = [], {}, {}, {}
    for layer in layers:
        weight, x = make(layer)
        found = [eie.simulate(weight, x, pes=n, unbounded=True, measure=False) for n in PES]
        curves[layer.name] = [found[0].microseconds / r.microseconds for r in found]
        fillers[layer.name] = [100 * r.layers[0].filler_share for r in found]
        balance[layer.name] = [100 * r.layers[0].load_balance for r in found]
        others = MICROSECONDS.get(layer.name)
        rows.append([
            layer.name,
            *(f"{beside(r.microseconds, others, i, 1)}, {100 * r.layers[0].filler_share:.0f} %"
              for i, r in enumerate(found)),
        ])  # fmt: skip
    title = "EIE: microseconds by PEs, beside an independent model, and fillers (EIE Fig. 11 to 13)"
    more = {"speedup": curves, "fillers_percent": fillers, "balance_percent": balance}
    write_table("eie_scaling", title, ["layer", *map(str, PES)], rows, **more)
    plot("eie_scaling", "PEs", "speed-up over one", PES, curves, log=True)
    plot("eie_fillers", "PEs", "fillers, % of the entries", PES, fillers)
    plot("eie_balance", "PEs", "balance, %", PES, balance)


def widths(layers: list[Layer]) -> None:
    """Figure 9: wider lines are read less often, and each read costs more."""
    rows, curves = [], {}
    for layer in layers:
        weight, x = make(layer)
        found = [
            eie.simulate(weight, x, sram_width=w, unbounded=True, measure=False).layers[0]
            for w in WIDTHS
        ]
        curves[layer.name] = [r.energy_pj["matrix_read"] / 1e6 for r in found]
        rows.append([
            layer.name,
            *(f"{r.counts['matrix_reads'] / 1e3:.0f} k, {r.energy_pj['matrix_read'] / 1e6:.2f} uJ"
              for r in found),
        ])  # fmt: skip
    title = "EIE: reads of the sparse matrix and their energy by width in bits (EIE Fig. 9)"
    write_table("eie_widths", title, ["layer", *map(str, WIDTHS)], rows)
    plot("eie_widths", "bits of a read", "uJ", WIDTHS, curves)


def plot(
    stem: str,
    x: str,
    y: str,
    places: tuple[int, ...],
    curves: dict[str, list[float]],
    log: bool = False,
) -> None:
    """A curve for each layer, beside the JSON; and the same as CSV."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, values in curves.items():
        axes.plot(places, values, marker="o", markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [str(p) for p in places])
    if log:
        axes.set_yscale("log", base=2)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    path = RESULTS / f"{datetime.date.today().isoformat()}-{stem}"
    figure.savefig(path.with_suffix(".png"))
    lines = [",".join(["layer", *map(str, places)])]
    lines += [",".join([name, *(f"{v:.6g}" for v in values)]) for name, values in curves.items()]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n")


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", default=list(BY_NAME), choices=list(BY_NAME))
    chosen = [BY_NAME[name] for name in parser.parse_args().layers]
    queues(chosen)
    scaling(chosen)
    widths(chosen)


if __name__ == "__main__":
    main()
