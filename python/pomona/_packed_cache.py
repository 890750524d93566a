"""The cache of load_packed_: packed bytes and dense tensors beside a file, mapped into memory.

It is an ordinary file of ``torch.save``, whose tensors lie on multiples of 64 bytes, and is read
with ``weights_only``: no code in it is run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from . import _C

_FOOTER_BYTES = 24  # of a .pomona file: its size and the checksum of its directory
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


def key_of(file: str | os.PathLike[str], precision: str, layout: str | None) -> str:
    """What decides the bytes: the file, these options, this version and this processor."""
    with Path(file).open("rb") as stream:
        stream.seek(-_FOOTER_BYTES, os.SEEK_END)
        footer = stream.read().hex()
    cpu = [torch.backends.cpu.get_cpu_capability(), *_C.fast_precisions()]
    return json.dumps([footer, precision, layout, _C.version(), cpu])


def read(cache: Path, key: str) -> tuple[Tensors, Tensors] | None:
    """(packed bytes by layer, other tensors by name); nothing of another key or of damage."""
    try:
        content = torch.load(cache, mmap=True, weights_only=True, map_location="cpu")
        if content["key"] != key:
            return None
        packed, dense = content["packed"], content["dense"]
        for tensor in packed.values():
            _C.packed_facts(tensor)
        return packed, dense
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError,
            pickle.UnpicklingError, zipfile.BadZipFile) as error:  # fmt: skip
        _log.info("load_packed_: %s is no cache (%s)", cache, error)
        return None


def write(cache: Path, key: str, packed: Tensors, dense: Tensors) -> None:
    """Whole or not at all; what cannot be written is said and left."""
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    try:
        torch.save({"key": key, "packed": packed, "dense": dense}, temporary)
        temporary.replace(cache)
    except (OSError, RuntimeError) as error:
        _log.warning("load_packed_: cannot write the cache %s: %s", cache, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
