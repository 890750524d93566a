"""What this machine has and lacks: cores, memory, a C++ compiler, Debian packages."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from console import ROOT, Stop, output, say, step

GIB = 2**30
MEMORY_PER_TORCH_JOB = 2 * GIB  # what the compiler takes for a file that includes torch
APT_SECONDS = 300.0
ASK_AGAIN_SECONDS = 24 * 3600.0

# What the house can do without: the Debian package, how to see that it is there, what it is for.
OPTIONAL = [
    ("ccache", "ccache", "a second build takes a minute"),
    ("libgtest-dev", "/usr/include/gtest/gtest.h", "the C++ tests, without a download"),
    ("libbenchmark-dev", "/usr/include/benchmark/benchmark.h", "the C++ benchmarks"),
    ("clang-14", "clang++-14", "the fuzzers"),
    ("libclang-rt-14-dev", "/usr/lib/llvm-14/lib/clang/14.0.6/lib/linux", "the fuzzers"),
    (
        "dataset-fashion-mnist",
        "/usr/share/datasets/fashion-mnist",
        "real images for the demo, without a download",
    ),
]


def cores() -> int:
    """The cores that this process may use, by affinity and by cgroup quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        count = min(count or 1, max(1, round(int(quota) / int(period))))
    return count or 1


def memory() -> int:
    """The bytes of memory that are free for us, by the kernel and by the cgroup's limit."""
    free = 4 * GIB
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = _read("/sys/fs/cgroup/memory.max")
    if limit.isdigit():
        used = _read("/sys/fs/cgroup/memory.current")
        free = min(free, int(limit) - int(used or 0))
    return free


def jobs() -> int:
    """How many compilers may run at once: JOBS when it is set, else what cores and memory allow."""
    if asked := os.environ.get("JOBS"):
        if not asked.isdigit() or int(asked) < 1:
            raise Stop(f"expected JOBS to be a positive number, got JOBS={asked}.")
        return int(asked)
    return max(1, min(cores(), memory() // MEMORY_PER_TORCH_JOB))


def can_install() -> bool:
    """Whether apt-get would work without asking anybody."""
    return os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: list[str], why: str) -> bool:
    """Install Debian packages; False where that does not work. Never waits longer than minutes."""
    if not can_install():
        return False
    apt = ["apt-get", "-qq", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
    apt += ["-o", "DPkg::Lock::Timeout=60"]
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    _update((*apt, "update"))
    command = [*apt, "install", "-y", "--no-install-recommends", *packages]
    title = f"apt-get install {' '.join(packages)}"
    try:
        step(title, command, log=f"apt-{packages[0]}", env=env, timeout=APT_SECONDS)
    except Stop as stop:
        say(f"{', '.join(packages)} ({why}) could not be installed: {str(stop).splitlines()[0]}")
        return False
    return True


@functools.cache  # once a run is enough
def _update(command: tuple[str, ...]) -> None:
    with contextlib.suppress(Stop):  # an old list may do
        step("apt-get update", command, log="apt-update", timeout=APT_SECONDS)


def require(packages: list[str], why: str) -> None:
    """Install what cannot be done without.

    Raises:
        Stop: it could not be installed; the message has the command that a user types.
    """
    if not install(packages, why):
        raise Stop(
            f"{why} is missing. On Debian or Ubuntu: sudo apt-get install {' '.join(packages)}\n"
            "        Elsewhere install what serves for it, then run this command again."
        )


def compiler() -> str:
    """The C++20 compiler, installed when there is none.

    Raises:
        Stop: there is none, or it is too old.
    """
    name = os.environ.get("CXX", "")
    found = shutil.which(name) if name else shutil.which("c++") or shutil.which("g++")
    if name and not found:
        raise Stop(f"expected CXX to name a C++ compiler, got CXX={name}.")
    if not found:
        require(["g++"], "a C++ compiler")
        found = shutil.which("g++")
    source = "#include <span>\n#include <concepts>\nint main() {}\n"
    trial = [str(found), "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    result = subprocess.run(trial, input=source, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Stop(
            f"expected a compiler that knows C++20 (g++ 11, clang 14 or later), got {found}: "
            f"{output([found, '--version']) or result.stderr}. Set CXX=..."
        )
    return str(found)


def has(sign: str) -> bool:
    """Whether a program or a path is there."""
    return os.path.exists(sign) if sign.startswith("/") else shutil.which(sign) is not None


def add_optional() -> None:
    """Install what makes life better; never fails, and asks a failing apt once a day only."""
    missing = [row for row in OPTIONAL if not has(row[1])]
    stamp = ROOT / "build" / "optional-packages.json"
    asked = json.loads(_read(stamp) or "{}")
    now = time.time()
    missing = [row for row in missing if now - asked.get(row[0], 0) > ASK_AGAIN_SECONDS]
    if not missing:
        return
    names = [package for package, _, _ in missing]
    if not install(names, "optional"):
        for package, _, purpose in missing:
            say(f"going on without {package} ({purpose}); sudo apt-get install {package}")
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(json.dumps(asked | dict.fromkeys(names, now)))


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
