"""A second decoder of `*.pomona`, written from docs/format.md alone: plain, slow, literal.

It shares no line with the C++ reader and is its oracle. Every rule of the document stands here
once; whatever breaks one raises `DamagedFile`. The context coder is in `context_coder.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = bytes([0x89, 0x50, 0x4F, 0x4D, 0x0D, 0x0A, 0x1A, 0x0A])
VERSION = 2
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
FLOATING = (*SHAREABLE, "float64")
NONE, GAPS, BITS, IN_CONTEXT, IN_CODES = range(5)  # positions
FIXED, HUFFMAN, RANS, CONTEXT = range(4)  # coders


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


class Bytes:
    """Bytes, read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        require(self.at + size <= len(self.data), "a part that ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return struct.unpack("<I", self.take(4))[0]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DamagedFile("a varint of more than 63 bits")


class Bits:
    """The bits of some bytes, least significant bit of the first byte first."""

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
        """No bytes are left, and what is left of the last one is 0."""
        left = 8 * len(self.data) - self.position
        require(left < 8, "bytes after the last symbol")
        require(self.number(left) == 0, "padding that is not 0")

    def finish_table(self) -> int:
        """The bytes that a table took; the bits left in its last one are 0."""
        require(self.number(-self.position % 8) == 0, "padding of a table that is not 0")
        return self.position // 8


def unzigzag(x: int) -> int:
    return x // 2 if x % 2 == 0 else -(x + 1) // 2


# Symbol streams: a table, then pieces.


@dataclass
class FixedWidth:
    width: int

    def decode(self, piece: bytes, count: int) -> list[int]:
        bits = Bits(piece)
        symbols = [bits.number(self.width) for _ in range(count)]
        bits.finish()
        return symbols


@dataclass
class Huffman:
    lengths: list[int]

    def decode(self, piece: bytes, count: int) -> list[int]:
        used = [symbol for symbol, length in enumerate(self.lengths) if length > 0]
        if len(used) == 1 or count == 0:
            require(piece == b"", "bytes where codes take none")
            return used[:1] * count
        codes = self.canonical_codes()
        strings = 1 if count < 2048 else 6
        data = Bytes(piece)
        sizes = [data.varint() for _ in range(strings - 1)]
        each = -(-count // strings)
        symbols: list[int] = []
        for s in range(strings):
            bits = Bits(data.take(sizes[s]) if s + 1 < strings else data.rest())
            for _ in range(min(each, count - len(symbols))):
                length, code = 0, 0
                while (length, code) not in codes:
                    length, code = length + 1, code << 1 | bits.bit()
                symbols.append(codes[length, code])
            bits.finish()
        return symbols

    def canonical_codes(self) -> dict[tuple[int, int], int]:
        """(length, code) -> symbol."""
        codes = {}
        code = 0
        for length in range(1, MAX_CODE_LENGTH + 1):
            code <<= 1
            for symbol, its_length in enumerate(self.lengths):
                if its_length == length:
                    codes[length, code] = symbol
                    code += 1
        return codes


@dataclass
class Rans:
    frequencies: list[int]

    def decode(self, piece: bytes, count: int) -> list[int]:
        if 4096 in self.frequencies or count == 0:
            require(piece == b"", "bytes where symbols take none")
            return [len(self.frequencies) - 1] * count
        slots = [s for s, f in enumerate(self.frequencies) for _ in range(f)]
        begins = [sum(self.frequencies[:s]) for s in range(len(self.frequencies))]
        lanes = 1 if count < 1024 else 8 if count < 32768 else 64
        data = Bytes(piece)
        states = [data.u32() for _ in range(lanes)]
        require(all(x >= 2**16 for x in states), "a state below 2^16")
        symbols = []
        for i in range(count):
            x = states[i % lanes]
            slot = x % 4096
            s = slots[slot]
            x = self.frequencies[s] * (x // 4096) + slot - begins[s]
            if x < 2**16:
                x = 2**16 * x + struct.unpack("<H", data.take(2))[0]
            states[i % lanes] = x
            symbols.append(s)
        require(all(x == 2**16 for x in states), "states that do not end where they began")
        require(data.rest() == b"", "words after the last symbol")
        return symbols


Table = FixedWidth | Huffman | Rans


def read_table(coder: int, data: Bytes, alphabet: int) -> Table:
    if coder == FIXED:
        width = data.u8()
        require(width <= 8, "a width above 8")
        return FixedWidth(width)
    bits = Bits(data.data[data.at :])
    n = bits.gamma()
    require(1 <= n <= alphabet, "a table larger than its alphabet")
    table = huffman_table(bits, n) if coder == HUFFMAN else rans_table(bits, n)
    data.take(bits.finish_table())
    return table


def huffman_table(bits: Bits, n: int) -> Huffman:
    lengths = []
    length = 4
    for _ in range(n):
        length += unzigzag(bits.gamma() - 1)
        require(0 <= length <= MAX_CODE_LENGTH, "a code length outside 0..12")
        lengths.append(length)
    require(lengths[-1] != 0, "a last symbol without a code")
    used = [length for length in lengths if length > 0]
    if len(used) == 1:
        require(used == [1], "a single symbol whose length is not 1")
    else:
        total = sum(2 ** (MAX_CODE_LENGTH - length) for length in used)
        require(total == 2**MAX_CODE_LENGTH, "a Huffman code that is not complete")
    return Huffman(lengths)


def rans_table(bits: Bits, n: int) -> Rans:
    frequencies = []
    width = 8
    for _ in range(n - 1):
        width += unzigzag(bits.gamma() - 1)
        require(0 <= width <= 12, "a probability of more than 12 bits")
        frequencies.append((1 << width >> 1) + (bits.number(width - 1) if width >= 2 else 0))
    require(sum(frequencies) < 4096, "probabilities that leave none for the last symbol")
    return Rans([*frequencies, 4096 - sum(frequencies)])


def decode_symbols(table: Table, piece: bytes, count: int, alphabet: int) -> list[int]:
    symbols = table.decode(piece, count)
    require(all(symbol < alphabet for symbol in symbols), "a symbol outside its alphabet")
    return symbols


# The directory.


@dataclass
class Entry:
    name: str
    dtype: str
    item: int
    shape: tuple[int, ...]
    numel: int
    kept: int
    centroids: int = 0
    positions: int = NONE
    position_coder: int = FIXED
    code_coder: int = FIXED
    codebook_form: int = 0
    is_plain: bool = False
    group: int = 0
    value_form: int = 0
    distance: int = 0
    gap_bits: int = 0
    fillers: int = 0
    chunk: int = 0
    sizes: dict[str, int] = field(default_factory=dict)  # of the parts of the section
    section: bytes = b""

    @property
    def has_codes(self) -> bool:
        return self.centroids >= 2 or self.positions == IN_CODES

    @property
    def groups(self) -> int:
        return -(-self.numel // self.group) if self.group else 1

    @property
    def columns(self) -> int:
        if len(self.shape) < 2:
            return self.numel
        return self.numel // self.shape[0]

    @property
    def inner(self) -> int:
        product = 1
        for size in self.shape[2:]:
            product *= size
        return product


def read_entry(data: Bytes) -> tuple[Entry, int | None]:
    """An entry and the checksum of its section."""
    name = data.take(data.varint()).decode("utf-8", "surrogateescape")
    number = data.u8()
    require(number in DTYPES, "an unknown dtype")
    shape = tuple(data.varint() for _ in range(data.varint()))
    numel = 1
    for size in shape:
        numel *= size
    require(numel <= MAX_NUMEL, "more than 2^36 elements")
    entry = Entry(name, *DTYPES[number], shape, numel, data.varint())
    require(entry.kept <= numel, "more weights kept than there are")
    if entry.kept == 0:
        return entry, None
    entry.centroids = data.varint()
    require(entry.centroids <= MAX_CENTROIDS, "more than 256 centroids")
    require(entry.centroids == 0 or entry.dtype in SHAREABLE, "a codebook for this dtype")
    storage = data.u8()
    entry.positions = storage & 7
    entry.position_coder = storage >> 3 & 3
    entry.code_coder = storage >> 5 & 3
    check_storage(entry)
    read_forms(entry, data)
    read_sizes(entry, data)
    if storage >> 7:
        entry.chunk = data.varint()
        entry.sizes["chunks"] = data.varint()
    check_chunk(entry, bool(storage >> 7))
    return entry, data.u32() if sum(entry.sizes.values()) else None


def check_storage(entry: Entry) -> None:
    require(entry.positions <= IN_CODES, "positions of an unknown kind")
    require((entry.positions == NONE) == (entry.kept == entry.numel), "positions and kept weights")
    if entry.positions == GAPS:
        require(entry.position_coder != CONTEXT, "gaps by the context coder")
    else:
        require(entry.position_coder == FIXED, "a coder of gaps where there are none")
    if entry.positions == IN_CODES:
        require(1 <= entry.centroids <= 255, "zeros in the codes of too many centroids, or none")
        require(entry.code_coder != CONTEXT, "zeros in codes by the context coder")
    require(entry.has_codes or entry.code_coder == FIXED, "a coder of codes where there are none")


def read_forms(entry: Entry, data: Bytes) -> None:
    if entry.centroids == 0:
        form = data.u8()
        require(form <= 3, "an unknown form of values")
        entry.value_form = form & 1
        if form & 2:
            require(entry.value_form == 1 and entry.kept == entry.numel, "a distance of no planes")
            entry.distance = data.varint()
            require(1 <= entry.distance < entry.numel, "a distance outside the tensor")
        return
    form = data.u8()
    require(form <= 31 and form & 7 <= 5, "an unknown form of codebooks")
    entry.codebook_form = form & 7
    entry.is_plain = bool(form & 16)
    if form & 8:
        entry.group = data.varint()
        require(1 <= entry.group < entry.numel, "a group outside the tensor")
        require(entry.codebook_form != 4 and not entry.is_plain, "a form without groups")
    else:
        require(entry.codebook_form != 5, "a form for groups")
    require(entry.codebook_form not in (1, 2, 3) or entry.dtype == "float32", "a narrower codebook")
    entries = entry.groups * entry.centroids
    fixed = {0: entries * entry.item, 1: 2 * entries, 2: 2 * entries, 3: 1 + 2 * entries}
    if entry.codebook_form in fixed:
        entry.sizes["codebook"] = fixed[entry.codebook_form]
    else:
        entry.sizes["codebook"] = data.varint()
        require(entry.sizes["codebook"] > 0, "empty codebooks")


def read_sizes(entry: Entry, data: Bytes) -> None:
    if entry.positions == GAPS:
        entry.gap_bits = data.u8()
        require(2 <= entry.gap_bits <= 16, "gap bits outside 2..16")
        entry.fillers = data.varint()
        require(entry.fillers <= entry.numel >> entry.gap_bits, "more fillers than fit")
    if entry.positions in (GAPS, IN_CONTEXT):
        entry.sizes["positions"] = data.varint()
        require(entry.positions == IN_CONTEXT or entry.sizes["positions"] > 0, "empty positions")
    elif entry.positions == BITS:
        entry.sizes["positions"] = (entry.numel + 7) // 8
    if entry.has_codes:
        entry.sizes["codes"] = data.varint()
        require(entry.code_coder == CONTEXT or entry.sizes["codes"] > 0, "empty codes")
    if entry.centroids == 0:
        raw = entry.kept * entry.item
        entry.sizes["values"] = data.varint() if entry.value_form == 1 else raw
        require(entry.sizes["values"] > 0, "empty values")


def check_chunk(entry: Entry, is_chunked: bool) -> None:
    if entry.positions == IN_CONTEXT or entry.code_coder == CONTEXT:
        elements = entry.chunk if is_chunked else entry.numel
        require(elements <= 2**22 and entry.columns <= 2**20, "too much for the context coder")
        require(elements % entry.columns == 0, "chunks of no whole rows")
    if not is_chunked:
        require(entry.numel <= 2**24, "a tensor of more than 2^24 elements in one chunk")
        return
    require(entry.chunk % 64 == 0 and 2**16 <= entry.chunk <= 2**24, "a chunk of another size")
    require(entry.chunk < entry.numel, "a single chunk")


def read_header(data: bytes) -> None:
    require(data[:8] == MAGIC, "not a pomona file")
    require(len(data) >= HEADER_SIZE + FOOTER_SIZE, "a file that is cut short")
    version, flags, crc = struct.unpack("<HHI", data[8:16])
    require(crc == crc32c(data[:12]), "header checksum")
    require(version >= VERSION, "a version that was never released")
    if version > VERSION or flags != 0:
        raise NewerVersion(f"version {version}, flags {flags}")


def read_directory(data: bytes) -> tuple[list[Entry], dict[int, bytes]]:
    """The tensors with their sections, and the other sections by kind."""
    footer = data[-FOOTER_SIZE:]
    directory_offset, file_size, directory_crc, footer_crc = struct.unpack("<QQII", footer)
    require(footer_crc == crc32c(footer[:20]), "footer checksum")
    require(file_size == len(data), "file size")
    require(HEADER_SIZE <= directory_offset <= file_size - FOOTER_SIZE, "directory offset")
    directory_bytes = data[directory_offset : file_size - FOOTER_SIZE]
    require(directory_crc == crc32c(directory_bytes), "directory checksum")
    directory = Bytes(directory_bytes)
    sections = Bytes(data[:directory_offset])
    sections.take(HEADER_SIZE)
    entries = []
    for _ in range(directory.varint()):
        entry, crc = read_entry(directory)
        entry.section = sections.take(sum(entry.sizes.values()))
        require(crc is None or crc == crc32c(entry.section), f"checksum of {entry.name}")
        entries.append(entry)
    others = {}
    for _ in range(directory.varint()):
        kind, size, crc = directory.varint(), directory.varint(), directory.u32()
        require(size > 0, "an empty section")
        others[kind] = sections.take(size)
        require(crc == crc32c(others[kind]), "checksum of another section")
        if kind % 2 == 1:
            raise NewerVersion(f"a section of kind {kind}")
    require(directory.rest() == b"", "bytes after the last entry")
    require(sections.rest() == b"", "a gap before the directory")
    require(len({entry.name for entry in entries}) == len(entries), "a name that stands twice")
    return entries, others


# Codebooks.


def number_of(dtype: str, item: bytes) -> float:
    if dtype == "bfloat16":
        return struct.unpack("<f", b"\0\0" + item)[0]
    return struct.unpack("<f" if dtype == "float32" else "<e", item)[0]


def item_of(dtype: str, number: float) -> bytes:
    if dtype == "float32":
        return struct.pack("<f", number)
    if dtype == "float16":
        return struct.pack("<e", number)
    return struct.pack("<f", number)[2:]


def split(data: bytes, item: int) -> list[bytes]:
    return [data[i : i + item] for i in range(0, len(data), item)]


def progression(entry: Entry, data: Bytes) -> list[float]:
    exponent = struct.unpack("<b", data.take(1))[0]
    first, left_out = unzigzag(data.varint()), data.varint()
    steps = entry.centroids + left_out
    require(steps <= 4096, "a progression of more than 4096 steps")
    taken = list(range(steps))
    if left_out:
        bits = Bits(data.take((steps + 7) // 8))
        taken = [step for step in range(steps) if bits.bit()]
        bits.finish()
    require(len(taken) == entry.centroids, "another number of entries")
    return [(first + step) * 2.0**exponent for step in taken]


def read_codebooks(entry: Entry) -> list[list[bytes]]:
    """The entries of each codebook as elements of the dtype."""
    data = Bytes(entry.section[: entry.sizes["codebook"]])
    form = entry.codebook_form
    if form == 0:
        items = split(data.rest(), entry.item)
    elif form in (1, 2):
        narrow = "bfloat16" if form == 1 else "float16"
        items = [item_of(entry.dtype, number_of(narrow, item)) for item in split(data.rest(), 2)]
    elif form == 3:
        exponent = struct.unpack("<b", data.take(1))[0]
        integers = [struct.unpack("<h", item)[0] for item in split(data.rest(), 2)]
        items = [item_of(entry.dtype, n * 2.0**exponent) for n in integers]
    elif form == 4:
        items = [item_of(entry.dtype, number) for number in progression(entry, data)]
    else:
        tables = read_value_tables(entry, data)
        items = planes(entry, tables, data.rest(), entry.groups * entry.centroids, 0)
    require(data.rest() == b"", "bytes after the codebooks")
    codebooks = [items[i : i + entry.centroids] for i in range(0, len(items), entry.centroids)]
    for codebook in codebooks:
        check_ascending(entry.dtype, codebook, may_repeat=entry.group > 0)
    return codebooks


def check_ascending(dtype: str, codebook: list[bytes], may_repeat: bool) -> None:
    numbers = [number_of(dtype, item) for item in codebook]
    require(all(number == number for number in numbers), "NaN in a codebook")
    has_repeated = False
    for i in range(1, len(numbers)):
        if codebook[i] == codebook[i - 1]:
            has_repeated = True
            require(may_repeat, "an entry that stands twice")
            continue
        signs = codebook[i - 1][-1] >> 7, codebook[i][-1] >> 7
        zeros = numbers[i - 1] == numbers[i] == 0 and signs == (1, 0)
        ascends = numbers[i - 1] < numbers[i] or zeros
        require(ascends and not has_repeated, "a codebook that is not ascending")


# Values.


def read_value_tables(entry: Entry, data: Bytes) -> list[Table]:
    tables = []
    for _ in range(entry.item):
        coder = data.u8()
        require(coder <= RANS, "a plane by an unknown coder")
        tables.append(read_table(coder, data, 256))
    return tables


def planes(
    entry: Entry, tables: list[Table], piece: bytes, count: int, distance: int
) -> list[bytes]:
    data = Bytes(piece)
    sizes = [data.varint() for _ in range(entry.item - 1)]
    pieces = [data.take(size) for size in sizes] + [data.rest()]
    columns = [
        decode_symbols(table, piece, count, 256)
        for table, piece in zip(tables, pieces, strict=True)
    ]
    bits = 8 * entry.item
    items: list[int] = []
    for i in range(count):
        x = sum(columns[p][i] << 8 * p for p in range(entry.item))
        if entry.dtype in FLOATING:
            x = x >> 1 | (x & 1) << (bits - 1)
        if distance and i >= distance:
            before = items[i - distance]
            x = x ^ before if entry.dtype in FLOATING else (x + before) % 2**bits
        items.append(x)
    return [x.to_bytes(entry.item, "little") for x in items]


# Positions.


def gap_alphabet(b: int) -> int:
    return 1 + (2**b if b <= 7 else 128 + 8 * (b - 7))


def gap_positions(entry: Entry, table: Table, data: bytes, c: Chunk) -> list[int]:
    b = entry.gap_bits
    alphabet = gap_alphabet(b)
    filler = alphabet - 1
    extra = Bits(b"")
    if b >= 8:
        cursor = Bytes(data)
        data = cursor.take(cursor.varint())
        extra = Bits(cursor.rest())
    symbols = decode_symbols(table, data, c.kept + c.fillers, alphabet)
    require(symbols.count(filler) == c.fillers, "another number of fillers")
    require(not symbols or symbols[-1] != filler, "a filler at the end")
    positions = []
    at = 0
    for symbol in symbols:
        if symbol == filler:
            at += 2**b
            continue
        gap = symbol
        if symbol >= 128:
            m = 7 + (symbol - 128) // 8
            gap = (8 + (symbol - 128) % 8) << (m - 3) | extra.number(m - 3)
        at += gap
        require(at < c.size, "a position outside the chunk")
        positions.append(at)
        at += 1
    extra.finish()
    return positions


def bit_positions(data: bytes, c: Chunk) -> list[int]:
    bits = Bits(data)
    positions = [i for i in range(c.size) if bits.bit()]
    bits.finish()
    return positions


# Tensors.


@dataclass
class Chunk:
    begin: int
    size: int
    kept: int = 0
    fillers: int = 0
    position_size: int = 0
    payload_size: int = 0


def read_chunks(entry: Entry, data: Bytes, position_table: int, payload_table: int) -> list[Chunk]:
    """What lies where; reads the table of chunks."""
    each = entry.chunk or entry.numel
    chunks = [Chunk(begin, min(each, entry.numel - begin)) for begin in range(0, entry.numel, each)]
    position_size = entry.sizes.get("positions", 0) - position_table
    payload_size = entry.sizes.get("codes", 0) + entry.sizes.get("values", 0) - payload_table
    require(position_size >= 0 and payload_size >= 0, "a table larger than its part")
    if not entry.chunk:
        chunks[0].kept = entry.kept
        chunks[0].fillers = entry.fillers
        chunks[0].position_size = position_size
        chunks[0].payload_size = payload_size
        return chunks
    table = Bytes(data.take(entry.sizes["chunks"]))
    for c in chunks:
        has_kept = entry.positions in (GAPS, BITS, IN_CONTEXT)
        c.kept = table.varint() if has_kept else c.size
        c.fillers = table.varint() if entry.positions == GAPS else 0
        if entry.positions in (GAPS, IN_CONTEXT):
            c.position_size = table.varint()
        elif entry.positions == BITS:
            c.position_size = (c.size + 7) // 8
        if entry.has_codes or (entry.centroids == 0 and entry.value_form == 1):
            c.payload_size = table.varint()
        elif entry.centroids == 0:
            c.payload_size = c.kept * entry.item
    require(table.rest() == b"", "bytes after the table of chunks")
    require(sum(c.fillers for c in chunks) == entry.fillers, "another number of fillers")
    require(sum(c.position_size for c in chunks) == position_size, "another size of positions")
    require(sum(c.payload_size for c in chunks) == payload_size, "another size of codes or values")
    return chunks


def decode_tensor(entry: Entry) -> bytes:
    """The row-major bytes of a tensor."""
    dense = [bytes(entry.item)] * entry.numel
    if entry.kept == 0:
        return b"".join(dense)
    codebooks = read_codebooks(entry) if entry.centroids else []
    data = Bytes(entry.section)
    data.take(entry.sizes.get("codebook", 0))
    begin = data.at
    gaps = None
    if entry.positions == GAPS:
        gaps = read_table(entry.position_coder, data, gap_alphabet(entry.gap_bits))
    position_table = data.at - begin
    begin = data.at
    alphabet = entry.centroids + (entry.positions == IN_CODES)
    codes_table = values_tables = None
    if entry.has_codes and entry.code_coder != CONTEXT:
        codes_table = read_table(entry.code_coder, data, alphabet)
    if entry.centroids == 0 and entry.value_form == 1:
        values_tables = read_value_tables(entry, data)
    kept = 0
    for c in read_chunks(entry, data, position_table, data.at - begin):
        position_bytes, payload = data.take(c.position_size), data.take(c.payload_size)
        if entry.positions == IN_CODES:
            codes = decode_symbols(codes_table, payload, c.size, alphabet)
            places = [i for i, code in enumerate(codes) if code > 0]
            codes = [code - 1 for code in codes if code > 0]
        else:
            places = chunk_positions(entry, gaps, position_bytes, c)
            require(len(places) == c.kept, "another number of kept weights")
            codes = chunk_codes(entry, codes_table, payload, c, places)
        if entry.centroids == 0:
            items = split(payload, entry.item)
            if entry.value_form == 1:
                items = planes(entry, values_tables, payload, c.kept, entry.distance)
            require(len(items) == len(places), "another number of values")
        else:
            of = entry.group or entry.numel
            items = [
                codebooks[(c.begin + i) // of][code] for i, code in zip(places, codes, strict=True)
            ]
        for place, item in zip(places, items, strict=True):
            dense[c.begin + place] = item
        kept += len(places)
    require(data.rest() == b"", "bytes after the last chunk")
    require(kept == entry.kept, "another number of kept weights")
    return b"".join(dense)


def chunk_positions(entry: Entry, gaps: Table | None, data: bytes, c: Chunk) -> list[int]:
    if entry.positions == NONE:
        return list(range(c.size))
    if entry.positions == GAPS:
        return gap_positions(entry, gaps, data, c)
    if entry.positions == BITS:
        return bit_positions(data, c)
    from . import context_coder

    matrix = context_coder.Matrix(c.size // entry.columns, entry.columns, entry.inner)
    return context_coder.decode_mask(data, matrix, c.kept)


def chunk_codes(
    entry: Entry, table: Table | None, data: bytes, c: Chunk, places: list[int]
) -> list[int]:
    if not entry.has_codes:
        return [0] * len(places)
    if entry.code_coder != CONTEXT:
        return decode_symbols(table, data, len(places), entry.centroids)
    from . import context_coder

    matrix = context_coder.Matrix(c.size // entry.columns, entry.columns, entry.inner)
    return context_coder.decode_codes(data, matrix, places, entry.centroids)


def check(data: bytes) -> None:
    """Everything that can be refused without decoding a tensor."""
    read_header(data)
    read_directory(data)


def decode(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a file: name -> (dtype, shape, row-major bytes)."""
    read_header(data)
    entries, _ = read_directory(data)
    return {entry.name: (entry.dtype, entry.shape, decode_tensor(entry)) for entry in entries}
