"""How much of each layer can go (thesis §3.2): prune one layer, measure, put it back, go on.

The same for the bits that its codes need (thesis §4.3). Every point is made by a real
``pomona.Pruner`` or ``pomona.Sharer`` with the very rule that it will be given later, so the scan
promises nothing that they do not do.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from . import _C, _scan_file, _scan_plot
from ._model_state import Surroundings, bits, restored
from ._progress import progress_bar
from ._scan_file import DENSE, Point
from ._scan_kind import BITS, SPARSITY, Kind, kind_of
from ._shell import named_owners, resolve
from .report import text_table
from .rules import Prune, Rules, Share, rules_from_json, rules_to_json

__all__ = ["Point", "Sensitivity", "sensitivity"]

SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
Evaluate = Callable[[torch.nn.Module], float]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What a scan has measured; ``str()`` is a table.

    ``rows`` has a Point (layer, sparsity or bits, kept, size, metric) for each layer and sparsity
    (or number of bits), in the model's order; ``dense`` is the metric of the model as it is.
    """

    dense: float
    rows: list[Point]
    identity: dict[str, Any] = dataclasses.field(repr=False)

    @property
    def metric(self) -> str:
        """The name of what was measured."""
        return self.identity["metric"]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller metric is a better network."""
        return self.identity["lower_is_better"]

    @property
    def layers(self) -> list[str]:
        """The parameters that were scanned, in the model's order."""
        return [layer["name"] for layer in self.identity["layers"]]

    @property
    def sizes(self) -> dict[str, int]:
        """How many weights each of them has."""
        return {layer["name"]: math.prod(layer["shape"]) for layer in self.identity["layers"]}

    def __str__(self) -> str:
        """The table."""
        return self.table()

    def table(self) -> str:
        """A row for each layer, a column for each sparsity or number of bits, in plain text."""
        settings = self.identity[self._kind.key]
        metrics = {(p.layer, p.setting): f"{p.metric:.4g}" for p in self.rows}
        rows = [
            [name, f"{size:,}", *[metrics[name, s] for s in settings]]
            for name, size in self.sizes.items()
        ]
        columns = [self._kind.done, "weights", *map(self._kind.label, settings)]
        return f"{text_table(columns, rows)}\n{self.metric} of the dense network: {self.dense:.4g}"

    def rules(self, tolerance: float) -> dict[str, Prune | None] | dict[str, Share | None]:
        """The largest sparsity of each layer up to which the metric stays within a tolerance.

        Or, of a scan of bits, the fewest down to which it does. The layers were changed one at a
        time: together they cost more, which retraining has to win back. So these are where to start
        (thesis §3.2), not a promise.

        Args:
            tolerance: how much worse than the dense network a layer may make it, in units of the
                metric.

        Returns:
            Rules for ``pomona.Pruner`` (or ``Sharer``), with what else the scan's rule said
            (criterion, ..., but no schedule); None where even the smallest sparsity (the most bits)
            is too much.

        Raises:
            InvalidArgument: a tolerance that is negative or no number.
        """
        if not _is_number(tolerance) or not tolerance >= 0:
            raise _C.InvalidArgument(
                f"Sensitivity.rules: expected `tolerance` to be at least 0, got {tolerance!r}."
            )
        kind = self._kind
        rules: dict[str, Any] = {}
        for layer in self.identity["layers"]:
            points = [p for p in self.rows if p.layer == layer["name"]]
            best = _C.best_setting(
                kind is BITS, points, self.dense, tolerance, self.lower_is_better
            )
            template = rules_from_json(json.dumps([["*", layer["rule"]]]), kind.rule)["*"]
            rules[layer["name"]] = None if best is None else kind.at(template, best)
        return rules

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all points, numbers exact; ``resume`` and ``from_csv`` read the same file.

        Raises:
            InvalidArgument: the folder does not exist.
            OSError: no permission, disk full, ... An existing file is then as it was.
        """
        file = _scan_file.check_folder("to_csv", path)
        _scan_file.replace(file, _scan_file.lines_of(self.identity, [self._first, *self.rows]))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Sensitivity:
        """Read what ``to_csv`` has written, or the file of a scan that is complete.

        Raises:
            InvalidArgument: another file, or the file of a scan that was stopped.
            OSError: no such file, ...
        """
        identity, points = _scan_file.read("from_csv", Path(path))
        wanted = len(identity["layers"]) * len(identity[kind_of(identity).key]) + 1
        if len(points) != wanted or points[0].layer != DENSE:
            raise _C.InvalidArgument(
                f"from_csv: expected {wanted} points, got {len(points)} in {str(path)!r}. "
                "Finish the scan with `resume=`."
            )
        return cls(points[0].metric, points[1:], identity)

    def to_png(
        self,
        path: str | os.PathLike[str],
        *,
        title: str = "Sensitivity, layer by layer",
        x: str | None = None,
        log: bool | None = None,
    ) -> None:
        """Draw a line for each layer, the dense network dashed. Needs matplotlib.

        Args:
            path: the file.
            title: stands above the picture.
            x: None: what was varied; "density", of a scan of sparsities: what is kept, from 100 %
                down, as in the thesis.
            log: whether the metric's axis is logarithmic; None decides by its range.

        Raises:
            InvalidArgument: no matplotlib, the folder does not exist, another ``x``.
        """
        known = (None, self._kind.column, *(("density",) if self._kind is SPARSITY else ()))
        if x not in known:
            words = " or ".join(repr(word) for word in known[1:])
            raise _C.InvalidArgument(f"to_png: expected `x` to be {words}, got {x!r}.")
        file = _scan_file.check_folder("to_png", path)
        _scan_plot.draw(self, file, title=title, x=x or self._kind.column, log=log)

    @property
    def _kind(self) -> Kind:
        return kind_of(self.identity)

    @property
    def _first(self) -> Point:
        size = sum(self.sizes.values())
        return Point(DENSE, 0.0, size, size, self.dense)


def sensitivity(
    model: torch.nn.Module,
    evaluate: Evaluate,
    rules: Rules | None = None,
    *,
    sparsities: Iterable[float] | None = None,
    bits: Iterable[int] | None = None,
    metric: str = "error %",
    lower_is_better: bool = True,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Prune one layer at a time, at each sparsity, and measure what that does to the network.

    Or, with ``bits``, share it. Each point is a real ``Pruner`` (``Sharer``) of one parameter and
    one ``step()``; then the weights are put
    back bit for bit, and so are buffers, training flags, gradients and random numbers, after each
    point and after any error or interrupt. Nothing is copied but one layer at a time, the buffers
    and gradients that exist.

    Args:
        model: the trained network.
        evaluate: model -> the metric. It is called on the model itself, always in the same state
            (random numbers too), and must not train it. A point whose weights are those of the
            dense network is not evaluated again.
        rules: as for ``Pruner`` (``Sharer``); the sparsity and the schedule (the bits and codes) in
            them do not count, every sparsity is reached in one step. Default: all floating-point
            parameters with two or more dimensions, by magnitude (by the exact fit).
        sparsities: each in [0, 1); None: 0 to 0.95, unless there are ``bits``.
        bits: each in 1..8: share with so many instead of pruning (thesis Fig. 4.8).
        metric: its name, in tables and pictures.
        lower_is_better: False for accuracies.
        resume: a CSV file that grows by a line with each point; a scan that was stopped goes on
            where it was. It belongs to these weights, rules and sparsities.
        progress: whether to show a bar on a terminal.

    Returns:
        The points: ``.table()``, ``.to_csv(path)``, ``.to_png(path)``, ``.rules(tolerance)``.

    Raises:
        InvalidArgument: a sparsity outside [0, 1) or twice (bits outside 1..8), both of them,
            rules that match nothing, a metric that is no number, a file of another scan, a folder
            that does not exist.

    Example:
        >>> model = torch.nn.Linear(8, 8)
        >>> scan = sensitivity(model, lambda m: m.weight.detach().norm(), metric="norm")
        >>> len(scan.rows)
        11

    Reference:
        Han, thesis §3.2; Han et al., Learning both Weights and Connections, NIPS 2015, §3.
    """
    _check(model, evaluate, metric)
    if bits is not None and sparsities is not None:
        raise _C.InvalidArgument("sensitivity: expected `sparsities` or `bits`, got both.")
    kind = SPARSITY if bits is None else BITS
    steps = (
        kind.sorted(SPARSITIES if sparsities is None else sparsities)
        if bits is None
        else (kind.sorted(bits))
    )
    every = {"*": Prune(0.0) if bits is None else Share(8)}
    found = {name: rule for name, _, rule in resolve(model, rules or every, kind.rule)}
    if not found:
        raise _C.InvalidArgument(
            f"sensitivity: expected `rules` to name a parameter, got only None in {rules!r}."
        )
    identity = _identity(model, kind, found, steps, metric, lower_is_better)
    known = {} if resume is None else _open(resume, identity)
    scan = _Scan(model, evaluate, identity, known, None if resume is None else Path(resume))
    dense, rows = scan.run(found, steps, progress)
    return Sensitivity(dense, rows, identity)


