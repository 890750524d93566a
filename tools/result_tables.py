"""Writes the results of benchmarks/results/*.json into documents, between their two markers.

README.md has all of them, docs/kernels.md the ladder. A file of results is one table: {"title",
"date", "machine", "compiler", "commit", "columns": [...], "rows": [[...], ...]}. `--check` writes
nothing and fails when a document is not current. A number is never typed into one by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import generated
from console import ROOT, Stop, fail

# And the stem of the results it has; None: all.
DOCUMENTS = {ROOT / "README.md": None, ROOT / "docs" / "kernels.md": "ladder"}
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
KEYS = ("title", "date", "machine", "compiler", "commit", "columns", "rows")


def tables(folder: Path, stem: str | None = None) -> str:
    """The newest results of each title, as Markdown."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json" if stem is None else f"*-{stem}.json")):
        result = json.loads(path.read_text())
        if missing := [key for key in KEYS if key not in result]:
            raise Stop(f"{path.name}: expected the keys {', '.join(KEYS)}, got none of {missing}.")
        if result["date"] >= newest.get(result["title"], result)["date"]:
            newest[result["title"]] = result
    if not newest:
        return "No results are recorded yet: `make bench` will write them.\n"
    return "\n".join(_table(newest[title]) for title in sorted(newest))


def _table(result: dict[str, Any]) -> str:
    lines = [f"**{result['title']}**", ""]
    lines += ["| " + " | ".join(map(str, result["columns"])) + " |"]
    lines += ["|" + "---|" * len(result["columns"])]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in result["rows"]]
    where = ", ".join(str(result[key]) for key in ("date", "machine", "compiler"))
    lines += ["", f"{where}, commit {result['commit'][:10]}.", ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    try:
        return max(_write(path, stem, arguments) for path, stem in DOCUMENTS.items())
    except Stop as stop:
        return fail(stop)


def _write(path: Path, stem: str | None, arguments: list[str]) -> int:
    parts = re.fullmatch(f"(.*{BEGIN}\n).*?({END}.*)", path.read_text(), re.DOTALL)
    if parts is None:
        raise Stop(f"{path.name}: expected the markers {BEGIN} and {END}, got none.")
    return generated.main(path, parts[1] + tables(RESULTS, stem) + parts[2], arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
