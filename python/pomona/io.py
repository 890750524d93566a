"""Smaller: models to ``.pomona`` files and back, bit for bit, without pickle."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import _C
from ._removal import Removal
from ._shell import clean_name
from .nn import PackedLinear
from .report import entries_table, fp32_bytes, ratio, size

__all__ = ["SaveReport", "entries", "load", "load_", "save"]

_log = logging.getLogger("pomona")


@dataclasses.dataclass(frozen=True)
class SaveReport:
    """Where the bytes of a file went; ``str()`` is a table.

    ``entries`` has a row for each tensor; ``file_bytes`` is the size of the file, everything
    counted; ``dense_bytes`` is the size of the tensors as they were in memory.
    """

    path: Path
    entries: list[_C.FileEntry]
    file_bytes: int
    dense_bytes: int

    @property
    def fp32_bytes(self) -> int:
        """What the tensors take with every floating-point number in 32 bits."""
        return fp32_bytes(self.entries)

    @property
    def ratio(self) -> float:
        """How many times smaller than fp32 the file is."""
        return self.fp32_bytes / self.file_bytes

    def __str__(self) -> str:
        """A table of plain text."""
        summary = f"{self.path}: {size(self.file_bytes)}, {ratio(self.fp32_bytes, self.file_bytes)}"
        return f"{entries_table(self.entries, self.file_bytes)}\n{summary} smaller than fp32"


def save(
    model: nn.Module | Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    gap_bits: int = 0,
    original: Removal | None = None,
) -> SaveReport:
    """Write a model's tensors to a ``.pomona`` file: zeros as gaps, few distinct values as a
    codebook, Huffman codes.

    Everything in ``state_dict()`` is saved under its name, without the prefixes of wrappers
    (DistributedDataParallel, torch.compile); tied parameters under each of their names. The file
    replaces an older one in one step, when it is complete and on the disk. The report is logged to
    the logger ``pomona`` at INFO.

    Args:
        model: a module, or tensors by name. Of a module NaN and Inf are refused in parameters
            (buffers may hold them); tensors by name are saved as they are.
        path: the file.
        gap_bits: width of a gap between nonzeros, 2 to 8 (thesis: 5 for fc, 8 for conv layers); 0
            finds the best for each tensor.
        original: what ``remove_dead_`` has removed from the model: the file then holds the original
            network, with zeros where something left.

    Returns:
        Where the bytes went; ``print`` it.

    Raises:
        InvalidArgument: NaN or Inf in a parameter (all are named), something that is no dense
            tensor, a dtype that a file cannot hold, a name that stands twice, wrong ``gap_bits``,
            an ``original`` that does not fit.
        OSError: no permission, disk full, ... An existing file is then as it was.

    Reference:
        Thesis §4.5: relative indices with fillers, Huffman codes.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> report = save(torch.nn.Linear(4, 2), folder / "net.pomona")
        >>> sorted(load(folder / "net.pomona"))
        ['bias', 'weight']
    """
    tensors, _ = _contents(model, "save")
    if not isinstance(gap_bits, int) or isinstance(gap_bits, bool):
        raise _C.InvalidArgument(
            f"save: expected `gap_bits` to be 0 or an integer in 2..8, got {gap_bits!r}."
        )
    file = _path(path, "save")
    if isinstance(model, nn.Module):
        parameters = [(name, value) for name, value in tensors if isinstance(value, nn.Parameter)]
        _C.check_finite(parameters)
        _warn_of_negative_zeros(parameters)
    if original is not None:
        tensors = _original(tensors, original)
    report = SaveReport(Path(file), *_C.save(tensors, file, gap_bits))
    _log.info("saved\n%s", report)
    return report


def load(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a ``.pomona`` file by name, in the order written, on the CPU.

    Args:
        path: the file.

    Raises:
        CorruptFile: not a pomona file, cut short or damaged; the message names the section and the
            byte.
        InvalidArgument: written by a newer version.
        OSError: no such file, no permission, ...
    """
    return dict(_C.load(_path(path, "load")))


