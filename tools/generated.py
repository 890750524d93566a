"""Writes a generated document, or says that it is not current."""

from __future__ import annotations

import sys
from pathlib import Path

from console import ROOT


def main(path: Path, text: str, arguments: list[str]) -> int:
    """Write `text` to `path`, or with `--check` compare them; the exit status."""
    old = path.read_text() if path.exists() else None
    if old == text:
        return 0
    if "--check" in arguments:
        print(f"{path.relative_to(ROOT)} is not current: run `make format`.", file=sys.stderr)
        return 1
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(f"wrote {path.relative_to(ROOT)}")
    return 0
