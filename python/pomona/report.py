"""Tables of plain text, and the words in them: one renderer for save, pack_ and the command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = Sequence[str]


def text_table(columns: Row, rows: Sequence[Row], totals: Row | None = None) -> str:
    """Columns set under their names, the first flush left, the others flush right.

    Args:
        columns: the names of the columns.
        rows: cells, as many in each row as there are columns.
        totals: a last row, set off by a line.

    Example:
        >>> print(text_table(["layer", "bytes"], [["fc1", "12"], ["fc2", "7"]], ["all", "19"]))
        layer  bytes
        fc1       12
        fc2        7
        ------------
        all       19
    """
    body = [*rows, totals] if totals is not None else list(rows)
    widths = [max(map(len, cells)) for cells in zip(columns, *body, strict=True)]
    lines = ["  ".join(_set(row, widths)).rstrip() for row in (columns, *body)]
    if totals is not None:
        lines.insert(-1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def _set(row: Row, widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def size(count: int) -> str:
    """Bytes: ``"912 B"``, ``"27.2 kB"``, ``"6.90 MB"`` (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    power = min(4, max(1, (len(str(count)) - 1) // 3))
    amount = count / 1000**power
    digits = 2 if amount < 10 else 1 if amount < 100 else 0
    return f"{amount:.{digits}f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def percent(part: float, whole: float) -> str:
    """``"8.0 %"``; empty when there is nothing to divide by."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def ratio(large: float, small: float) -> str:
    """``"39.2x"``; empty when there is nothing to divide by."""
    return f"{large / small:.1f}x" if small else ""


def shape_text(shape: Sequence[int]) -> str:
    """``"300x784"``; ``"scalar"`` without dimensions."""
    return "x".join(map(str, shape)) or "scalar"


def fp32_bytes(entries: Sequence[Any]) -> int:
    """Bytes of the entries with 32 bits for every floating-point number; others as they are."""
    return sum(e.numel * (4 if e.is_floating else e.item_size) for e in entries)


def entries_table(entries: Sequence[Any], file_bytes: int) -> str:
    """Where the bytes of a file go, a row for each tensor, and the whole file in the last row.

    Bits are per kept weight: of its position (gaps, fillers and their table) and of its code or
    value; beside them what they are coded with. Codebooks count in the bytes and in the ratio. The
    last row counts the header and the directory too.
    """
    columns = [
        "tensor",
        "shape",
        "dtype",
        "kept",
        "centroids",
        "positions",
        "bits",
        "codes",
        "bits",
        "bytes",
        "fp32 ratio",
    ]
    numel = sum(e.numel for e in entries)
    kept = sum(e.kept for e in entries)
    totals = [
        "whole file",
        "",
        "",
        percent(kept, numel),
        "",
        "",
        _bits(sum(e.position_bytes for e in entries), kept),
        "",
        _bits(sum(e.code_bytes + e.value_bytes for e in entries), kept),
        str(file_bytes),
        ratio(fp32_bytes(entries), file_bytes),
    ]
    return text_table(columns, [_entry_cells(e) for e in entries], totals)


def _entry_cells(entry: Any) -> list[str]:
    return [
        entry.name,
        shape_text(entry.shape),
        entry.dtype,
        percent(entry.kept, entry.numel),
        str(entry.centroids or "-"),
        _positions(entry),
        _bits(entry.position_bytes, entry.kept),
        entry.code_coder or "-",
        _bits(entry.code_bytes + entry.value_bytes, entry.kept),
        str(entry.bytes),
        ratio(fp32_bytes([entry]), entry.bytes),
    ]


def _positions(entry: Any) -> str:
    """``"huffman 5"``: gaps of 5 bits."""
    if entry.positions == "gaps":
        return f"{entry.position_coder} {entry.gap_bits}"
    return "-" if entry.positions == "none" else str(entry.positions)


def _bits(count: int, kept: int) -> str:
    return f"{8 * count / kept:.2f}" if kept and count else "-"
