"""One published data file, however it is kept (plain, gzip, a webp mosaic), checked by SHA-256.

``data.sha256`` holds the digests of the decompressed files, in the format of ``sha256sum``.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import torch


class DataError(RuntimeError):
    """Data that is not to be had; the message lists what was tried and what you can do."""


class DamagedFile(DataError):
    """A file that is there, but is not what was published."""


class Absent(Exception):
    """Not in this place; the text says why. Never leaves ``data.load``."""


def _read_digests() -> dict[str, dict[str, str]]:
    digests: dict[str, dict[str, str]] = {}
    for line in Path(__file__).with_name("data.sha256").read_text().splitlines():
        digest, path = line.split()
        name, file = path.split("/")
        digests.setdefault(name, {})[file] = digest
    return digests


DIGESTS = _read_digests()  # data set -> file -> SHA-256 of its decompressed content


def read_file(name: str, file: str, folder: Path) -> torch.Tensor:
    """The decompressed bytes of ``file`` of data set ``name``, uint8 [n], checked.

    Raises:
        Absent: it is not in this folder, or is the file of another data set.
        DamagedFile: it is there, but its content is not what was published.
        DataError: a mosaic, and no Pillow to read it.
    """
    content, path = _content(folder, file)
    check(name, file, content, path)
    return to_tensor(content)


def check(name: str, file: str, content: bytes, path: Path) -> None:
    """Compare the SHA-256 of ``content`` with the published one; errors as ``read_file``."""
    digest = hashlib.sha256(content).hexdigest()
    if digest == DIGESTS[name][file]:
        return
    for other, digests in DIGESTS.items():
        if digest in digests.values():
            raise Absent(f"holds {other}")
    raise DamagedFile(
        f"{path}: expected the SHA-256 of the content to be {DIGESTS[name][file]}, got {digest}. "
        "The file is damaged, or another one: delete or replace it."
    )


def decompress(content: bytes, path: Path) -> bytes:
    """What a gzip file holds.

    Raises:
        DamagedFile: it is cut short or damaged.
    """
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFile(
            f"{path}: expected whole gzip data, got damage ({error}). Delete or replace it."
        ) from None


def to_tensor(content: bytes) -> torch.Tensor:
    """Bytes as uint8 [n]."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def parse_idx(content: torch.Tensor) -> torch.Tensor:
    """The array in an IDX file: 0, 0, 8 (for uint8), dimensions, sizes (big-endian), data."""
    dimensions = int(content[3])
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:start].numpy().tobytes())
    return content[start:].view(shape)


def _content(folder: Path, file: str) -> tuple[bytes, Path]:
    plain, compressed = folder / file, folder / f"{file}.gz"
    mosaic = folder / f"{Path(file).stem}.webp"
    if plain.is_file():
        return plain.read_bytes(), plain
    if compressed.is_file():
        return decompress(compressed.read_bytes(), compressed), compressed
    if file.endswith(".bin") and mosaic.is_file():
        return _read_mosaic(mosaic), mosaic
    raise Absent(f"no {file}" if folder.is_dir() else "no such folder")


def _read_mosaic(path: Path) -> bytes:
    """100 x 100 tiles of 32 x 32 pixels, labels in a file beside them -> the .bin records."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"{path}: reading webp needs Pillow. Run `pip install pillow`.") from None
    labels = path.with_suffix(".labels")
    if not labels.is_file():
        raise Absent(f"no {labels.name}")
    try:
        with Image.open(path) as picture:
            pixels = to_tensor(picture.convert("RGB").tobytes()).view(100, 32, 100, 32, 3)
        images = pixels.permute(0, 2, 4, 1, 3).reshape(10_000, 3072)
        records = torch.cat([to_tensor(labels.read_bytes()).view(10_000, 1), images], dim=1)
    except (OSError, RuntimeError, ValueError) as error:  # Pillow's error is an OSError
        raise DamagedFile(
            f"{path}: expected 10,000 images and labels, got damage ({error})."
        ) from None
    return records.numpy().tobytes()
