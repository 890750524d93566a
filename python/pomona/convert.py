"""Other formats: safetensors and PyTorch checkpoints in, safetensors, state_dict and ONNX out, and
the files that the thesis's authors published."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import _C
from .io import File, load, load_
from .prune import Pruner
from .quantize import Sharer
from .rules import Rules

__all__ = [
    "compress",
    "read_han",
    "read_tensors",
    "to_onnx",
    "to_safetensors",
    "to_shared_safetensors",
    "to_state_dict",
]

Tensors = dict[str, torch.Tensor]


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """The tensors of a ``.safetensors``, ``.pomona``, ``.pt`` or ``.pth`` file by name.

    A PyTorch file is read with ``weights_only=True``: tensors only, no pickled code. It may hold
    them directly or under ``"state_dict"`` or ``"model"``.

    Args:
        path: the file; its suffix says what it is.

    Raises:
        InvalidArgument: another suffix, or a file that holds something else.
        OSError: no such file, no permission, ...
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix == ".pomona":
        return load(file)
    if suffix == ".safetensors":
        with _reading(file):
            return dict(_safetensors().load_file(file))
    if suffix in (".pt", ".pth", ".bin"):
        with _reading(file):
            content = torch.load(file, map_location="cpu", weights_only=True)
        return _tensors_of(content, file)
    raise _C.InvalidArgument(
        f"read_tensors: expected `path` to end in .safetensors, .pt, .pth, .bin or .pomona, "
        f"got {str(file)!r}."
    )


@contextmanager
def _reading(file: Path) -> Any:
    """Errors of other libraries, which have many types, as one of ours that names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise _C.InvalidArgument(
            f"read_tensors: expected tensors in {str(file)!r}, got: {error}"
        ) from error


def _tensors_of(content: Any, file: Path) -> Tensors:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise _C.InvalidArgument(
            f"read_tensors: expected tensors by name in {str(file)!r}, "
            f"got {type(content).__name__}."
        )
    wrong = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise _C.InvalidArgument(
            f"read_tensors: expected tensors by name in {str(file)!r}, "
            f"got something else for: {', '.join(wrong[:20])}."
        )
    return {str(name): value for name, value in content.items()}


def compress(
    tensors: Mapping[str, torch.Tensor],
    *,
    prune: Rules | None = None,
    share: Rules | None = None,
) -> Tensors:
    """Tensors pruned and shared in one step, without training: what a file is then made of.

    Args:
        tensors: by name, as in a state_dict; they stay as they are. Floating-point tensors of two
            or more dimensions are eligible.
        prune: rules of a ``Pruner``: ``{"fc*": 0.9}``.
        share: rules of a ``Sharer``: ``{"fc*": 5}``.

    Raises:
        InvalidArgument: as the constructors and steps of ``Pruner`` and ``Sharer``.

    Example:
        >>> small = compress({"fc.weight": torch.randn(10, 10)}, prune={"*": 0.9}, share={"*": 2})
        >>> int(small["fc.weight"].count_nonzero()), small["fc.weight"].unique().numel() <= 4
        (10, True)
    """
    model = _module_of(tensors)
    if prune:
        Pruner(model, prune).step()
    if share:
        Sharer(model, share).step()
    return {name: model.get_parameter(name).data if name in _parameters(model) else value
            for name, value in tensors.items()}  # fmt: skip


def _parameters(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def _module_of(tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A module whose parameters have these names: dots make submodules."""
    root = nn.Module()
    for name, value in tensors.items():
        if value.dim() < 2 or not value.is_floating_point():
            continue
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, nn.Parameter(value.detach().clone(), requires_grad=False))
    return root


