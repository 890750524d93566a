"""The virtual environment: made once, recognised in milliseconds, repaired when left half made.

`.venv` belongs to the pinned torch, `.venv-torch2.11.0` to TORCH=2.11.0. A stamp, written last,
holds the Python's version and the hash of the requirements. A `.venv` that is a symbolic link is
borrowed: used as it is, never changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import machine
from console import ROOT, Stop, output, say, step

REQUIREMENTS = ROOT / "requirements"
INSTALL_SECONDS = 45 * 60.0
# Not sys.executable: that may stand in the very environment that has to be made anew.
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)


@dataclass(frozen=True)
class Environment:
    """A Python with everything installed, and the name that its build folders carry."""

    python: Path
    variant: str  # "" for the pinned torch
    is_borrowed: bool

    @property
    def folder(self) -> Path:
        """The virtual environment's folder."""
        return self.python.parent.parent

    def variables(self) -> dict[str, str]:
        """The process environment: its programs and this tree's package come first."""
        path = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        inherited = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PYTHONHOME", "PYTHON", "TORCH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        }
        return inherited | {
            "PATH": path,
            "VIRTUAL_ENV": str(self.folder),
            "PYTHONPATH": str(ROOT / "python"),
            "PYTHONNOUSERSITE": "1",
            "CCACHE_BASEDIR": os.environ.get("CCACHE_BASEDIR", str(ROOT)),
            "CCACHE_NOHASHDIR": os.environ.get("CCACHE_NOHASHDIR", "1"),
        }


def ready() -> Environment:
    """The environment, made or repaired when it has to be.

    Raises:
        Stop: something is missing that only the user can install.
    """
    torch, variant = _torch()
    folder = ROOT / (f".venv-{variant}" if variant else ".venv")
    environment = Environment(folder / "bin" / "python", variant, folder.is_symlink())
    if environment.is_borrowed:
        if not _works(environment.python):
            raise Stop(f"expected {folder.name} to lead to a virtual environment, got a dead link.")
        return environment
    wanted = {"python": _version(environment.python), "requirements": _digest(torch)}
    if wanted["python"] and wanted == _stamp(folder) and not _other_python_asked(wanted["python"]):
        return environment
    _make(environment, torch)
    wanted["python"] = _version(environment.python)
    _stamp_path(folder).write_text(json.dumps(wanted))
    return environment


def _torch() -> tuple[list[str], str]:
    """(pip's words for torch, the variant's name) as TORCH asks."""
    pinned = (REQUIREMENTS / "torch.txt").read_text()
    version = os.environ.get("TORCH", "").strip()
    if not version or f"torch=={version};" in pinned.splitlines()[1]:
        return ["-r", str(REQUIREMENTS / "torch.txt")], ""
    return [f"torch=={version}"], f"torch{version}"


def _digest(torch: list[str]) -> str:
    texts = [(REQUIREMENTS / name).read_text() for name in ("dev.txt", "torch.txt")]
    return hashlib.sha256("\n".join([*texts, *torch[-1:]]).encode()).hexdigest()[:16]


def _stamp_path(folder: Path) -> Path:
    return folder / "pomona-setup.json"


def _stamp(folder: Path) -> dict[str, str]:
    try:
        return json.loads(_stamp_path(folder).read_text())
    except (OSError, ValueError):
        return {}


def _version(python: Path) -> str:
    """For example 3.11.7; empty when that Python does not run."""
    program = "import platform; print(platform.python_version())"
    return (output([python, "-c", program]) or "") if python.exists() else ""


def _works(python: Path) -> bool:
    return bool(_version(python)) and output([python, "-m", "pip", "--version"]) is not None


def _other_python_asked(version: str) -> bool:
    """Whether the user named a PYTHON of another minor version than the environment's."""
    asked = sys.version_info[:2]
    return bool(os.environ.get("PYTHON")) and version.split(".")[:2] != [str(n) for n in asked]


def _make(environment: Environment, torch: list[str]) -> None:
    folder = environment.folder
    _check_headers()
    version = _version(environment.python)
    if folder.exists() and (not _works(environment.python) or _other_python_asked(version)):
        say(f"{folder.name} is broken or of another Python; making it anew")
        shutil.rmtree(folder)
    if not folder.exists():
        _create(folder)
    _stamp_path(folder).unlink(missing_ok=True)
    _forget_half_installed(folder)
    _pip(environment, torch)
    if output([environment.python, "-c", "import torch, numpy, pytest"], timeout=300) is None:
        say(f"{folder.name} does not import torch; making it anew")
        shutil.rmtree(folder)
        _create(folder)
        _pip(environment, torch)


def _pip(environment: Environment, torch: list[str]) -> None:
    step(
        f"installing torch and tools into {environment.folder.name} (some 4.7 GB; minutes)",
        [
            *(environment.python, "-m", "pip", "install", "--no-input", "--progress-bar=off"),
            *("--retries=2", "--disable-pip-version-check"),
            *(*torch, "-r", REQUIREMENTS / "dev.txt"),
        ],
        log="pip",
        timeout=INSTALL_SECONDS,
    )


def _create(folder: Path) -> None:
    """`python -m venv`, after installing what Debian leaves out of Python."""
    if output([BASE_PYTHON, "-c", "import venv, ensurepip"]) is None:
        _require_debian("venv", "the module venv")
    say(f"making {folder.name} with Python {sys.version.split()[0]}")
    result = subprocess.run(
        [BASE_PYTHON, "-m", "venv", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise Stop(f"`{BASE_PYTHON} -m venv` failed:\n{result.stdout}{result.stderr}")


def _check_headers() -> None:
    """Python.h, which the module _C needs and which Debian keeps in a package of its own."""
    program = "import sysconfig; print(sysconfig.get_path('include'))"
    include = Path(output([BASE_PYTHON, "-c", program]) or "")
    if not (include / "Python.h").exists():
        _require_debian("dev", "the header Python.h")


def _require_debian(part: str, what: str) -> None:
    """Install `python3.X-<part>`, when the Python is Debian's own."""
    if Path(sys.base_prefix) != Path("/usr"):
        raise Stop(f"{what} is missing from {BASE_PYTHON}. Name another Python: make PYTHON=...")
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-{part}"
    machine.require([package], f"{what} of {BASE_PYTHON}")


def _forget_half_installed(folder: Path) -> None:
    # pip writes RECORD last: a package without it was cut off, and pip would take it for installed.
    for info in folder.glob("lib/python3*/site-packages/*.dist-info"):
        if not (info / "RECORD").exists():
            shutil.rmtree(info)
