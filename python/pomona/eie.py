"""EIE, the Efficient Inference Engine, cycle by cycle: what the accelerator would do with a network
(thesis ch. 6; Han et al., ISCA 2016).

    result = pomona.eie.simulate(model, images[:1], pes=64, fifo=8)
    print(result)                     # cycles, microseconds, balance, energy, beside this CPU
    with pomona.eie.emulated(model, images[:64]):
        model(images)                 # every layer in EIE's 16-bit arithmetic

Weights must be shared, zeros aside, by at most 15 centroids (codes of 4 bits, one for fillers) or
``code_bits`` must be raised. Convolutions run by im2col, one product of matrix and vector for each
position. Biases are in the accumulators when a layer begins.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from . import _C
from ._eie_layers import MatrixLayer, as_rows, from_file, from_model, from_tensor, hooked
from ._eie_machine import Machine
from ._eie_result import LayerResult, Result
from .report import percent, text_table

# What simulate takes beside the members of a machine.
_ARGUMENTS = {"machine", "bias", "samples", "products", "density", "measure", "trace"}
Activations = torch.Tensor | dict[str, torch.Tensor] | tuple[torch.Tensor, ...] | None


def simulate(
    target: torch.nn.Module | torch.Tensor | str | os.PathLike[str],
    activations: Activations = None,
    *,
    machine: Machine | None = None,
    bias: torch.Tensor | None = None,
    samples: int = 1,
    products: int = 64,
    density: float = 0.35,
    measure: bool = True,
    trace: tuple[int, int] | None = None,
    **options: Any,
) -> Result:
    """Run compressed layers on the machine, cycle by cycle.

    Args:
        target: a network (its Linear and Conv2d layers get the activations that reach them in its
            own forward pass), a weight [out, in], or a ``.pomona`` file.
        activations: the network's input, [inputs, ...]; the weight's, [in] or [inputs, in]; of a
            file the input of its first layer, the outputs of each going into the next through a
            ReLU, or a dict from layer to input. Of a file they may be left out: then they are
            drawn at random with ``density``, and the note of each layer says so.
        machine: or its members as keywords: ``pes=64, fifo=8, ...``.
        bias: of a weight, [out].
        samples: inputs that are simulated, the first ones.
        products: of a convolution, positions of an input that are simulated, evenly spaced; cycles
            and energies are scaled to all of them.
        measure: time the dense and the packed layer on this CPU too (and on a GPU, where one is).
        trace: (first, last) cycle whose text to keep in ``LayerResult.trace``.

    Raises:
        InvalidArgument: a machine, activations or a layer that do not fit; a layer that is not
            shared, or by more centroids than codes.

    Example:
        >>> weight = torch.zeros(8, 8)
        >>> weight[0, 0] = weight[4, 2] = 0.5
        >>> result = simulate(weight, torch.ones(8), pes=4, measure=False)
        >>> result.layers[0].outputs[0, :5].tolist()
        [0.5, 0.0, 0.0, 0.0, 0.5]
    """
    machine = _machine(machine, options)
    _check_counts(samples=samples, products=products)
    layers, skipped = _layers(target, activations, bias, samples, density, machine)
    found = [_run(layer, machine, products, measure, trace) for layer in layers]
    return Result(machine, found, skipped)


def sweep(
    target: torch.nn.Module | torch.Tensor | str | os.PathLike[str],
    activations: Activations = None,
    *,
    pes: Sequence[int] = (64,),
    fifo: Sequence[int] = (8,),
    **options: Any,
) -> list[Result]:
    """``simulate`` for every number of PEs with every number of queue slots.

    Args:
        target: as for simulate.
        activations: as for simulate.
        pes: numbers of processing elements.
        fifo: numbers of queue slots.
        options: the other arguments of simulate; nothing is timed unless ``measure=True``.

    Raises:
        InvalidArgument: as simulate.
    """
    arguments = {n: options.pop(n) for n in _ARGUMENTS & options.keys()}
    machine = _machine(arguments.pop("machine", None), options)
    arguments.setdefault("measure", False)
    machines = [
        dataclasses.replace(machine, pes=p, fifo=f) for p, f in itertools.product(pes, fifo)
    ]
    return [simulate(target, activations, machine=m, **arguments) for m in machines]


def sweep_table(results: Sequence[Result]) -> str:
    """A line for each machine: what ``pomona eie sweep`` prints."""
    rows = [
        [
            str(r.machine.pes),
            str(r.machine.fifo),
            f"{r.cycles:.0f}",
            f"{r.microseconds:.2f}",
            percent(sum(x.load_balance * x.cycles for x in r.layers), r.cycles),
            percent(
                sum(x.fillers for x in r.layers), sum(x.nonzeros + x.fillers for x in r.layers)
            ),
            f"{r.energy_nj:.1f}",
            f"{sum(r.machine.area_mm2().values()):.1f}",
        ]
        for r in results
    ]
    return text_table(["PEs", "slots", "cycles", "us", "balance", "fillers", "nJ", "mm2"], rows)


@contextmanager
def emulated(
    model: torch.nn.Module,
    calibration: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    machine: Machine | None = None,
    **options: Any,
) -> Iterator[torch.nn.Module]:
    """The model with its shared Linear and Conv2d layers computed in the machine's arithmetic.

    Layers that are not shared, and convolutions of several groups, are computed as before.

    Args:
        model: its weights and its keys stay as they are.
        calibration: an input whose activations choose the digits behind the point of each layer.
        machine: or its members as keywords.

    Raises:
        InvalidArgument: as simulate.
    """
    machine = _machine(machine, options)
    layers, _ = from_model(model, calibration, None)
    ready = {}
    for layer in layers:
        made = _C.EieLayer(layer.name, layer.weight, layer.bias, machine._config)
        ready[layer.name] = (made, made.choose_format(layer.vectors(4096)))

    def outputs(name: str, rows: torch.Tensor) -> torch.Tensor:
        made, digits = ready[name]
        return made.outputs(machine._config, rows, digits)

    with hooked(model, ready, outputs):
        yield model


def _machine(machine: Machine | None, options: dict[str, Any]) -> Machine:
    if machine is not None and options:
        raise _C.InvalidArgument(
            f"eie: expected `machine` or {', '.join(options)}, got both. Put them into the machine."
        )
    unknown = sorted(set(options) - {field.name for field in dataclasses.fields(Machine)})
    if unknown:
        raise _C.InvalidArgument(f"eie: expected members of Machine, got {', '.join(unknown)}.")
    return machine or Machine(**options)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _C.InvalidArgument(f"eie: expected `{name}` of at least 1, got {value!r}.")


def _layers(
    target: Any,
    activations: Activations,
    bias: torch.Tensor | None,
    samples: int,
    density: float,
    machine: Machine,
) -> tuple[list[MatrixLayer], dict[str, str]]:
    if isinstance(target, torch.nn.Module):
        if not isinstance(activations, (torch.Tensor, tuple)):
            raise _C.InvalidArgument(
                "eie: expected `activations` to be the network's input, got "
                f"{type(activations).__name__}."
            )
        return from_model(target, activations, samples)
    if isinstance(target, torch.Tensor):
        if not isinstance(activations, torch.Tensor):
            raise _C.InvalidArgument(
                f"eie: expected `activations` [inputs, in], got {type(activations).__name__}."
            )
        return [from_tensor(target, bias, activations, samples)], {}
    if isinstance(target, (str, os.PathLike)):

        def outputs(layer: MatrixLayer) -> torch.Tensor:
            made = _C.EieLayer(layer.name, layer.weight, layer.bias, machine._config)
            rows = layer.vectors(None)
            return made.outputs(machine._config, rows, made.choose_format(rows), relu=True)

        return from_file(target, activations, samples, density, outputs)
    raise _C.InvalidArgument(
        "eie: expected a torch.nn.Module, a weight or the path of a file, got "
        f"{type(target).__name__}."
    )


def _run(
    layer: MatrixLayer,
    machine: Machine,
    most_products: int,
    measure: bool,
    trace: tuple[int, int] | None,
) -> LayerResult:
    config = machine._config
    made = _C.EieLayer(layer.name, layer.weight, layer.bias, config)
    rows = layer.vectors(None)
    digits = made.choose_format(rows)
    chosen = layer.spaced(most_products)
    first, last = trace or (0, -1)
    total, text = _C.EieStatistics(), ""
    for index, vector in enumerate(rows[chosen]):
        window = (first, last) if index == 0 else (0, -1)
        _, statistics, written = made.run(config, vector.contiguous(), digits, False, *window)
        total.add(statistics)
        text = text or written
    scale = len(rows) / len(chosen) / layer.inputs if len(chosen) else 0.0
    counts = {name: scale * count for name, count in total.total().items()}
    for name in ("broadcasts", "stall_cycles", "fetch_cycles", "activation_sram_reads"):
        counts[name] = scale * getattr(total, name)
    dense, packed, cuda = _times(layer) if measure else (None, None, None)
    cycles = scale * total.cycles
    return LayerResult(
        name=layer.name,
        rows=made.rows,
        cols=made.cols,
        nonzeros=made.nonzeros,
        fillers=made.fillers,
        tiles=made.tiles,
        products=layer.positions,
        simulated=len(chosen),
        cycles=cycles,
        theoretical_cycles=scale * total.theoretical_cycles(),
        microseconds=1e6 * machine.seconds(cycles),
        load_balance=total.load_balance(),
        counts=counts,
        energy_pj={unit: scale * pj for unit, pj in total.energy_pj(config).items()},
        digits=digits,
        cpu_dense_us=dense,
        cpu_packed_us=packed,
        cuda_dense_us=cuda,
        outputs=layer.shaped(made.outputs(config, rows, digits)),
        trace=text,
        note=_note(layer, made.tiles, total),
    )


def _note(layer: MatrixLayer, tiles: int, total: _C.EieStatistics) -> str:
    notes = [layer.note] if layer.note else []
    if tiles > 1:
        notes.append(f"run in {tiles} tiles, whose loading is not counted")
    if total.skipped_negative:
        notes.append(f"{total.skipped_negative} activations below zero skipped (signed=False)")
    if total.skipped_nan:
        notes.append(f"{total.skipped_nan} activations that are NaN skipped")
    if saturations := total.total()["saturations"]:
        notes.append(f"{saturations} additions saturated")
    return "; ".join(notes)


def _times(layer: MatrixLayer) -> tuple[float, float | None, float | None]:
    """Microseconds of one input: dense and packed on the CPU, dense on a GPU."""
    rows = layer.vectors(None)[: layer.positions]
    dense = _best(lambda: torch.nn.functional.linear(rows, layer.weight, layer.bias))
    packed = cuda = None
    if layer.positions == 1:
        layout = _C.layouts_for(layer.weight, layer.name, "fp32")[0]
        bytes_ = _C.pack(layer.weight, layer.name, layout)
        out = layer.weight.shape[0]
        packed = _best(lambda: torch.ops.pomona.packed_linear(rows, bytes_, layer.bias, out))
    if torch.cuda.is_available():
        on_gpu = [None if t is None else t.cuda() for t in (rows, layer.weight, layer.bias)]

        def run() -> None:
            torch.nn.functional.linear(*on_gpu)
            torch.cuda.synchronize()

        cuda = _best(run)
    return dense, packed, cuda


def _best(run: Callable[[], Any]) -> float:
    """The shortest of some runs, in microseconds."""
    best, until = float("inf"), time.perf_counter() + 0.1
    runs = 0
    while runs < 5 or time.perf_counter() < until:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
        runs += 1
    return 1e6 * best


def lstm_step(
    cell: torch.nn.LSTMCell | torch.nn.LSTM, x: torch.Tensor, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The product of one step of an LSTM as one layer: gates = [W_ih W_hh] [x; h] + b.

    Args:
        cell: an LSTMCell, or the first layer of an LSTM.
        x: [inputs, input_size].
        hidden: [inputs, hidden_size].

    Returns:
        (weight, bias, activations) for ``simulate(weight, activations, bias=bias, signed=True)``.
    """
    suffix = "" if isinstance(cell, torch.nn.LSTMCell) else "_l0"
    weight = torch.cat([getattr(cell, f"weight_{g}{suffix}").detach() for g in ("ih", "hh")], 1)
    bias = None
    if cell.bias:
        bias = sum(getattr(cell, f"bias_{g}{suffix}").detach() for g in ("ih", "hh"))
    return weight, bias, torch.cat([as_rows(x), as_rows(hidden)], 1)


__all__ = [
    "LayerResult",
    "Machine",
    "Result",
    "emulated",
    "lstm_step",
    "simulate",
    "sweep",
    "sweep_table",
]
