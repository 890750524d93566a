"""The cache of load_packed_: packed bytes and dense tensors beside a file, mapped into memory.

What is in it, and what makes it another, stands in csrc/nn/packed_cache.h: C++ reads and writes
the same.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from . import _C

_log = logging.getLogger("pomona")
Tensors = dict[str, torch.Tensor]


def path_of(file: str | os.PathLike[str], cache: Any) -> Path:
    """Where the cache is.

    Raises:
        InvalidArgument: neither True nor a path.
    """
    if cache is True:
        return Path(f"{os.fspath(file)}.packed")
    if not isinstance(cache, (str, os.PathLike)):
        raise _C.InvalidArgument(
            f"load_packed_: expected `cache` to be a bool or a path, got {cache!r}."
        )
    return Path(cache)


def write(cache: Path, key: str, packed: Tensors, dense: Tensors) -> None:
    """Whole or not at all; what cannot be written is said and left."""
    try:
        _C.write_packed_cache(cache, key, packed, dense)
    except OSError as error:
        _log.warning("load_packed_: cannot write the cache %s: %s", cache, error)
