"""The matrices of a network and the vectors that reach them, for ``pomona.eie``."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from . import _C
from .io import load
from .nn import to_dense_


@dataclasses.dataclass(frozen=True)
class MatrixLayer:
    """A layer as products of a matrix and vectors. All tensors float32, contiguous, on the CPU."""

    name: str
    weight: torch.Tensor  # [rows, cols]
    bias: torch.Tensor | None
    rows: torch.Tensor  # [inputs * positions, cols]
    positions: int  # vectors of one input
    note: str = ""

    @property
    def inputs(self) -> int:
        return max(1, len(self.rows) // self.positions)

    def vectors(self, most: int | None) -> torch.Tensor:
        """All vectors, or so many of them, evenly spaced."""
        if most is None or len(self.rows) <= most:
            return self.rows
        return self.rows[_spaced(len(self.rows), most)].contiguous()

    def spaced(self, most: int) -> torch.Tensor:
        """Indices of the vectors to simulate: at most so many of each input."""
        one = _spaced(self.positions, most)
        begins = torch.arange(self.inputs)[:, None] * self.positions
        return (begins + one).flatten()

    def shaped(self, outputs: torch.Tensor) -> torch.Tensor:
        """[inputs, rows], or [inputs, rows, positions]."""
        if self.positions == 1:
            return outputs
        return outputs.view(self.inputs, self.positions, -1).transpose(1, 2).contiguous()


def _spaced(count: int, most: int) -> torch.Tensor:
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).long()


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """[inputs, features], as the machine takes them."""
    rows = tensor.detach().to("cpu", torch.float32)
    return (rows[None] if rows.dim() == 1 else rows.flatten(0, -2)).contiguous()


def from_tensor(
    weight: torch.Tensor, bias: torch.Tensor | None, activations: torch.Tensor, samples: int | None
) -> MatrixLayer:
    """One matrix.

    Raises:
        InvalidArgument: a weight without two dimensions, activations of another width.
    """
    if weight.dim() != 2 or not weight.is_floating_point():
        raise _C.InvalidArgument(
            "eie: expected a weight [out, in] of floating point, got "
            f"{list(weight.shape)} of {weight.dtype}."
        )
    return _matrix("weight", weight, bias, as_rows(activations)[:samples], 1)


def from_model(
    model: nn.Module, inputs: torch.Tensor | tuple[torch.Tensor, ...], samples: int | None
) -> tuple[list[MatrixLayer], dict[str, str]]:
    """The Linear and Conv2d layers of a network that its forward pass calls, in that order, and
    what was left out.

    Raises:
        InvalidArgument: no such layer was called.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    dense = copy.deepcopy(model)
    to_dense_(dense)
    found: dict[str, MatrixLayer] = {}
    skipped: dict[str, str] = {}

    def see(name: str, module: nn.Module, x: torch.Tensor) -> None:
        if why := _why_not(module):
            skipped[name] = why
        elif name not in found:
            rows, positions = _vectors(module, x)
            keep = None if samples is None else samples * positions
            found[name] = _matrix(name, module.weight, module.bias, rows[:keep], positions)

    handles = [
        module.register_forward_pre_hook(lambda m, x, name=name: see(name, m, x[0]))
        for name, module in _named(dense)
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    dense.eval()
    with torch.no_grad():
        dense(*arguments)
    for handle in handles:
        handle.remove()
    for name, module in _named(dense):
        if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            skipped[name] = f"{type(module).__name__} is not a chain of products (see lstm_step)"
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items()) or "without any"
        raise _C.InvalidArgument(
            "eie: expected a network with shared Linear or Conv2d layers, got "
            f"{type(model).__name__} ({reasons})."
        )
    return list(found.values()), skipped


def from_file(
    path: str | os.PathLike[str],
    activations: Any,
    samples: int,
    density: float,
    outputs: Callable[[MatrixLayer], torch.Tensor],
) -> tuple[list[MatrixLayer], dict[str, str]]:
    """The matrices of a file in its order. ``outputs`` computes what one layer hands to the next.

    Raises:
        InvalidArgument: no matrix, activations of another width, a convolution in the chain.
    """
    tensors = load(path)
    weights = {n: t for n, t in tensors.items() if t.dim() in (2, 4) and t.is_floating_point()}
    if not weights:
        raise _C.InvalidArgument(f"eie: expected a file with matrices, got {os.fspath(path)!r}.")
    layers: list[MatrixLayer] = []
    skipped: dict[str, str] = {}
    x = activations if isinstance(activations, torch.Tensor) else None
    names = {name.removesuffix(".weight"): name for name in weights}
    _check_names(activations, names)
    for name, key in names.items():
        weight, bias = weights[key].flatten(1), tensors.get(f"{name}.bias")
        if isinstance(activations, dict):
            if name not in activations:
                skipped[name] = "no activations were given"
                continue
            layers.append(_matrix(name, weight, bias, as_rows(activations[name])[:samples], 1))
        elif activations is None and not _is_shared(weight):
            skipped[name] = _NOT_SHARED
        elif activations is None:
            rows = _random(samples, weight.shape[1], density, seed=len(layers))
            note = f"random activations, {100 * density:.0f} % of them nonzero"
            note += ", one position of a convolution" if weights[key].dim() == 4 else ""
            layers.append(_matrix(name, weight, bias, rows, 1, note))
        else:
            if weights[key].dim() == 4:
                raise _C.InvalidArgument(
                    "eie: expected the file's layers to be matrices, got the convolution "
                    f"{name!r}. "
                    "Simulate the network instead, or name the activations of each layer."
                )
            layers.append(_matrix(name, weight, bias, as_rows(x)[:samples], 1))
            x = outputs(layers[-1])
    return layers, skipped


