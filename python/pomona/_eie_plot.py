"""The picture of a simulation: cycles beside the ideal, and energy by hardware unit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import _C

if TYPE_CHECKING:
    from ._eie_result import Result


def draw(result: Result, path: Path) -> None:
    """Two panels with a group of bars for each layer.

    Raises:
        InvalidArgument: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise _C.InvalidArgument(
            "plot: expected matplotlib to be installed, got none. Run `pip install matplotlib`."
        ) from None
    layers = result.layers
    figure = Figure(figsize=(max(6.0, 2.0 + 1.1 * len(layers)), 7.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1)
    places = range(len(layers))
    above.bar([p - 0.2 for p in places], [x.microseconds for x in layers], 0.4, label="simulated")
    above.bar([p + 0.2 for p in places], [x.theoretical_us for x in layers], 0.4, label="ideal")
    above.set_ylabel("µs")
    above.set_title(f"{result.machine.pes} PEs, {result.machine.fifo} queue slots")
    bottom = [0.0] * len(layers)
    for unit in layers[0].energy_pj if layers else ():
        heights = [layer.energy_pj[unit] / 1e3 for layer in layers]
        below.bar(places, heights, 0.6, bottom=bottom, label=unit.replace("_", " "))
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    below.set_ylabel("nJ")
    for axes in (above, below):
        axes.set_xticks(list(places), [layer.name for layer in layers], rotation=30, ha="right")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
