"""The curves of a sensitivity scan as a picture, as in the thesis (figures of ch. 3)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _C

if TYPE_CHECKING:
    from .sensitivity import Sensitivity

_MARKERS = "osD^vP*X<>hp"
_DECADE = (1, 2, 5)


def draw(scan: Sensitivity, path: Path, *, title: str, x: str, log: bool | None) -> None:
    """One line for each layer; the dense network dashed.

    Raises:
        InvalidArgument: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise _C.InvalidArgument(
            "to_png: expected matplotlib to be installed, got none. Run `pip install matplotlib`."
        ) from None
    count = len(scan.layers)
    kind = scan._kind
    figure = Figure(figsize=(8.8, max(4.6, 1.4 + 0.26 * count)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, layer in enumerate(scan.layers):
        points = [p for p in scan.rows if p.layer == layer and math.isfinite(p.metric)]
        color = f"C{index}" if count <= 10 else colormaps["turbo"](0.05 + 0.9 * index / (count - 1))
        axes.plot(
            [
                100 * p.kept / max(p.size, 1) if x == "density" else kind.factor * p.setting
                for p in points
            ],
            [p.metric for p in points],
            color=color,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linewidth=1.7,
            label=f"{layer.removesuffix('.weight')}  ({_count(scan.sizes[layer])})",
        )
    _dress(scan, axes, title=title, x=x, log=_is_wide(scan) if log is None else log)
    figure.savefig(path, format="png")


def _dress(scan: Sensitivity, axes: Any, *, title: str, x: str, log: bool) -> None:
    """Scales, labels, grid, the dense line and the legend."""
    axes.axhline(scan.dense, color="0.25", linestyle="--", linewidth=1.2, zorder=1)
    if log:
        _log_scale(scan, axes)
    axes.set_title(title, loc="left", fontsize=12, pad=10)
    axes.set_xlabel("weights kept [%]" if x == "density" else scan._kind.axis)
    axes.set_ylabel(f"{scan.metric}, only this layer {scan._kind.done}, not retrained")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if x == "density":
        axes.invert_xaxis()
    handles, labels = axes.get_legend_handles_labels()
    dense = axes.lines[-1]
    axes.legend(
        [dense, *handles],
        [f"dense: {scan.dense:.4g}", *labels],
        title="layer  (weights)",
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
    )


def _log_scale(scan: Sensitivity, axes: Any) -> None:
    """Ticks at 1, 2, 5 of each decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    values = [v for v in (scan.dense, *(p.metric for p in scan.rows)) if 0 < v < math.inf]
    axes.set_ylim(min(values) / 1.25, max(values) * 1.25)
    axes.yaxis.set_major_locator(LogLocator(subs=_DECADE))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _is_wide(scan: Sensitivity) -> bool:
    """Whether the metric spans so much that a linear axis would hide where curves leave dense."""
    values = [v for v in (scan.dense, *(p.metric for p in scan.rows)) if math.isfinite(v)]
    return scan.lower_is_better and min(values) > 0 and max(values) > 20 * min(values)


def _count(size: int) -> str:
    if size < 1000:
        return str(size)
    return f"{size / 1000:.3g}K" if size < 1_000_000 else f"{size / 1e6:.3g}M"