_NOT_SHARED = "its weights are not shared"


def _why_not(module: nn.Module) -> str:
    """Why a layer is not for the machine; empty when it is."""
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return f"a convolution of {module.groups} groups"
    return "" if _is_shared(module.weight) else _NOT_SHARED


def _is_shared(weight: torch.Tensor) -> bool:
    """By so few values that some number of code bits holds them."""
    return len(weight.detach().unique()) <= 256


def _check_names(activations: Any, names: dict[str, str]) -> None:
    if activations is None or isinstance(activations, torch.Tensor):
        return
    if not isinstance(activations, dict):
        raise _C.InvalidArgument(
            "eie: expected `activations` to be a tensor or a dict of them, got "
            f"{type(activations).__name__}."
        )
    if unknown := sorted(set(activations) - set(names)):
        raise _C.InvalidArgument(
            f"eie: expected `activations` of {', '.join(names)}, got {', '.join(unknown)}."
        )


@contextmanager
def hooked(
    model: nn.Module, names: Collection[str], outputs: Callable[[str, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Within it, ``outputs(name, rows)`` says what those Linear and Conv2d layers give."""

    def replace(name: str, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows, positions = _vectors(module, x)
        found = outputs(name, rows)
        if isinstance(module, nn.Conv2d):
            found = found.view(len(x), positions, -1).transpose(1, 2)
        return found.reshape(y.shape).to(y)

    handles = [
        module.register_forward_hook(lambda m, x, y, name=name: replace(name, m, x[0], y))
        for name, module in _named(model)
        if name in names
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name; that of a layer alone is its kind."""
    for name, module in model.named_modules():
        yield name or type(module).__name__, module


def _vectors(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What the matrix of a layer is multiplied with, and how many of them an input has."""
    if isinstance(module, nn.Linear):
        rows = as_rows(x)
        return rows, max(1, len(rows) // len(x)) if x.dim() > 2 else 1
    padding = module.padding
    if isinstance(padding, str):  # "valid", or "same": on both sides, the odd one behind
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [s for r in reversed(reach) for s in (r // 2, r - r // 2)]
        x = functional.pad(x, sides) if padding == "same" else x
        padding = 0
    elif module.padding_mode != "zeros":
        sides = [s for p in reversed(padding) for s in (p, p)]
        x = functional.pad(x, sides, mode=module.padding_mode)
        padding = 0
    patches = functional.unfold(
        x.detach().to("cpu", torch.float32),
        module.kernel_size,
        dilation=module.dilation,
        padding=padding,
        stride=module.stride,
    )
    return patches.transpose(1, 2).flatten(0, 1).contiguous(), patches.shape[2]


def _matrix(
    name: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    rows: torch.Tensor,
    positions: int,
    note: str = "",
) -> MatrixLayer:
    matrix = weight.detach().to("cpu", torch.float32).flatten(1) + 0.0  # -0.0 is no weight here
    if rows.shape[1] != matrix.shape[1]:
        raise _C.InvalidArgument(
            f"eie: expected `{name}` to get {matrix.shape[1]} activations, got {rows.shape[1]}."
        )
    if not len(rows):
        raise _C.InvalidArgument(f"eie: expected `{name}` to get at least one input, got none.")
    if bias is not None:
        bias = bias.detach().to("cpu", torch.float32).contiguous()
    return MatrixLayer(name, matrix, bias, rows, positions, note)


def _random(inputs: int, cols: int, density: float, seed: int) -> torch.Tensor:
    if not (isinstance(density, (int, float)) and 0 <= density <= 1):
        raise _C.InvalidArgument(f"eie: expected `density` in [0, 1], got {density!r}.")
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(inputs, cols, generator=generator)
    return values * (torch.rand(inputs, cols, generator=generator) < density)