@dataclasses.dataclass
class _Scan:
    """A scan at work. ``known`` has the points that a file held, by layer and setting."""

    model: torch.nn.Module
    evaluate: Evaluate
    identity: dict[str, Any]
    known: dict[tuple[str, float], Point]
    file: Path | None

    def run(
        self, rules: dict[str, Any], settings: list[float], show: bool
    ) -> tuple[float, list[Point]]:
        """The dense metric, and a point for each layer and setting."""
        surroundings = Surroundings(self.model)
        owners = named_owners(self.model)
        kind = kind_of(self.identity)
        total, done = len(rules) * len(settings) + 1, len(self.known)
        rows = []
        with progress_bar("sensitivity", total, done, show=show) as advance:
            dense = self.known.get((DENSE, 0.0))
            if dense is None:
                size = sum(getattr(*owners[name]).numel() for name in rules)
                metric = self._measure(surroundings, "the dense network")
                dense = self._keep(Point(DENSE, 0.0, size, size, metric))
                advance("dense")
            for name, rule in rules.items():
                for setting in settings:
                    point = self.known.get((name, setting))
                    if point is None:
                        weight = getattr(*owners[name])
                        one = kind.at(rule, setting)
                        point = self._point(surroundings, name, weight, (kind, one, setting), dense)
                        self._keep(point)
                        advance(f"{name} at {kind.label(setting)}")
                    rows.append(point)
        return dense.metric, rows

    def _point(
        self,
        surroundings: Surroundings,
        name: str,
        weight: torch.Tensor,
        at: tuple[Kind, Any, float],
        dense: Point,
    ) -> Point:
        """What really pruning (or sharing) this parameter does to the metric."""
        kind, rule, setting = at
        with restored(weight) as values:
            kept = kind.apply(self.model, name, rule)
            if torch.equal(bits(weight), bits(values)):
                metric = dense.metric
            else:
                metric = self._measure(surroundings, f"{name} at {kind.column} {setting}")
        return Point(name, setting, kept, weight.numel(), metric)

    def _measure(self, surroundings: Surroundings, where: str) -> float:
        try:
            value: Any = self.evaluate(self.model)
        finally:
            surroundings.restore()
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        try:
            number = math.nan if isinstance(value, (str, bytes, bool)) else float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if math.isnan(number):
            raise _C.InvalidArgument(
                f"sensitivity: expected `evaluate` to return a number, got {value!r} for {where}."
            )
        return number

    def _keep(self, point: Point) -> Point:
        if self.file is not None:
            _scan_file.append(self.file, self.identity, point)
        return point


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(model: object, evaluate: object, metric: object) -> None:
    if not isinstance(model, torch.nn.Module):
        raise _C.InvalidArgument(
            f"sensitivity: expected `model` to be a torch.nn.Module, got {type(model).__name__}."
        )
    if not callable(evaluate):
        raise _C.InvalidArgument(
            f"sensitivity: expected `evaluate` to be callable, got {type(evaluate).__name__}."
        )
    if not isinstance(metric, str) or not metric or not metric.isprintable():
        raise _C.InvalidArgument(
            f"sensitivity: expected `metric` to be a name on one line, got {metric!r}."
        )


