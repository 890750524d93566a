"""Drives CMake; names no source file.

The install tree of CMake *is* the package: python/pomona (editable) or <build_lib>/pomona (wheel).
Environment variables: POMONA_CUDA (AUTO, 1, 0), POMONA_BUILD_DIR, POMONA_CMAKE_ARGS.
"""

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def torch_root() -> Path:
    """The folder of the installed torch, also when pip hides it in an isolated build."""
    spec = importlib.util.find_spec("torch")
    places = list(spec.submodule_search_locations) if spec else []
    # pip's build isolation hides site-packages from sys.path, not from the disk
    hidden = [sysconfig.get_paths()[key] for key in ("platlib", "purelib")]
    places += [Path(folder) / "torch" for folder in [*hidden, site.getusersitepackages()]]
    for place in map(Path, places):
        if (place / "include/torch/library.h").exists():
            return place
    raise SystemExit(
        f"pomona: expected torch to be installed in {sys.prefix}, got none. "
        "Run `pip install torch` first: Pomona is built against the torch that you will import."
    )


def cmake_of(folder: Path) -> tuple[str, str]:
    """(cmake, ninja): those that configured the folder while they exist, else those on PATH.

    pip's isolated builds bring a cmake of their own and delete it; a folder that ctest uses as well
    must not come to depend on it.
    """
    cache = folder / "CMakeCache.txt"
    text = cache.read_text() if cache.exists() else ""
    programs = []
    for name, variable in (("cmake", "CMAKE_COMMAND"), ("ninja", "CMAKE_MAKE_PROGRAM")):
        cached = re.search(rf"^{variable}:\w+=(.+)$", text, re.MULTILINE)
        found = cached[1] if cached and Path(cached[1]).exists() else shutil.which(name)
        programs.append(found or name)
    return programs[0], programs[1]


class CMakeBuild(build_ext):
    """Configures, builds and installs with CMake. One build folder serves pip and ctest."""

    # run(), not build_extension(): setuptools copies only declared extensions back into an
    # editable tree.
    def run(self):
        in_place = self.inplace or getattr(self, "editable_mode", False)
        package = ROOT / "python/pomona" if in_place else Path(self.build_lib).resolve() / "pomona"
        default = ROOT / "build" / sys.implementation.cache_tag
        folder = Path(os.environ.get("POMONA_BUILD_DIR") or default).resolve()
        cmake, ninja = cmake_of(folder)
        options = {
            "CMAKE_MAKE_PROGRAM": ninja,
            "Python_EXECUTABLE": sys.executable,
            "POMONA_TORCH_ROOT": torch_root(),
        }
        if cuda := os.environ.get("POMONA_CUDA"):
            options["POMONA_CUDA"] = cuda
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        definitions += os.environ.get("POMONA_CMAKE_ARGS", "").split()
        if not (folder / "CMakeCache.txt").exists():  # a package needs no tests
            definitions = ["-DPOMONA_TESTS=OFF", "-DPOMONA_EXAMPLES=OFF", *definitions]
        subprocess.check_call([cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *definitions])
        targets = ["pomona_core", "pomona", "pomona_C"]
        subprocess.check_call([cmake, "--build", folder, "--target", *targets])
        subprocess.check_call([cmake, "--install", folder, "--prefix", package])

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


class FreshBuild(build):
    """A wheel holds what is in the tree now, never what an earlier build left behind."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BinaryDistribution(Distribution):
    """A platform tag without a list of extensions."""

    def has_ext_modules(self):
        return True


setup(
    version=(ROOT / "version.txt").read_text().strip(),
    packages=["pomona"],
    package_dir={"": "python"},
    package_data={"pomona": ["py.typed", "*.pyi"]},
    distclass=BinaryDistribution,
    cmdclass={"build": FreshBuild, "build_ext": CMakeBuild},
    options={"build": {"build_base": "build/package"}},
)
