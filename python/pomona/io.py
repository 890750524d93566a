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
from ._shell import clean_name
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

    Returns:
        Where the bytes went; ``print`` it.

    Raises:
        InvalidArgument: NaN or Inf in a parameter (all are named), something that is no dense
            tensor, a dtype that a file cannot hold, a name that stands twice, wrong ``gap_bits``.
        OSError: no permission, disk full, ... An existing file is then as it was.

    Reference:
        Thesis §4.5: relative indices with fillers, Huffman codes.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> report = save(torch.nn.Linear(4, 2), folder / "net.pomona")
        >>> sorted(load(folder / "net.pomona"))
        ['bias', 'weight']
    """
    tensors = _tensors(model, "save", keep_vars=True)
    if isinstance(model, nn.Module):
        parameters = [(name, value) for name, value in tensors if isinstance(value, nn.Parameter)]
        _C.check_finite(parameters)
    if not isinstance(gap_bits, int) or isinstance(gap_bits, bool):
        raise _C.InvalidArgument(
            f"save: expected `gap_bits` to be 0 or an integer in 2..8, got {gap_bits!r}."
        )
    report = SaveReport(Path(path), *_C.save(tensors, _path(path, "save"), gap_bits))
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
    targets = _tensors(model, "load_", keep_vars=True)
    _C.copy_(targets, _C.load(_path(path, "load_")))


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


def _tensors(model: Any, what: str, keep_vars: bool) -> list[tuple[str, torch.Tensor]]:
    """(clean name, tensor) of everything in a module's state_dict or a mapping."""
    if isinstance(model, nn.Module):
        model = model.state_dict(keep_vars=keep_vars)
    if not isinstance(model, Mapping):
        raise _C.InvalidArgument(
            f"{what}: expected `model` to be a torch.nn.Module or a dict of tensors, "
            f"got {type(model).__name__}."
        )
    tensors = []
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise _C.InvalidArgument(
                f"{what}: expected tensors by name, got {type(value).__name__} for {name!r}."
            )
        tensors.append((clean_name(name), value))
    return tensors
