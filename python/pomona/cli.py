"""The command ``pomona``: look into a compressed file without writing a program."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import _C
from .report import entries_table, fp32_bytes, ratio, size

_FIELDS = (
    "name",
    "dtype",
    "shape",
    "numel",
    "kept",
    "centroids",
    "gap_bits",
    "fillers",
    "offset",
    "codebook_bytes",
    "position_bytes",
    "code_bytes",
    "value_bytes",
    "bytes",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a file that cannot be read, 2 for usage."""
    parsed = _parser().parse_args(arguments)
    try:
        entries, file_bytes = _C.list_file(parsed.file, verify=True)
        text = (
            _json(parsed.file, entries, file_bytes) if parsed.json else _text(entries, file_bytes)
        )
    except (_C.CorruptFile, _C.InvalidArgument) as error:
        return _fail(f"{parsed.file}: {error}")
    except OSError as error:
        return _fail(f"{parsed.file}: {os.strerror(error.errno) if error.errno else error}")
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pomona", description="Compressed model files.")
    parser.add_argument("--version", action="version", version=f"pomona {_C.version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser(
        "inspect",
        help="check a file and show where its bytes go",
        description="Checks every checksum of a file and shows where its bytes go.",
    )
    inspect.add_argument("file", metavar="FILE", help="a .pomona file")
    inspect.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


def _text(entries: Sequence[Any], file_bytes: int) -> str:
    dense = fp32_bytes(entries)
    return (
        f"{entries_table(entries, file_bytes)}\n"
        f"{len(entries)} tensors in {size(file_bytes)}, {size(dense)} as fp32"
        f" ({ratio(dense, file_bytes)} smaller); every checksum is right"
    )


def _json(file: str, entries: Sequence[Any], file_bytes: int) -> str:
    dense = fp32_bytes(entries)
    tensors = [{field: getattr(entry, field) for field in _FIELDS} for entry in entries]
    facts = {
        "file": file,
        "bytes": file_bytes,
        "fp32_bytes": dense,
        "ratio": dense / file_bytes,
        "tensors": tensors,
    }
    return json.dumps(facts, indent=2)


def _fail(message: str) -> int:
    print(f"pomona: {' '.join(message.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