def to_safetensors(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the tensors of a ``.pomona`` file as plain, dense safetensors.

    Args:
        source: the ``.pomona`` file.
        path: the file to write; it replaces an older one in one step.

    Raises:
        CorruptFile, InvalidArgument, OSError: as ``pomona.load``.
    """
    _write_safetensors(load(source), path)


def to_shared_safetensors(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write a ``.pomona`` file as safetensors of what it stores: of a shared tensor ``name`` the
    codebook, ``name.codebook`` float32 [groups, centroids], and ``name.codes`` uint8 with the
    tensor's shape, in which 0 is a pruned weight and c + 1 the entry c. Other tensors are dense.

    Args:
        source: the ``.pomona`` file.
        path: the file to write; it replaces an older one in one step.

    Raises:
        InvalidArgument: a tensor with 256 centroids and pruned weights, whose codes no byte holds.
        CorruptFile, OSError: as ``pomona.load``.
    """
    file = File(source)
    tensors: Tensors = {}
    for entry in file.entries:
        shared = file.shared(entry.name)
        if shared is None:
            tensors[entry.name] = file[entry.name]
            continue
        codebook, codes, mask = shared
        if codebook.size(1) > 255:
            raise _C.InvalidArgument(
                f"to_shared_safetensors: expected `{entry.name}` to have at most 255 centroids, "
                f"got {codebook.size(1)}."
            )
        dense = torch.zeros(entry.numel, dtype=torch.uint8)
        dense[mask.to_tensor()] = codes + 1
        tensors[f"{entry.name}.codebook"] = codebook
        tensors[f"{entry.name}.codes"] = dense.reshape(entry.shape)
    _write_safetensors(tensors, path)


def to_state_dict(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write a ``.pomona`` file as a dense PyTorch checkpoint, readable with ``weights_only=True``.

    Args:
        source: the ``.pomona`` file.
        path: the file to write; it replaces an older one in one step.

    Raises:
        CorruptFile, InvalidArgument, OSError: as ``pomona.load``.
    """
    tensors = load(source)
    _replace(path, lambda temporary: torch.save(tensors, temporary))


def to_onnx(
    model: nn.Module,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    example: tuple[torch.Tensor, ...] | torch.Tensor,
    **options: Any,
) -> None:
    """Load a ``.pomona`` file into a model and export it to ONNX by ``torch.onnx.export``: the
    weights are dense there.

    Args:
        model: the network; it holds the file's tensors afterwards.
        source: the ``.pomona`` file.
        path: the file to write; it replaces an older one in one step.
        example: the model's inputs.
        options: passed on to ``torch.onnx.export``.

    Raises:
        InvalidArgument: torch has no ONNX exporter here (``pip install onnx onnxscript``).
        CorruptFile, OSError: as ``pomona.load_``.
    """
    load_(model, source)
    arguments = example if isinstance(example, tuple) else (example,)
    options.setdefault("external_data", False)

    def export(temporary: Path) -> None:
        try:
            torch.onnx.export(model, arguments, temporary, **options)
        except ImportError as error:
            raise _C.InvalidArgument(
                f"to_onnx: expected torch's exporter and its packages, got: {error}. "
                "Try `pip install onnx onnxscript`."
            ) from error

    _replace(path, export)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise _C.InvalidArgument(
            "convert: expected the package safetensors, which is not installed. "
            "Try `pip install safetensors`."
        ) from error
    return safetensors.torch


def _write_safetensors(tensors: Tensors, path: str | os.PathLike[str]) -> None:
    library = _safetensors()
    _replace(path, lambda temporary: library.save_file(tensors, temporary))


def _replace(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Write a file beside ``path`` and put it in its place when it is complete."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(21, os.strerror(21), str(target))
    with tempfile.TemporaryDirectory(dir=target.parent or ".", prefix=".pomona-") as folder:
        temporary = Path(folder) / target.name
        write(temporary)
        os.replace(temporary, target)


def read_han(path: str | os.PathLike[str], layers: Sequence[tuple[str, Sequence[int]]]) -> Tensors:
    """The tensors of a ``.net`` file as the authors of Deep Compression published them.

    First ``uint32 entries[L]``, fillers included; then of each layer ``float32 codebook`` (256
    entries for a convolution, 16 for a fully connected layer), ``float32 bias[out]``, codes (8 bits
    each, or 4: two a byte, the low one first), gaps (4 bits each, two a byte, the low one first).
    Position k is the sum of gap + 1 up to k, less 1, over the whole flattened weight; code 0 is 0.

    Args:
        path: the file.
        layers: (name, shape of the weight) in the file's order; a shape of two dimensions is a
            fully connected layer, of four a convolution.

    Returns:
        ``name.weight`` and ``name.bias`` of each layer, float32.

    Raises:
        InvalidArgument: layers that do not fit the file.
        OSError: no such file, no permission, ...

    Reference:
        The decoder of the published models (songhan/Deep-Compression-AlexNet).
    """
    data = Path(path).read_bytes()
    reader = _HanReader(data, str(path))
    counts = [struct.unpack("<I", reader.take(4, "the entries of a layer"))[0] for _ in layers]
    tensors: Tensors = {}
    for (name, shape), count in zip(layers, counts, strict=True):
        weight, bias = reader.layer(name, list(shape), count)
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.bias"] = bias
    if reader.at != len(data):
        raise _C.InvalidArgument(
            f"read_han: expected {path} to end after the last layer, "
            f"got {len(data) - reader.at} bytes more. Are the shapes right?"
        )
    return tensors


class _HanReader:
    """A cursor over the bytes of a ``.net`` file."""

    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        if size > len(self.data) - self.at:
            raise _C.InvalidArgument(
                f"read_han: expected {what} ({size} bytes) at byte {self.at} of {self.path}, "
                f"got the end of the file. Are the shapes right?"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def floats(self, count: int, what: str) -> torch.Tensor:
        return torch.frombuffer(bytearray(self.take(4 * count, what)), dtype=torch.float32)

    def numbers(self, count: int, bits: int, what: str) -> torch.Tensor:
        data = self.take((count * bits + 7) // 8, what)
        packed = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if bits == 8:
            return packed
        return torch.stack((packed & 15, packed >> 4), dim=1).reshape(-1)[:count]

    def layer(self, name: str, shape: list[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        if len(shape) not in (2, 4):
            raise _C.InvalidArgument(
                f"read_han: expected `{name}` to have 2 or 4 dimensions, got {shape}."
            )
        bits = 8 if len(shape) == 4 else 4
        codebook = self.floats(2**bits, f"the codebook of {name}").clone()
        codebook[0] = 0.0  # a filler is a zero
        bias = self.floats(shape[0], f"the bias of {name}")
        if count == 0:
            return torch.zeros(shape), bias
        codes = self.numbers(count, bits, f"the codes of {name}")
        gaps = self.numbers(count, 4, f"the gaps of {name}")
        positions = (gaps.long() + 1).cumsum(0) - 1
        weight = torch.zeros(shape).reshape(-1)
        if int(positions[-1]) >= weight.numel():
            raise _C.InvalidArgument(
                f"read_han: expected positions of `{name}` below {weight.numel()}, "
                f"got {int(positions[-1])}. Are the shapes right?"
            )
        weight[positions] = codebook[codes.long()]
        return weight.reshape(shape), bias
