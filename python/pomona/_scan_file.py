"""The file of a sensitivity scan: a comment that says of which scan, then plain CSV.

    # pomona.sensitivity {"metric": "error %", "sparsities": [...], "layers": [...], ...}
    layer,sparsity,kept,size,error %
    (dense),0.0,430500,430500,0.91
    conv1.weight,0.1,450,500,0.93

A scan of bits has "bits" for "sparsity" and "sparsities".

A line is a point, and is written when the point is measured; a last line without its end is one
that was being written when the scan was stopped, and does not count.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from . import _C

MARK = "# pomona.sensitivity "
DENSE = "(dense)"


class Point(NamedTuple):
    """One measurement: only this parameter pruned (or shared), the others as they were."""

    layer: str
    setting: float  # the sparsity, or the bits
    kept: int
    size: int
    metric: float

    @property
    def sparsity(self) -> float:
        """Of a scan of sparsities: of this one."""
        return self.setting

    @property
    def bits(self) -> int:
        """Of a scan of bits: of this one."""
        return int(self.setting)


Identity = dict[str, Any]


def check_folder(what: str, path: str | os.PathLike[str]) -> Path:
    """The path, when a file can be made there.

    Raises:
        InvalidArgument: it is no path, or its folder does not exist.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise _C.InvalidArgument(
            f"{what}: expected a str or a pathlib.Path, got {type(path).__name__}."
        )
    path = Path(path)
    if not path.parent.is_dir():
        raise _C.InvalidArgument(
            f"{what}: expected a file in a folder that exists, got {str(path)!r}. "
            "Make the folder first."
        )
    return path


def lines_of(identity: Identity, points: list[Point]) -> str:
    """The text of a whole file."""
    are_bits = "bits" in identity
    head = MARK + json.dumps(identity) + "\n" + _C.scan_columns(are_bits, identity["metric"])
    return head + "".join(_C.scan_line(are_bits, point) for point in points)


def append(path: Path, identity: Identity, point: Point) -> None:
    """Write one more point, to the disk."""
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(_C.scan_line("bits" in identity, point))
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, text: str) -> None:
    """Write a whole file, in one step: a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(what: str, path: Path) -> tuple[Identity, list[Point]]:
    """Of which scan a file is, and its points.

    Raises:
        InvalidArgument: it is not such a file, or a line of it is damaged.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    complete = text[: text.rfind("\n") + 1]  # without a line that was being written
    head, _, body = complete.partition("\n")
    try:
        if not head.startswith(MARK):
            raise ValueError("its first line is another")
        identity = json.loads(head[len(MARK) :])
        identity["layers"], identity["metric"]
        identity["bits" if "bits" in identity else "sparsities"]
        rows = list(csv.reader(io.StringIO(body)))[1:]
        return identity, [_point(row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise _C.InvalidArgument(
            f"{what}: expected a file of pomona.sensitivity, got {str(path)!r} ({error}). "
            "Name another file or delete it."
        ) from None


def _point(row: list[str]) -> Point:
    layer, setting, kept, size, metric = row
    return Point(layer, float(setting), int(kept), int(size), float(metric))
