"""Drives CMake; names no source file.

The install tree of CMake *is* the package: python/pomona (editable) or <build_lib>/pomona (wheel).
Environment variables: POMONA_CUDA (AUTO, 1, 0), POMONA_BUILD_DIR, POMONA_CMAKE_ARGS.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def torch_root() -> Path:
    """The folder of the installed torch, also when pip hides it in an isolated build."""
    spec = importlib.util.find_spec("torch")
    places = list(spec.submodule_search_locations) if spec else []
    # pip's build isolation hides site-packages from sys.path, not from the disk
    places += [str(Path(sysconfig.get_paths()[key]) / "torch") for key in ("platlib", "purelib")]
    for place in map(Path, places):
        if (place / "include/torch/library.h").exists():
            return place
    raise SystemExit(
        f"pomona: expected torch to be installed in {sys.prefix}, got none. "
        "Run `pip install torch` first: Pomona is built against the torch that you will import."
    )


class CMakeBuild(build_ext):
    """Configures, builds and installs with CMake. One build folder serves pip and ctest."""

    # run(), not build_extension(): setuptools copies only declared extensions back into an
    # editable tree.
    def run(self):
        in_place = self.inplace or getattr(self, "editable_mode", False)
        package = ROOT / "python/pomona" if in_place else Path(self.build_lib).resolve() / "pomona"
        build = os.environ.get("POMONA_BUILD_DIR", ROOT / "build" / sys.implementation.cache_tag)
        cmake = lambda *args: subprocess.check_call(["cmake", *map(str, args)])  # noqa: E731
        cmake(
            *("-S", ROOT, "-B", build, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"),
            f"-DPOMONA_TORCH_ROOT={torch_root()}",
            f"-DPOMONA_CUDA={os.environ.get('POMONA_CUDA', 'AUTO')}",
            *os.environ.get("POMONA_CMAKE_ARGS", "").split(),
        )
        cmake("--build", build)
        cmake("--install", build, "--prefix", package)

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


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
    cmdclass={"build_ext": CMakeBuild},
)
