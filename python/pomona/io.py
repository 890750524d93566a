"""Smaller: models to ``.pomona`` files and back, bit for bit, without pickle."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import _C
from ._packed_base import PackedLayer
from ._progress import progress_bar
from ._removal import Removal
from ._shell import clean_name
from .report import entries_table, fp32_bytes, ratio, size

__all__ = ["File", "SaveReport", "compressed_size", "entries", "load", "load_", "save"]

CODINGS = ("smallest", "fast", "huffman", "rans", "context")

_log = logging.getLogger("pomona")


@dataclasses.dataclass(frozen=True)
class SaveReport:
    """Where the bytes of a file went; ``str()`` is a table.

    ``entries`` has a row for each tensor; ``file_bytes`` is the size of the file, everything
    counted; ``dense_bytes`` is the size of the tensors as they were in memory.
    """

    path: Path | None
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
        where = "in all" if self.path is None else self.path
        summary = f"{where}: {size(self.file_bytes)}, {ratio(self.fp32_bytes, self.file_bytes)}"
        return f"{entries_table(self.entries, self.file_bytes)}\n{summary} smaller than fp32"


def save(
    model: nn.Module | Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    coding: str = "smallest",
    gap_bits: int = 0,
    metadata: Mapping[str, Any] | None = None,
    original: Removal | None = None,
    progress: bool = False,
) -> SaveReport:
    """Write a model's tensors to a ``.pomona`` file: the positions of nonzeros, few distinct values
    as a codebook, the rest without loss, all entropy-coded.

    Everything in ``state_dict()`` is saved under its name, without the prefixes of wrappers
    (DistributedDataParallel, torch.compile); tied parameters under each of their names. The file
    replaces an older one in one step, when it is complete and on the disk. The report is logged to
    the logger ``pomona`` at INFO.

    Args:
        model: a module, or tensors by name. Of a module NaN and Inf are refused in parameters
            (buffers may hold them); tensors by name are saved as they are.
        path: the file.
        coding: ``"smallest"`` takes for each tensor whatever is smallest, an adaptive context coder
            included (some ten million weights a second and core, to write and to read);
            ``"fast"`` leaves that one out (a billion a second); ``"huffman"`` is the thesis: gaps
            with fillers and codes, both Huffman-coded; ``"rans"`` and ``"context"`` take these
            coders only.
        gap_bits: width of a gap between nonzeros, 2 to 16 (thesis: 5 for fc, 8 for conv layers); 0
            finds the best for each tensor.
        metadata: anything JSON can hold, read back with ``File(path).metadata``.
        original: what ``remove_dead_`` has removed from the model: the file then holds the original
            network, with zeros where something left.
        progress: show a progress bar on the terminal.

    Returns:
        Where the bytes went; ``print`` it.

    Raises:
        InvalidArgument: NaN or Inf in a parameter (all are named), something that is no dense
            tensor, a dtype that a file cannot hold, a name that stands twice, another ``coding`` or
            ``gap_bits``, ``metadata`` that is no JSON, an ``original`` that does not fit.
        OSError: no permission, disk full, ... An existing file is then as it was.

    Reference:
        Thesis §4.5: relative indices with fillers, Huffman codes.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> report = save(torch.nn.Linear(4, 2), folder / "net.pomona")
        >>> sorted(load(folder / "net.pomona"))
        ['bias', 'weight']
    """
    tensors = _to_save(model, coding, gap_bits, original, "save")
    file = _path(path, "save")
    text = _json_text(metadata)
    with progress_bar("save", len(tensors), show=progress) as advance:
        saved = _C.save(tensors, file, coding, gap_bits, text, advance if progress else None)
    report = SaveReport(Path(file), *saved)
    _log.info("saved\n%s", report)
    return report


def compressed_size(
    model: nn.Module | Mapping[str, torch.Tensor], *, coding: str = "smallest", gap_bits: int = 0
) -> SaveReport:
    """What :func:`save` would write, layer by layer, without a file.

    Args:
        model: a module, or tensors by name.
        coding: as for :func:`save`.
        gap_bits: as for :func:`save`.

    Returns:
        A report whose ``file_bytes`` is the bytes of all tensors (without header and directory,
        some thirty a tensor) and whose ``path`` is None.

    Raises:
        InvalidArgument: as :func:`save`.

    Example:
        >>> report = compressed_size({"w": torch.zeros(1000, 1000)})
        >>> report.file_bytes
        0
    """
    tensors = _to_save(model, coding, gap_bits, None, "compressed_size")
    entries = _C.coded_entries(tensors, coding, gap_bits)
    dense = sum(tensor.numel() * tensor.element_size() for _, tensor in tensors)
    return SaveReport(None, entries, sum(entry.bytes for entry in entries), dense)


def load(path: str | os.PathLike[str], *, progress: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a ``.pomona`` file by name, in the order written, on the CPU.

    They are decoded on torch's threads straight into their memory; beside them it takes a few
    megabytes.

    Args:
        path: the file.
        progress: show a progress bar on the terminal.

    Raises:
        CorruptFile: not a pomona file, cut short or damaged; the message names the section and the
            byte.
        InvalidArgument: written by a newer version.
        OSError: no such file, no permission, ...
    """
    file = _path(path, "load")
    if not progress:
        return dict(_C.load(file, None))
    with _byte_bar("load", _C.FileReader(file).entries) as advance:
        return dict(_C.load(file, advance))


