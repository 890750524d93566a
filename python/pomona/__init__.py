"""Pomona: prune, share, encode, DSD and compressed inference for PyTorch (Han, 2017)."""

from __future__ import annotations

from pathlib import Path

# First: loads libtorch, which our libraries then find by SONAME even when no run path leads to it.
import torch

from . import _C, convert, eie, nn, quantize, schedules
from ._C import CorruptFile, InvalidArgument, Mask
from ._load_packed import load_packed_
from .dead import DeadReport, Removal, dead_neurons, remove_dead_
from .dsd import DSD
from .infer import PackReport, pack_
from .io import File, SaveReport, compressed_size, entries, load, load_, save
from .prune import Pruner
from .quantize import Sharer, fisher, round_codebooks_
from .retrain import Frozen, adjust_dropout_, freeze
from .rules import Prune, Share, rules_from_json, rules_to_json
from .schedules import OBD, Cubic, Growing, Iterative, OneShot, StdFactor, Surgery
from .sensitivity import Sensitivity, sensitivity

__version__: str = _C.version()

cmake_prefix_path: str = str(Path(__file__).parent / "share" / "cmake")
"""For CMake: ``-Dpomona_DIR=<this>/pomona`` or a CMAKE_PREFIX_PATH entry."""


def cuda_available() -> bool:
    """Whether Pomona's kernels can run on a GPU here; ``why_no_cuda()`` says why not."""
    return not why_no_cuda()


def why_no_cuda() -> str:
    """Why ``cuda_available()`` is False; empty when it is True."""
    if not _C.with_cuda:
        return f"Pomona was {_C.why_no_cuda}"
    if not torch.cuda.is_available():
        return "torch.cuda.is_available() is False (no GPU or no driver)"
    return ""


__all__ = [
    "DSD",
    "OBD",
    "CorruptFile",
    "Cubic",
    "DeadReport",
    "File",
    "Frozen",
    "Growing",
    "InvalidArgument",
    "Iterative",
    "Mask",
    "OneShot",
    "PackReport",
    "Prune",
    "Pruner",
    "Removal",
    "SaveReport",
    "Sensitivity",
    "Share",
    "Sharer",
    "StdFactor",
    "Surgery",
    "adjust_dropout_",
    "cmake_prefix_path",
    "compressed_size",
    "convert",
    "cuda_available",
    "dead_neurons",
    "eie",
    "entries",
    "fisher",
    "freeze",
    "load",
    "load_",
    "load_packed_",
    "nn",
    "pack_",
    "quantize",
    "remove_dead_",
    "round_codebooks_",
    "rules_from_json",
    "rules_to_json",
    "save",
    "schedules",
    "sensitivity",
    "why_no_cuda",
]
