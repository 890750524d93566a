"""The rivals in C++ (benchmarks/rivals), built with CMake when they are first asked for."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from _candidates import Candidate
from _measure import ROOT

_SOURCE = ROOT / "benchmarks" / "rivals"
_BUILD = ROOT / "build" / "rivals"
_PADDING = 64  # elements that the frozen pg32 may read past x
_ISAS = ("none", "AVX2", "AVX-512")
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_SIGNATURES = {  # name: (result, arguments)
    "rivals_stream_isa": (_INT, ()),
    "rivals_stream": (None, (*[_POINTER] * 3, ctypes.c_int64, ctypes.c_int64, _INT)),
    "rivals_has_frozen": (_INT, ()),
    "rivals_pack_frozen": (_POINTER, (*[_POINTER] * 4, _INT, _INT)),
    "rivals_frozen_bytes": (ctypes.c_int64, (_POINTER,)),
    "rivals_multiply_frozen": (None, (*[_POINTER] * 3, _INT)),
    "rivals_free_frozen": (None, (_POINTER,)),
}


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    beside = Path(sys.executable).parent / "cmake"
    cmake = str(beside) if beside.exists() else shutil.which("cmake")
    if cmake is None:
        return "no cmake"
    configure = [cmake, "-S", str(_SOURCE), "-B", str(_BUILD)]
    for command in (configure, [cmake, "--build", str(_BUILD)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"it cannot be built: {(done.stdout + done.stderr).strip().splitlines()[-1]}"
    library = ctypes.CDLL(str(_BUILD / "librivals.so"))
    for name, (result, arguments) in _SIGNATURES.items():
        getattr(library, name).restype = result
        getattr(library, name).argtypes = arguments
    return library


def stream(weight: torch.Tensor, x: torch.Tensor, threads: int) -> Candidate | str:
    """The dense float32 product that only streams, or why it does not run."""
    library = _library()
    if isinstance(library, str):
        return library
    if library.rivals_stream_isa() == 0:
        return "no AVX2"
    y = torch.empty(1, weight.shape[0])
    arguments = (weight.data_ptr(), x.data_ptr(), y.data_ptr(), *weight.shape, threads)

    def run() -> torch.Tensor:
        library.rivals_stream(*arguments)
        return y

    return Candidate(run, 4 * weight.numel())


def stream_isa() -> str:
    """What the streaming product is compiled for."""
    library = _library()
    return "none" if isinstance(library, str) else _ISAS[library.rivals_stream_isa()]


class _FrozenPg32:
    """The packed matrix, and a copy of x with the room that the kernel wants."""

    def __init__(self, library: ctypes.CDLL, weight: torch.Tensor, x: torch.Tensor) -> None:
        rows, cols = weight.shape
        sparse = weight.to_sparse_csr()
        book, codes = sparse.values().unique(return_inverse=True)
        if book.numel() > 31:
            raise ValueError(f"expected up to 31 values, got {book.numel()}")
        values = torch.zeros(32)
        values[1 : book.numel() + 1] = book
        columns, codes = sparse.col_indices().int(), (codes + 1).to(torch.uint8)
        arrays = (sparse.crow_indices(), columns, codes, values)
        self._library = library
        self._packed = library.rivals_pack_frozen(*(a.data_ptr() for a in arrays), rows, cols)
        self._x = torch.nn.functional.pad(x[0], (0, _PADDING))
        self._y = torch.empty(1, rows)
        self.bytes = int(library.rivals_frozen_bytes(self._packed))

    def multiply(self, threads: int) -> torch.Tensor:
        self._library.rivals_multiply_frozen(
            self._packed, self._x.data_ptr(), self._y.data_ptr(), threads
        )
        return self._y

    def __del__(self) -> None:
        self._library.rivals_free_frozen(self._packed)


def frozen_pg32(weight: torch.Tensor, x: torch.Tensor, threads: int) -> Candidate | str:
    """The first prototype's pg32, or why it does not run."""
    library = _library()
    if isinstance(library, str):
        return library
    if not library.rivals_has_frozen():
        return "no AVX-512"
    frozen = _FrozenPg32(library, weight, x)
    return Candidate(lambda: frozen.multiply(threads), frozen.bytes)
