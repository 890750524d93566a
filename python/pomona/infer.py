"""Faster: run a model from its compressed weights, layer by layer where that pays."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from . import _C
from ._packed_linear import Precision, done_precision
from ._shell import clean_name
from .nn import PackedGRU, PackedLinear, PackedLSTM, PackedMultiheadAttention, SharedLinear
from .report import percent, shape_text, text_table

__all__ = ["PackReport", "PackRow", "pack_"]

_log = logging.getLogger("pomona")

_WARM_UPS, _RUNS = 3, 21
_VERIFY = {"fp32": 1e-4, "bf16": 2e-2, "fixed16": 1e-4, "int8": 0.1}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Exact types: a subclass computes something else.
_LINEAR = (nn.Linear, SharedLinear)
_WHOLE = {nn.LSTM: PackedLSTM, nn.GRU: PackedGRU, nn.MultiheadAttention: PackedMultiheadAttention}
_PACKABLE = (*_LINEAR, *_WHOLE)
# Modules whose fast path reads the weights of their Linear children instead of calling them.
_WEIGHT_READERS = (nn.TransformerEncoderLayer, nn.MultiheadAttention)


@dataclasses.dataclass(frozen=True)
class PackRow:
    """What ``pack_`` decided for one layer.

    ``dense_us`` and ``packed_us`` are medians of interleaved runs, of the fastest layout that keeps
    the outputs; ``layout`` is that layout, ``bytes`` its size and ``error`` the largest change of
    an output beside the largest output. None where nothing was measured; ``why`` says why not.
    """

    name: str
    shape: tuple[int, ...]
    density: float
    dense_us: float | None
    packed_us: float | None
    choice: str
    why: str = ""
    layout: str = ""
    bytes: int | None = None
    error: float | None = None


@dataclasses.dataclass(frozen=True)
class PackReport:
    """What ``pack_`` measured and chose, a row for each layer; ``str()`` is a table."""

    rows: list[PackRow]

    @property
    def packed(self) -> list[str]:
        """The names of the layers that were packed."""
        return [row.name for row in self.rows if row.choice == "packed"]

    def __str__(self) -> str:
        """A table of plain text."""
        columns = ["layer", "shape", "density", "layout", "bytes", "error"]
        columns += ["dense us", "packed us", "choice"]
        return text_table(columns, [_cells(row) for row in self.rows])


def _cells(row: PackRow) -> list[str]:
    def microseconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    return [
        row.name,
        shape_text(row.shape),
        percent(row.density, 1.0),
        row.layout or "-",
        "-" if row.bytes is None else f"{row.bytes:,}",
        "-" if row.error is None else f"{row.error:.1e}",
        microseconds(row.dense_us),
        microseconds(row.packed_us),
        f"{row.choice} ({row.why})" if row.why else row.choice,
    ]


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass
class _Layer:
    """A layer, everywhere it stands in the model, and what it was given."""

    name: str
    module: nn.Module
    places: list[tuple[nn.Module, str]]
    given: Arguments | None = None

    def weights(self) -> dict[str, torch.Tensor]:
        """Its matrices by name."""
        if isinstance(self.module, _LINEAR):
            return {"weight": self.module.weight}
        return {n: p for n, p in self.module.named_parameters() if "weight" in n}

    def why_not(self) -> str:
        """Why it stays as it is, whatever it would measure; empty when it may be packed."""
        if any(isinstance(parent, _WEIGHT_READERS) for parent, _ in self.places):
            return "its parent reads the weight"
        if self.module._forward_hooks or self.module._forward_pre_hooks:
            return "it has hooks"
        for weight in self.weights().values():
            if weight.dtype not in _DTYPES:
                return str(weight.dtype).removeprefix("torch.")
        if isinstance(self.module, nn.MultiheadAttention) and (
            self.module.bias_k is not None or self.module.add_zero_attn
        ):
            return "add_bias_kv or add_zero_attn"
        return ""

    def candidates(self, precision: Precision) -> list[nn.Module]:
        """Everything that it could be replaced by, the likely fastest first."""
        weight = next(iter(self.weights().values()))
        if isinstance(self.module, _LINEAR):
            # Others than csr16 run on the CPU only.
            names = _C.layouts_for(weight.detach(), "weight", precision) if weight.is_cpu else None
            options = [{"layout": n, "precision": precision} for n in names or _csr16(names)]
            return [PackedLinear(weight, self.module.bias, **option) for option in options]
        packed = _WHOLE[type(self.module)]
        layouts = (None, "csr16") if weight.is_cpu and precision == "fp32" else (None,)
        try:
            return [packed(self.module, layout=n, precision=precision) for n in layouts]
        except _C.InvalidArgument:  # a matrix that this precision has no layout for
            return []

    def run(self, module: nn.Module) -> list[torch.Tensor]:
        """The outputs of a module for what this layer was given."""
        assert self.given is not None
        arguments, keywords = self.given
        return _tensors(module(*arguments, **keywords))


def _csr16(names: list[str] | None) -> list[str]:
    return ["csr16"] if names is None else []


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def pack_(
    model: nn.Module,
    example: Any,
    *,
    precision: Precision = "fp32",
    verify: float | None = None,
) -> PackReport:
    """Replace layers by packed ones where that is faster here.

    Linear layers become :class:`~pomona.nn.PackedLinear`; LSTM, GRU and MultiheadAttention become
    :class:`~pomona.nn.PackedLSTM`, ``PackedGRU`` and ``PackedMultiheadAttention``.

    The model runs once on ``example``, in eval mode and without gradients; each layer is then
    timed, dense and in every layout that can hold it by turns, on what it was given, with the
    threads that torch has now. A layer stays dense where dense is faster, where no layout keeps its
    outputs within ``verify``, where ``example`` does not reach it, and where it cannot be replaced
    (hooks of its own, float64, inside nn.TransformerEncoderLayer). A layer that stands in several
    places is replaced in all of them. Modes and hooks are as before afterwards.

    Args:
        model: any module that holds such layers.
        example: an input as the model will see it (the batch size decides what is faster): a
            tensor, a tuple of positional arguments, or a dict of keyword arguments.
        precision: what products are computed in (see PackedLinear). One that this processor has no
            instructions for is done in fp32, which is said once.
        verify: how much the outputs of a layer may change, beside its largest output for
            ``example``; None: 1e-4 for fp32 and fixed16, 2e-2 for bf16, 0.1 for int8.

    Returns:
        What was measured and chosen; ``print`` it.

    Raises:
        InvalidArgument: ``model`` is no module or is itself an nn.Linear, it fails on ``example``,
            a weight holds NaN or Inf (named), an unknown precision, a ``verify`` that is not
            positive. Then the model is as it was.

    Reference:
        Thesis §4.8: compressed layers are faster than dense ones at batch 1.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU())
        >>> report = pack_(model, example=torch.ones(1, 16))
        >>> [row.name for row in report.rows]
        ['0']
    """
    _check_model(model)
    if verify is not None and not (isinstance(verify, (int, float)) and verify > 0):
        raise _C.InvalidArgument(f"pack_: expected `verify` to be above 0, got {verify!r}.")
    precision = done_precision("pack_", precision)
    verify = _VERIFY[precision] if verify is None else verify
    layers = _find_layers(model)
    _check_finite(layers)
    candidates = [layer for layer in layers if not layer.why_not()]
    _capture_inputs(model, candidates, example)
    replacements: list[tuple[_Layer, nn.Module]] = []
    rows = []
    for layer in layers:
        row, packed = _decide(layer, precision, verify)
        rows.append(row)
        if row.choice == "packed" and packed is not None:
            replacements.append((layer, packed))
    for layer, packed in replacements:
        for parent, attribute in layer.places:
            setattr(parent, attribute, packed)
    report = PackReport(rows)
    _log.info("pack_: packed %d of %d layers\n%s", len(replacements), len(rows), report)
    return report


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise _C.InvalidArgument(
            f"pack_: expected `model` to be a torch.nn.Module, got {type(model).__name__}."
        )
    if type(model) in _PACKABLE:
        raise _C.InvalidArgument(
            f"pack_: expected `model` to contain its layers, got a bare {type(model).__name__}. "
            "Make a packed one of it (pomona.nn)."
        )


def _find_layers(model: nn.Module) -> list[_Layer]:
    """Each layer that could be packed once, with all its places."""
    found: dict[int, _Layer] = {}
    for prefix, parent in model.named_modules():
        for attribute, module in parent._modules.items():
            if type(module) not in _PACKABLE:
                continue
            name = clean_name(f"{prefix}.{attribute}" if prefix else attribute)
            layer = found.setdefault(id(module), _Layer(name, module, []))
            layer.places.append((parent, attribute))
    return list(found.values())


def _check_finite(layers: list[_Layer]) -> None:
    for layer in layers:
        for name, weight in layer.weights().items():
            if weight.is_meta:
                raise _C.InvalidArgument(
                    f"pack_: expected `{layer.name}.{name}` to have data, got a meta tensor."
                )
            if not torch.isfinite(weight).all():
                raise _C.InvalidArgument(
                    f"pack_: expected `{layer.name}.{name}` to be finite, got NaN or Inf."
                )


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _capture_inputs(model: nn.Module, layers: list[_Layer], example: Any) -> None:
    """Run the model once and keep what each layer was first given."""

    def keep(layer: _Layer) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer.given is None:
                layer.given = tree_map_only(
                    torch.Tensor, lambda t: t.detach().clone(), (args, kwargs)
                )

        return hook

    handles = [
        layer.module.register_forward_pre_hook(keep(layer), with_kwargs=True) for layer in layers
    ]
    runnable = getattr(model, "_orig_mod", model)  # of torch.compile: no need to compile for this
    try:
        with _eval_mode(model), torch.no_grad():
            if isinstance(example, dict):
                runnable(**example)
            elif isinstance(example, (tuple, list)):
                runnable(*example)
            else:
                runnable(example)
    except Exception as error:
        raise _C.InvalidArgument(
            "pack_: expected `example` to be an input of the model (a tensor, a tuple of arguments "
            f"or a dict of keywords), got {_describe(example)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _describe(example: Any) -> str:
    if isinstance(example, torch.Tensor):
        return f"{example.dtype} {list(example.shape)} on {example.device}"
    return type(example).__name__


def _decide(layer: _Layer, precision: Precision, verify: float) -> tuple[PackRow, nn.Module | None]:
    weights = list(layer.weights().values())
    kept, numel = sum(w.count_nonzero().item() for w in weights), sum(w.numel() for w in weights)
    density = kept / numel if numel else 0.0

    def row(choice: str, why: str = "", **measured: Any) -> PackRow:
        measured = {"dense_us": None, "packed_us": None, **measured}
        shape = tuple(weights[0].shape)
        return PackRow(layer.name, shape, density, choice=choice, why=why, **measured)

    if why := layer.why_not():
        return row("dense", why), None
    if layer.given is None:
        return row("dense", "not called with the example"), None
    candidates = layer.candidates(precision)
    if not candidates:
        return row("dense", f"no layout holds it in {precision}"), None
    try:
        errors = _errors(layer, candidates)
        dense_us, *times = _measure([layer.module, *candidates], layer)
    except NotImplementedError:
        return row("dense", f"no packed kernel for {weights[0].device.type}"), None
    fit = [i for i, error in enumerate(errors) if error <= verify]
    best = min(fit or range(len(times)), key=times.__getitem__)
    packed = candidates[best].train(layer.module.training)
    parts = [part for part in packed.modules() if isinstance(part, PackedLinear)]
    measured = {
        "dense_us": dense_us,
        "packed_us": times[best],
        "layout": ", ".join(sorted({part.layout for part in parts})),
        "bytes": sum(part.packed.numel() for part in parts),
        "error": errors[best],
    }
    if not fit:
        return row("dense", f"its outputs would change by more than {verify:g}", **measured), None
    return row("packed" if times[best] < dense_us else "dense", **measured), packed


@torch.no_grad()
def _errors(layer: _Layer, packed: Sequence[nn.Module]) -> list[float]:
    """The largest change of an output, beside the largest output, of each."""
    expected = layer.run(layer.module)
    return [max(map(_error, layer.run(module), expected), default=0.0) for module in packed]


def _error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Infinite where only one of them is NaN or infinite."""
    if not expected.numel():
        return 0.0
    output, expected = output.double(), expected.double()
    is_same = (output == expected) | (output.isnan() & expected.isnan())
    change = torch.where(is_same, 0.0, (output - expected).abs()).nan_to_num(nan=torch.inf).max()
    largest = torch.where(expected.isfinite(), expected.abs(), 0.0).max()
    return (change / largest if largest > 0 else change).item()


@torch.no_grad()
def _measure(modules: Sequence[nn.Module], layer: _Layer) -> list[float]:
    """Median microseconds of a call of each, by turns."""
    times: list[list[float]] = [[] for _ in modules]
    device = next(iter(layer.weights().values())).device
    for run in range(-_WARM_UPS, _RUNS):
        for module, kept in zip(modules, times, strict=True):
            start = time.perf_counter()
            layer.run(module)
            if device.type != "cpu":
                torch.get_device_module(device).synchronize()
            if run >= 0:
                kept.append(1e6 * (time.perf_counter() - start))
    return [statistics.median(of_module) for of_module in times]
