"""The build folders: which there are, how each is configured, what is installed into python/pomona.

    build/core           the torch-free half with AddressSanitizer and UBSan
    build/cpython-311    everything, for the pinned torch (pip uses the same folder)
    build/cpython-311-cpu, -torch2.11.0, ...   the same, for another choice
    build/fuzz           the torch-free half for libFuzzer, by clang
    build/gpu            `make gpu`: the system's Python, no tests in C++

python/pomona holds the libraries of the folder that was built last.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import machine
from console import ROOT, output, say, step
from environment import Environment

PACKAGE = ROOT / "python" / "pomona"
BUILD_SECONDS = 60 * 60.0
# What the Python package needs; `make test` and `make build` build everything.
HEADER_CHECK = "all_verify_interface_header_sets"  # every public header compiles on its own
LIBRARY_TARGETS = ("pomona_core", "pomona", "pomona_C")


def core(env: Mapping[str, str]) -> Path:
    """Build the torch-free half under sanitizers; its folder."""
    folder = ROOT / "build" / "core"
    options = {"POMONA_TORCH": "OFF", "POMONA_SANITIZE": "address,undefined"}
    _configure(folder, options | _warnings(), env)
    _build(folder, env, "the torch-free half, with sanitizers", ("all", HEADER_CHECK))
    return folder


def fuzzers(env: Mapping[str, str]) -> list[Path]:
    """Build the fuzzers where there is a clang with libFuzzer; the programs."""
    clang = next((c for c in ("clang++", "clang++-14") if has_libfuzzer(c)), None)
    if clang is None:
        say("there is no clang with libFuzzer (clang-14, libclang-rt-14-dev); going on without")
        return []
    folder = ROOT / "build" / "fuzz"
    options = {
        "POMONA_TORCH": "OFF",
        "POMONA_TESTS": "OFF",
        "POMONA_EXAMPLES": "OFF",
        "POMONA_FUZZ": "ON",
        "POMONA_SANITIZE": "address,undefined",
        "CMAKE_CXX_COMPILER": clang,
    }
    _configure(folder, options, env)
    _build(folder, env, "the fuzzers")
    return sorted(path for path in (folder / "tests/fuzz").glob("fuzz_*") if path.is_file())


def has_libfuzzer(compiler: str) -> bool:
    """Whether a fuzzer can be compiled and linked."""
    if not machine.has(compiler):
        return False
    source = (
        'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) {return 0;}'
    )
    command = [compiler, "-fsanitize=fuzzer", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0


def full(environment: Environment, *, tests: bool) -> Path:
    """Build the library, with its C++ tests and examples or without, and install it; its folder."""
    env = environment.variables()
    tag = output([environment.python, "-c", "import sys; print(sys.implementation.cache_tag)"])
    cuda = os.environ.get("POMONA_CUDA", "").strip() or "AUTO"
    choice = {"AUTO": [], "0": ["cpu"], "OFF": ["cpu"]}.get(cuda, ["cuda"])
    name = "-".join([str(tag), *([environment.variant] if environment.variant else []), *choice])
    folder = ROOT / "build" / name
    options = {
        "Python_EXECUTABLE": str(environment.python),
        "POMONA_CUDA": cuda,
        "POMONA_TESTS": "ON" if tests or has_googletest(folder) else "OFF",
    }
    _configure(folder, options | _warnings(), env)
    _build(folder, env, "the library", ("all", HEADER_CHECK) if tests else LIBRARY_TARGETS)
    _install(folder, env)
    if not environment.is_borrowed:
        _register(environment, folder)
    return folder


def gpu() -> Path:
    """Build the CUDA library for the Python that runs this, without tests; its folder."""
    folder = ROOT / "build" / "gpu"
    env = os.environ | {"CCACHE_BASEDIR": str(ROOT), "CCACHE_NOHASHDIR": "1"}
    options = {
        "Python_EXECUTABLE": sys.executable,
        "POMONA_CUDA": "ON",
        "POMONA_TESTS": "OFF",
        "POMONA_EXAMPLES": "OFF",
    }
    _configure(folder, options, env)
    _build(folder, env, "the library with CUDA")
    _install(folder, env)
    return folder


def benchmarks(environment: Environment) -> Path:
    """Build the C++ benchmarks where Google Benchmark is; their folder."""
    folder = full(environment, tests=False)
    if machine.has("/usr/include/benchmark/benchmark.h"):
        env = environment.variables()
        command = ["cmake", folder, "-DPOMONA_BENCHMARKS=ON"]
        step("configuring the benchmarks", command, log="bench", env=env)
        _build(folder, env, "the benchmarks")
    else:
        say("there is no Google Benchmark (libbenchmark-dev); running the Python benchmarks only")
    return folder


def has_googletest(folder: Path) -> bool:
    """Whether the C++ tests can be configured without a download."""
    fetched = folder / "_deps" / "googletest-src" / "CMakeLists.txt"
    return machine.has("/usr/include/gtest/gtest.h") or fetched.exists()


def _warnings() -> dict[str, str]:
    # Never OFF: a folder that CI has built keeps its flags, so `make demo` builds nothing anew.
    is_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes", "on")
    return {"POMONA_WERROR": "ON"} if is_ci else {}


def _configure(folder: Path, options: Mapping[str, str], env: Mapping[str, str]) -> None:
    """Configure when the options are new; ninja itself sees changed CMake files."""
    stamp = folder / "pomona-options.json"
    wanted = json.dumps({**options, "root": str(ROOT)}, sort_keys=True)
    if (folder / "build.ninja").exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    if stamp.exists() and json.loads(stamp.read_text())["root"] != str(ROOT):
        shutil.rmtree(folder)  # the checkout was moved, which CMake does not survive
    stamp.unlink(missing_ok=True)
    options = {**options, "POMONA_TORCH_JOBS": str(machine.jobs())}
    definitions = [f"-D{key}={value}" for key, value in options.items()]
    command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *definitions]
    title = f"configuring {folder.relative_to(ROOT)}"
    step(title, command, log=f"{folder.name}-configure", env=env)
    stamp.write_text(wanted)


def _build(folder: Path, env: Mapping[str, str], what: str, targets: Sequence[str] = ()) -> None:
    command = ["cmake", "--build", folder, "-j", machine.jobs()]
    command += ["--target", *targets] if targets else []
    title = f"building {what} with {machine.jobs()} jobs"
    step(title, command, log=f"{folder.name}-build", env=env, timeout=BUILD_SECONDS)


def _install(folder: Path, env: Mapping[str, str]) -> None:
    # ALWAYS: another folder's library may carry the same time stamp
    env = {**env, "CMAKE_INSTALL_ALWAYS": "1"}
    command = ["cmake", "--install", folder, "--prefix", PACKAGE]
    step("installing into python/pomona", command, log=f"{folder.name}-install", env=env)


def _register(environment: Environment, folder: Path) -> None:
    """`pip install -e .`, once: the environment then knows the package and the command `pomona`."""
    stamp = environment.folder / "pomona-editable.json"
    sources = [ROOT / name for name in ("pyproject.toml", "setup.py", "version.txt")]
    wanted = json.dumps([str(ROOT), *(source.read_text() for source in sources)])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    pip = [environment.python, "-m", "pip", "install", "--disable-pip-version-check", "-e", ROOT]
    env = {**environment.variables(), "POMONA_BUILD_DIR": str(folder)}
    step(
        f"registering the package in {environment.folder.name}",
        [*pip, "--no-build-isolation", "--no-deps"],
        log="pip-editable",
        env=env,
    )
    stamp.write_text(wanted)
