"""The wheel in another environment, and projects outside that find it with CMake.

Needs the build folder of `make test` (POMONA_BUILD_DIR), so that a wheel takes seconds.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ROOT / "tests" / "install"
BUILD = Path(os.environ.get("POMONA_BUILD_DIR") or ROOT / "build" / sys.implementation.cache_tag)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BUILD / "build.ninja").exists(), reason=f"{BUILD} is not built: run `make build`"
    ),
]


def run(*command: object, cwd: Path | None = None, **variables: str) -> str:
    """What a command prints, run as in a new terminal: nothing of our tree in its environment."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


def make_wheel(folder: Path, *options: str) -> Path:
    """One at a time, whatever test processes there are: they share the build folder."""
    pip = [sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "-w", folder, *options]
    with (BUILD / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(*pip, POMONA_BUILD_DIR=str(BUILD))
    (wheel,) = folder.glob("pomona-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel"), "--no-build-isolation")


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def other_python(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; torch is seen through a .pth file, not copied."""
    folder = tmp_path_factory.mktemp("other") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    return python


def test_wheel_holds_the_package_and_nothing_else(wheel):
    allowed = [
        r"pomona/\w+\.py",
        r"pomona/py\.typed",
        r"pomona/_C\.pyi",
        r"pomona/_C\.[\w-]+\.so",
        r"pomona/lib/libpomona(_core)?\.so",
        r"pomona/include/pomona/\w+\.h",
        r"pomona/share/cmake/pomona/[\w-]+\.cmake",
        r"pomona-[\d.]+\.dist-info/[\w./-]+",
    ]
    entries = zipfile.ZipFile(wheel).namelist()
    assert [e for e in entries if not any(re.fullmatch(a, e) for a in allowed)] == []
    for pattern in allowed:
        assert any(re.fullmatch(pattern, e) for e in entries), f"nothing matches {pattern}"


def test_wheel_holds_every_public_header_and_module(wheel):
    entries = set(zipfile.ZipFile(wheel).namelist())
    headers = {f"pomona/include/pomona/{p.name}" for p in ROOT.glob("csrc/include/pomona/*.h")}
    modules = {f"pomona/{p.name}" for p in ROOT.glob("python/pomona/*.py")}
    assert headers | modules <= entries


def test_wheel_names_no_path_of_the_machine_that_built_it(unpacked):
    paths = {str(ROOT), str(BUILD), sys.prefix, str(Path(sys.prefix).resolve()), str(Path.home())}
    texts = [p for p in unpacked.rglob("*") if p.suffix in (".cmake", ".h", ".py", ".txt", ".pyi")]
    named = {(str(t.relative_to(unpacked)), p) for t in texts for p in paths if p in t.read_text()}
    assert named == set()


def test_libraries_name_no_path_of_the_machine_that_built_them(unpacked):
    for library in unpacked.rglob("*.so"):
        content = library.read_bytes()
        assert [p for p in (str(ROOT), str(BUILD)) if p.encode() in content] == [], library.name


def test_libraries_look_for_others_relative_to_themselves_only(unpacked):
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("there is no readelf (binutils)")
    libraries = sorted(unpacked.rglob("*.so"))
    assert len(libraries) == 3
    for library in libraries:
        found = re.findall(r"R(?:UN)?PATH.*\[(.*)\]", run(readelf, "-d", library))
        assert found, f"{library.name} has no run path"
        assert [p for p in found[0].split(":") if not p.startswith("$ORIGIN")] == []


def test_wheel_works_in_another_environment(other_python, tmp_path):
    program = (
        "import torch, pomona; t = torch.ones(4, 8);"
        "torch.ops.pomona.apply_masks_([t], [torch.full((4, 1), 1, dtype=torch.uint8)]);"
        "print(pomona.__file__, int(t.sum()))"
    )
    where, total = run(other_python, "-c", program, cwd=tmp_path).split()
    assert Path(where).is_relative_to(other_python.parent.parent)
    assert total == "4"


def test_wheel_brings_the_command_pomona(other_python, tmp_path):
    printed = run(other_python.parent / "pomona", "--help", cwd=tmp_path)
    assert "inspect" in printed


def configure_and_run(project: str, folder: Path, *options: str) -> str:
    source = OUTSIDE / project
    run("cmake", "-S", source, "-B", folder, "-G", "Ninja", *options, cwd=folder.parent)
    run("cmake", "--build", folder)
    (program,) = [p for p in folder.glob("outside*") if p.is_file() and os.access(p, os.X_OK)]
    return run(program)


def test_outside_project_finds_the_wheel_links_and_runs(other_python, tmp_path):
    where = run(other_python, "-c", "import pomona; print(pomona.cmake_prefix_path)").strip()
    printed = configure_and_run(
        "operators",
        tmp_path / "build",
        f"-DCMAKE_PREFIX_PATH={where}",
        f"-DPython_EXECUTABLE={other_python}",
    )
    assert "the operator kept 32 of 64, the Pruner 60 of 600" in printed


def test_core_component_needs_no_torch(unpacked, tmp_path):
    folder = tmp_path / "build"
    printed = configure_and_run(
        "core",
        folder,
        f"-DCMAKE_PREFIX_PATH={unpacked / 'pomona/share/cmake'}",
        "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON",
        "-DPOMONA_TORCH_ROOT=/there/is/no/torch",
    )
    assert "kept 1010" in printed
    assert "libtorch" not in (folder / "build.ninja").read_text()


def test_operators_without_torch_say_what_to_do(unpacked, tmp_path):
    options = [f"-DCMAKE_PREFIX_PATH={unpacked / 'pomona/share/cmake'}"]
    options += ["-G", "Ninja", "-DPOMONA_TORCH_ROOT=/there/is/no/torch"]
    command = ["cmake", "-S", str(OUTSIDE / "operators"), "-B", str(tmp_path / "build"), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "expected POMONA_TORCH_ROOT to hold" in " ".join(result.stderr.split())


def test_pip_wheel_as_a_user_types_it(tmp_path):
    """With pip's isolation, which downloads the build's requirements and hides torch."""
    probe = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(tmp_path), "wheel"]
    quick = [*probe, "--timeout", "15", "--retries", "1"]
    if subprocess.run(quick, capture_output=True, check=False).returncode:
        pytest.skip("pip reaches no index here")
    assert make_wheel(tmp_path).stat().st_size > 100_000