def load_(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Copy a ``.pomona`` file into a model, in place: optimizers and hooks stay valid.

    The file must hold exactly the model's ``state_dict()``: names (without the prefixes of
    wrappers), shapes and dtypes. The whole file is read and compared before anything is written.

    Args:
        model: where the tensors go, on any device.
        path: the file.

    Raises:
        InvalidArgument: names, shapes or dtypes do not fit (all are listed), or the file was
            written by a newer version.
        CorruptFile: not a pomona file, cut short or damaged.
        OSError: no such file, no permission, ... The model is as it was after any error.
    """
    if not isinstance(model, nn.Module):
        raise _C.InvalidArgument(
            f"load_: expected `model` to be a torch.nn.Module, got {type(model).__name__}."
        )
    targets, packed = _contents(model, "load_")
    loaded = _C.load(_path(path, "load_"))
    to_pack = {name for name, _, _ in packed}
    for name, tensor in loaded:
        if name in to_pack and not tensor.isfinite().all():
            raise _C.InvalidArgument(
                f"load_: expected `{name}` to be finite, as a packed layer needs, got NaN or Inf."
            )
    _C.copy_(targets, loaded)
    for _, layer, dense in packed:
        layer.pack_weight_(dense)


def entries(path: str | os.PathLike[str]) -> list[_C.FileEntry]:
    """What a ``.pomona`` file holds, tensor by tensor, from its directory alone: nothing is
    decoded.

    Args:
        path: the file.

    Raises:
        CorruptFile, InvalidArgument, OSError: as :func:`load`.
    """
    return _C.list_file(_path(path, "entries"))[0]


def _path(path: str | os.PathLike[str], what: str) -> str:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise _C.InvalidArgument(
            f"{what}: expected `path` to be a str or a pathlib.Path, got {type(path).__name__}."
        )
    return os.fspath(path)


Tensors = list[tuple[str, torch.Tensor]]
Packed = list[tuple[str, PackedLinear, torch.Tensor]]


def _contents(model: Any, what: str) -> tuple[Tensors, Packed]:
    """(clean name, tensor) of everything that a file holds of a model, and its packed layers.

    A packed layer stands there with its dense weight, under the name that it has in the dense
    layer: packed bytes are made for one machine and one version.
    """
    layers: dict[str, PackedLinear] = {}
    if isinstance(model, nn.Module):
        for prefix, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, PackedLinear):
                layers[f"{prefix}.packed" if prefix else "packed"] = module
        model = model.state_dict(keep_vars=True)
    if not isinstance(model, Mapping):
        raise _C.InvalidArgument(
            f"{what}: expected `model` to be a torch.nn.Module or a dict of tensors, "
            f"got {type(model).__name__}."
        )
    tensors: Tensors = []
    packed: Packed = []
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise _C.InvalidArgument(
                f"{what}: expected tensors by name, got {type(value).__name__} for {name!r}."
            )
        if layer := layers.get(name):
            name, value = f"{name.removesuffix('packed')}weight", layer.weight
            packed.append((clean_name(name), layer, value))
        tensors.append((clean_name(name), value))
    return tensors, packed


def _original(tensors: Tensors, removal: Any) -> Tensors:
    """The tensors of the network as it was before a removal."""
    if not isinstance(removal, Removal):
        raise _C.InvalidArgument(
            "save: expected `original` to be what remove_dead_ has returned, "
            f"got {type(removal).__name__}."
        )
    expanded = removal.expand(dict(tensors))
    return [(name, expanded[name]) for name, _ in tensors]


def _warn_of_negative_zeros(parameters: Tensors) -> None:
    """A mask that is multiplied onto weights leaves -0.0, which is no zero to a file."""
    for name, value in parameters:
        if value.dim() >= 2 and value.is_floating_point():
            count = int(((value == 0) & value.signbit()).sum())
            if count:
                _log.warning(
                    "save: `%s` holds %d zeros with a minus sign (a mask that is multiplied onto "
                    "weights leaves them); they come back bit for bit and cost as much as other "
                    "weights. Clear them with `weight.data.add_(0.0)`.",
                    name,
                    count,
                )
