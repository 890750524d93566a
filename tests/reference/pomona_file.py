"""A second decoder of `*.pomona`, written from docs/format.md alone: plain, slow, literal.

It shares no line with the C++ reader and is its oracle. Every rule of the document stands here
once; whatever breaks one raises `DamagedFile`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = bytes([0x89, 0x50, 0x4F, 0x4D, 0x0D, 0x0A, 0x1A, 0x0A])
VERSION = 1
HEADER_SIZE = 16
FOOTER_SIZE = 24
MAX_NUMEL = 2**36
MAX_CENTROIDS = 256
MAX_CODE_LENGTH = 12

DTYPES = {
    0: ("float32", 4),
    1: ("float16", 2),
    2: ("bfloat16", 2),
    3: ("float64", 8),
    4: ("uint8", 1),
    5: ("int8", 1),
    6: ("int16", 2),
    7: ("int32", 4),
    8: ("int64", 8),
    9: ("bool", 1),
}
SHAREABLE = ("float32", "float16", "bfloat16")


class DamagedFile(ValueError):
    """The bytes break a rule of docs/format.md."""


class NewerVersion(ValueError):
    """The bytes are whole, but of a version that this decoder does not know."""


def require(condition: bool, rule: str) -> None:
    if not condition:
        raise DamagedFile(rule)


def crc32c(data: bytes) -> int:
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


class Bits:
    """The bits of a section, least significant bit of the first byte first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def bit(self) -> int:
        require(self.position < 8 * len(self.data), "a symbol stream runs past its end")
        value = self.data[self.position // 8] >> (self.position % 8) & 1
        self.position += 1
        return value

    def number(self, width: int) -> int:
        return sum(self.bit() << i for i in range(width))

    def gamma(self) -> int:
        m = 0
        while self.bit() == 0:
            m += 1
        return (1 << m) + self.number(m)

    def finish(self) -> None:
        left = 8 * len(self.data) - self.position
        require(left < 8, "bytes after the last symbol")
        require(self.number(left) == 0, "padding that is not 0")


def code_lengths(bits: Bits, alphabet: int) -> list[int]:
    n = bits.gamma()
    require(1 <= n <= alphabet, "a table larger than its alphabet")
    lengths = []
    length = 4
    for _ in range(n):
        x = bits.gamma()
        length += (x - 1) // 2 if x % 2 == 1 else -(x // 2)
        require(0 <= length <= MAX_CODE_LENGTH, "a code length outside 0..12")
        lengths.append(length)
    require(lengths[-1] != 0, "a last symbol without a code")
    return lengths


def canonical_codes(lengths: list[int]) -> dict[tuple[int, int], int]:
    """(length, code) -> symbol."""
    codes = {}
    code = 0
    for length in range(1, MAX_CODE_LENGTH + 1):
        code <<= 1
        for symbol, its_length in enumerate(lengths):
            if its_length == length:
                codes[length, code] = symbol
                code += 1
    return codes


def huffman_symbols(bits: Bits, count: int, alphabet: int) -> list[int]:
    lengths = code_lengths(bits, alphabet)
    used = [symbol for symbol, length in enumerate(lengths) if length > 0]
    if len(used) == 1:
        require(lengths[used[0]] == 1, "a single symbol whose length is not 1")
        return used * count
    total = sum(2 ** (MAX_CODE_LENGTH - lengths[symbol]) for symbol in used)
    require(total == 2**MAX_CODE_LENGTH, "a Huffman code that is not complete")
    codes = canonical_codes(lengths)
    symbols = []
    for _ in range(count):
        length, code = 0, 0
        while (length, code) not in codes:
            length, code = length + 1, code << 1 | bits.bit()
        symbols.append(codes[length, code])
    return symbols


def symbol_stream(data: bytes, count: int, alphabet: int) -> list[int]:
    bits = Bits(data)
    if bits.bit() == 1:
        symbols = huffman_symbols(bits, count, alphabet)
    else:
        width = bits.number(4)
        require(width <= 9, "a width above 9")
        symbols = [bits.number(width) for _ in range(count)]
    require(all(symbol < alphabet for symbol in symbols), "a symbol outside its alphabet")
    bits.finish()
    return symbols


@dataclass
class Entry:
    name: str
    dtype: str
    item: int
    shape: tuple[int, ...]
    numel: int
    kept: int
    centroids: int
    gap_bits: int
    fillers: int = 0
    position_size: int = 0
    code_size: int = 0
    sections: dict[str, bytes] = field(default_factory=dict)

    def section_sizes(self) -> dict[str, int]:
        return {
            "codebook": self.centroids * self.item,
            "positions": self.position_size,
            "codes": self.code_size,
            "values": self.kept * self.item if self.centroids == 0 else 0,
        }


class Directory:
    """The directory's bytes, read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        require(self.at + size <= len(self.data), "the directory ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DamagedFile("a varint of more than 63 bits")

    def entry(self) -> tuple[Entry, dict[str, int]]:
        name = self.take(self.varint()).decode("utf-8", "surrogateescape")
        number = self.take(1)[0]
        require(number in DTYPES, "an unknown dtype")
        dtype, item = DTYPES[number]
        shape = tuple(self.varint() for _ in range(self.varint()))
        numel = 1
        for size in shape:
            numel *= size
        require(numel <= MAX_NUMEL, "more than 2^36 elements")
        kept, centroids, gap_bits = self.varint(), self.varint(), self.take(1)[0]
        require(kept <= numel, "more weights kept than there are")
        require(centroids <= MAX_CENTROIDS, "more than 256 centroids")
        require(centroids == 0 or dtype in SHAREABLE, "a codebook for this dtype")
        entry = Entry(name, dtype, item, shape, numel, kept, centroids, gap_bits)
        if 0 < kept < numel:
            require(2 <= gap_bits <= 8, "gap bits outside 2..8")
            entry.fillers, entry.position_size = self.varint(), self.varint()
            require(entry.position_size > 0, "an empty position section")
        else:
            require(gap_bits == 0, "gap bits where nothing is pruned")
        if centroids >= 2 and kept > 0:
            entry.code_size = self.varint()
            require(entry.code_size > 0, "an empty code section")
        sizes = entry.section_sizes()
        crcs = {s: struct.unpack("<I", self.take(4))[0] for s, size in sizes.items() if size > 0}
        return entry, crcs


def read_header(data: bytes) -> None:
    require(data[:8] == MAGIC, "not a pomona file")
    require(len(data) >= HEADER_SIZE + FOOTER_SIZE, "a file that is cut short")
    version, flags, crc = struct.unpack("<HHI", data[8:16])
    require(crc == crc32c(data[:12]), "header checksum")
    require(version >= 1, "version 0")
    if version > VERSION or flags != 0:
        raise NewerVersion(f"version {version}, flags {flags}")


def read_directory(data: bytes) -> list[Entry]:
    footer = data[-FOOTER_SIZE:]
    directory_offset, file_size, directory_crc, footer_crc = struct.unpack("<QQII", footer)
    require(footer_crc == crc32c(footer[:20]), "footer checksum")
    require(file_size == len(data), "file size")
    require(HEADER_SIZE <= directory_offset <= file_size - FOOTER_SIZE, "directory offset")
    directory_bytes = data[directory_offset : file_size - FOOTER_SIZE]
    require(directory_crc == crc32c(directory_bytes), "directory checksum")
    directory = Directory(directory_bytes)
    entries = []
    offset = HEADER_SIZE
    for _ in range(directory.varint()):
        entry, crcs = directory.entry()
        for section, size in entry.section_sizes().items():
            require(offset + size <= directory_offset, "a section that runs into the directory")
            entry.sections[section] = data[offset : offset + size]
            require(size == 0 or crcs[section] == crc32c(entry.sections[section]), section)
            offset += size
        entries.append(entry)
    require(directory.at == len(directory_bytes), "bytes after the last entry")
    require(offset == directory_offset, "a gap before the directory")
    require(len({entry.name for entry in entries}) == len(entries), "a name that stands twice")
    return entries


def kept_positions(entry: Entry) -> list[int]:
    if entry.gap_bits == 0:
        return list(range(entry.kept))
    filler = 2**entry.gap_bits
    count = entry.kept + entry.fillers
    gaps = symbol_stream(entry.sections["positions"], count, filler + 1)
    require(gaps.count(filler) == entry.fillers, "another number of fillers")
    require(gaps[-1] != filler, "a filler at the end")
    positions = []
    at = 0
    for gap in gaps:
        at += gap
        require(at < entry.numel, "a position outside the tensor")
        if gap != filler:
            positions.append(at)
            at += 1
    return positions


def as_number(dtype: str, item: bytes) -> float:
    if dtype == "bfloat16":
        return struct.unpack("<f", b"\0\0" + item)[0]
    return struct.unpack("<f" if dtype == "float32" else "<e", item)[0]


def check_ascending(dtype: str, codebook: list[bytes]) -> None:
    numbers = [as_number(dtype, item) for item in codebook]
    require(all(number == number for number in numbers), "NaN in a codebook")
    for i in range(1, len(numbers)):
        signs = codebook[i - 1][-1] >> 7, codebook[i][-1] >> 7
        zeros = numbers[i - 1] == numbers[i] == 0 and signs == (1, 0)
        require(numbers[i - 1] < numbers[i] or zeros, "a codebook that is not ascending")


def kept_items(entry: Entry) -> list[bytes]:
    """The bytes of each kept weight, in order."""

    def split(data: bytes) -> list[bytes]:
        return [data[i : i + entry.item] for i in range(0, len(data), entry.item)]

    if entry.centroids == 0:
        return split(entry.sections["values"])
    codebook = split(entry.sections["codebook"])
    check_ascending(entry.dtype, codebook)
    codes = [0] * entry.kept
    if entry.code_size > 0:
        codes = symbol_stream(entry.sections["codes"], entry.kept, entry.centroids)
    return [codebook[code] for code in codes]


def decode(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a file: name -> (dtype, shape, row-major bytes)."""
    read_header(data)
    tensors = {}
    for entry in read_directory(data):
        items = [bytes(entry.item)] * entry.numel
        for position, item in zip(kept_positions(entry), kept_items(entry), strict=True):
            items[position] = item
        tensors[entry.name] = entry.dtype, entry.shape, b"".join(items)
    return tensors