def load_(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Copy a ``.pomona`` file into a model, in place: optimizers and hooks stay valid.

    The file must hold exactly the model's ``state_dict()``: names (without the prefixes of
    wrappers), shapes and dtypes. The whole file is decoded and compared before anything is written;
    beside the model it takes at most 64 MB.

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
    _C.load_(targets, _path(path, "load_"), {name for name, _, _ in packed})
    for _, layer, dense in packed:
        layer.pack_weight_(dense)


class File(Mapping[str, torch.Tensor]):
    """A ``.pomona`` file as a mapping from names to tensors, each decoded when it is asked for.

    Only the header and the directory are read when it is opened. It may be used by many threads.

    Args:
        path: the file.

    Raises:
        CorruptFile, InvalidArgument, OSError: as :func:`load`.

    Example:
        >>> path = getfixture("tmp_path") / "net.pomona"
        >>> _ = save({"w": torch.eye(3)}, path, metadata={"accuracy": 0.98})
        >>> file = File(path)
        >>> file["w"].shape, file.metadata
        (torch.Size([3, 3]), {'accuracy': 0.98})
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it and read its directory."""
        self.path = Path(_path(path, "File"))
        self._reader = _C.FileReader(self.path)
        self._entries = {entry.name: entry for entry in self._reader.entries}

    @property
    def entries(self) -> list[_C.FileEntry]:
        """What it holds, tensor by tensor, and where the bytes go."""
        return list(self._entries.values())

    @property
    def metadata(self) -> Any:
        """What ``save(..., metadata=...)`` was given; None when it was given nothing."""
        text = self._reader.metadata
        return json.loads(text) if text else None

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._reader.size

    def __getitem__(self, name: str) -> torch.Tensor:
        """Decode one tensor; raises KeyError for a name that is not there."""
        if name not in self._entries:
            raise KeyError(name)
        return self._reader.read(name)

    def __iter__(self) -> Iterator[str]:
        """The names, in the order written."""
        return iter(self._entries)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._entries)

    def shared(self, name: str) -> tuple[torch.Tensor, torch.Tensor, _C.Mask] | None:
        """One tensor as it is stored: (codebook [groups, centroids] float32, codes uint8 [kept],
        mask of numel bits); None when it has no codebook.

        Raises:
            KeyError: no such name.
        """
        if name not in self._entries:
            raise KeyError(name)
        return self._reader.read_shared(name)

    def verify(self, *, progress: bool = False) -> None:
        """Decode everything once and let it go.

        Raises:
            CorruptFile: a checksum is wrong or a stream cannot be decoded.
        """
        if not progress:
            return self._reader.verify()
        with _byte_bar("verify", self.entries) as advance:
            return self._reader.verify(advance)

    def __repr__(self) -> str:
        """Path, tensors and size."""
        return f"File({str(self.path)!r}, {len(self)} tensors, {size(self.size)})"


def entries(path: str | os.PathLike[str]) -> list[_C.FileEntry]:
    """What a ``.pomona`` file holds, tensor by tensor, from its directory alone: nothing is
    decoded.

    Args:
        path: the file.

    Raises:
        CorruptFile, InvalidArgument, OSError: as :func:`load`.
    """
    return File(_path(path, "entries")).entries


def _path(path: str | os.PathLike[str], what: str) -> str:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise _C.InvalidArgument(
            f"{what}: expected `path` to be a str or a pathlib.Path, got {type(path).__name__}."
        )
    return os.fspath(path)


def _json_text(metadata: Mapping[str, Any] | None) -> str:
    if metadata is None:
        return ""
    try:
        return json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise _C.InvalidArgument(
            f"save: expected `metadata` that JSON can hold, got {error}."
        ) from error


@contextmanager
def _byte_bar(title: str, entries: list[_C.FileEntry]) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of tensors."""
    total = sum(entry.numel * entry.item_size for entry in entries)
    shown = 0
    with progress_bar(title, 100) as advance:

        def to(done: int) -> None:
            nonlocal shown
            while shown < 100 * done // max(total, 1):
                shown += 1
                advance(f"{size(done)} of {size(total)}")

        yield to


Tensors = list[tuple[str, torch.Tensor]]
Packed = list[tuple[str, PackedLayer, torch.Tensor]]


def _contents(model: Any, what: str) -> tuple[Tensors, Packed]:
    """(clean name, tensor) of everything that a file holds of a model, and its packed layers.

    A packed layer stands there with its dense weight, under the name that it has in the dense
    layer: packed bytes are made for one machine and one version.
    """
    layers: dict[str, PackedLayer] = {}
    if isinstance(model, nn.Module):
        for prefix, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, PackedLayer):
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


def _to_save(
    model: Any, coding: str, gap_bits: int, original: Removal | None, what: str
) -> Tensors:
    """What a file would hold, checked."""
    tensors, _ = _contents(model, what)
    if coding not in CODINGS:
        raise _C.InvalidArgument(
            f"{what}: expected `coding` to be one of {', '.join(CODINGS)}, got {coding!r}."
        )
    if not isinstance(gap_bits, int) or isinstance(gap_bits, bool):
        raise _C.InvalidArgument(
            f"{what}: expected `gap_bits` to be 0 or an integer in 2..16, got {gap_bits!r}."
        )
    if isinstance(model, nn.Module):
        parameters = [(name, value) for name, value in tensors if isinstance(value, nn.Parameter)]
        _C.check_finite(parameters)
        _warn_of_negative_zeros(parameters)
    return tensors if original is None else _original(tensors, original)


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
