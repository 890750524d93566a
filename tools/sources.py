"""Which files are ours: those that git tracks, or would."""

from __future__ import annotations

from pathlib import Path

from console import ROOT, output

CPP_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
SKIPPED = ("build/", ".venv", "dist/", "python/pomona/include/")
GENERATORS = [ROOT / "tools" / "thesis_map.py", ROOT / "tools" / "result_tables.py"]


def ours() -> list[Path]:
    """Every file of the project, by path relative to its root; also without git."""
    listed = output(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"])
    if listed is None:
        found = (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file())
        names = [str(path) for path in found if not str(path).startswith(SKIPPED)]
    else:
        names = listed.splitlines()
    return sorted(Path(name) for name in names if (ROOT / name).is_file())


def cpp() -> list[Path]:
    """The C++ and CUDA files."""
    return [path for path in ours() if path.suffix in CPP_SUFFIXES]
