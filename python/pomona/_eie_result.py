"""What ``pomona.eie`` found out about each layer, as values, a table, JSON and a picture."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ._eie_machine import Machine
from .report import percent, text_table


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """One layer on the machine. Cycles, times and energies are those of one input, the mean over
    those that were simulated."""

    name: str
    rows: int
    cols: int
    nonzeros: int
    fillers: int
    tiles: int  # parts it is run in, where the memories are too small; loading them is not counted
    products: int  # of matrix and vector for one input: 1, or the positions of a convolution
    simulated: int  # products that were simulated, of all inputs
    cycles: float
    theoretical_cycles: float  # at perfect balance; fillers count (EIE Table IV)
    microseconds: float
    load_balance: float  # 1 - starved cycles / cycles, over all PEs
    counts: dict[str, float]  # of one input, over all PEs: entries, fillers, reads, stalls, ...
    energy_pj: dict[str, float]  # by hardware unit
    digits: tuple[int, int, int]  # behind the point: weights, inputs, outputs
    cpu_dense_us: float | None  # float32 dense layer on this CPU, measured
    cpu_packed_us: float | None  # the packed layer
    cuda_dense_us: float | None  # the dense layer on this machine's GPU
    outputs: torch.Tensor  # [inputs, rows] or [inputs, rows, positions], before any ReLU
    trace: str
    note: str

    @property
    def density(self) -> float:
        """Kept weights / weights."""
        return self.nonzeros / (self.rows * self.cols) if self.rows * self.cols else 0.0

    @property
    def filler_share(self) -> float:
        """Fillers / stored entries."""
        stored = self.nonzeros + self.fillers
        return self.fillers / stored if stored else 0.0

    @property
    def theoretical_us(self) -> float:
        """Microseconds at perfect balance."""
        return self.microseconds * self.theoretical_cycles / self.cycles if self.cycles else 0.0

    @property
    def energy_nj(self) -> float:
        """Of one input, all units."""
        return sum(self.energy_pj.values()) / 1e3


@dataclasses.dataclass(frozen=True)
class Result:
    """What the machine does with a network, layer by layer; ``str()`` is a table."""

    machine: Machine
    layers: list[LayerResult]
    skipped: dict[str, str]  # layers that were not simulated, and why

    @property
    def cycles(self) -> float:
        """Of one input, all layers one after the other."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def microseconds(self) -> float:
        """Of one input, all layers."""
        return sum(layer.microseconds for layer in self.layers)

    @property
    def energy_nj(self) -> float:
        """Of one input, all layers and units."""
        return sum(layer.energy_nj for layer in self.layers)

    def __str__(self) -> str:
        """Return a table with a line for each layer, and what to know about them."""
        columns = ["layer", "shape", "density", "fillers", "cycles", "us", "ideal us", "balance"]
        columns += ["nJ", "CPU dense us", "packed us"]
        has_cuda = any(layer.cuda_dense_us is not None for layer in self.layers)
        columns += ["GPU dense us"] if has_cuda else []

        def cells(layer: LayerResult) -> list[str]:
            products = f" x {layer.products}" if layer.products != 1 else ""
            found = [layer.name, f"{layer.rows} x {layer.cols}{products}"]
            found += [percent(layer.density, 1), percent(layer.filler_share, 1)]
            found += [f"{layer.cycles:.0f}", f"{layer.microseconds:.2f}"]
            found += [f"{layer.theoretical_us:.2f}", percent(layer.load_balance, 1)]
            found += [f"{layer.energy_nj:.1f}", _micro(layer.cpu_dense_us)]
            found += [_micro(layer.cpu_packed_us)]
            return found + ([_micro(layer.cuda_dense_us)] if has_cuda else [])

        totals = ["all", "", "", "", f"{self.cycles:.0f}", f"{self.microseconds:.2f}", "", ""]
        totals += [f"{self.energy_nj:.1f}", _sum(self.layers, "cpu_dense_us")]
        totals += [_sum(self.layers, "cpu_packed_us")]
        totals += [_sum(self.layers, "cuda_dense_us")] if has_cuda else []
        area = sum(self.machine.area_mm2().values())
        lines = [text_table(columns, [cells(layer) for layer in self.layers], totals)]
        lines += [f"{self.machine.pes} PEs, {self.machine.fifo} queue slots, {area:.1f} mm2"]
        lines += [f"{layer.name}: {layer.note}" for layer in self.layers if layer.note]
        lines += [f"{name}: not simulated, {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Everything but outputs and traces; written to ``path`` too, when there is one."""
        layers = []
        for layer in self.layers:
            fields = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
            del fields["outputs"], fields["trace"]
            fields |= {"density": layer.density, "filler_share": layer.filler_share}
            fields |= {"theoretical_us": layer.theoretical_us, "energy_nj": layer.energy_nj}
            layers.append(fields)
        facts = {
            "machine": dataclasses.asdict(self.machine),
            "area_mm2": self.machine.area_mm2(),
            "layers": layers,
            "skipped": self.skipped,
        }
        text = json.dumps(facts, indent=2)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    def plot(self, path: str | os.PathLike[str]) -> None:
        """A picture: cycles of each layer beside the ideal, and energy by unit.

        Raises:
            InvalidArgument: matplotlib is not installed.
        """
        from ._eie_plot import draw

        draw(self, Path(path))


def _micro(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _sum(layers: Sequence[LayerResult], field: str) -> str:
    values = [getattr(layer, field) for layer in layers]
    return "" if any(value is None for value in values) else f"{sum(values):.1f}"