def _identity(
    model: torch.nn.Module,
    kind: Kind,
    rules: dict[str, Any],
    settings: list[float],
    metric: str,
    lower_is_better: bool,
) -> dict[str, Any]:
    """What makes two scans the same one, as JSON holds it."""
    owners = named_owners(model)
    layers = [
        {
            "name": name,
            "shape": list(getattr(*owners[name]).shape),
            "rule": json.loads(rules_to_json({name: kind.at(rule, kind.gentlest)}, kind.rule))[0][
                1
            ],
        }
        for name, rule in rules.items()
    ]
    identity = {
        "metric": metric,
        "lower_is_better": lower_is_better,
        kind.key: settings,
        "layers": layers,
        "weights": _digest(getattr(*owner) for owner in owners.values()),
    }
    return json.loads(json.dumps(identity))


def _digest(weights: Iterable[torch.Tensor]) -> str:
    """SHA-256 of the bytes of all parameters: another training is another scan."""
    digest = hashlib.sha256()
    for weight in weights:
        content = bits(weight).cpu()
        digest.update((ctypes.c_char * content.numel()).from_address(content.data_ptr()))
    return digest.hexdigest()


def _open(
    resume: str | os.PathLike[str], identity: dict[str, Any]
) -> dict[tuple[str, float], Point]:
    """The points in the file, which is begun where there is none and freed of a torn last line."""
    path = _scan_file.check_folder("sensitivity: resume", resume)
    if not path.exists() or not path.stat().st_size:
        _scan_file.replace(path, _scan_file.lines_of(identity, []))
        return {}
    found, points = _scan_file.read("sensitivity: resume", path)
    different = sorted(k for k in identity.keys() | found.keys() if identity.get(k) != found.get(k))
    if different:
        raise _C.InvalidArgument(
            f"sensitivity: expected `resume` to be a file of this scan, got {str(path)!r} with "
            f"other {', '.join(different)}. Name another file or delete it."
        )
    _scan_file.replace(path, _scan_file.lines_of(identity, points))
    return {(point.layer, point.setting): point for point in points}
