"""docs/format.md against the files that the library writes, through the second decoder."""

import struct
from pathlib import Path

import pytest
from reference import pomona_file

GOLDEN = Path(__file__).parents[2] / "golden" / "v1.pomona"


def scatter(i):
    """A hash of an index; tests/cpp/encode/golden_file_test.cpp has the same."""
    return i * 2654435761 % 2**32


def pruned_and_shared():
    centroids = [-0.75, -0.5, -0.25, 0.25, 0.5, 0.75]
    values = []
    for i in range(2000):
        h = scatter(i)
        values.append(centroids[(h >> 8) % 6] if h >> 24 < 26 else 0.0)
    return values


EXPECTED = {
    "fc.weight": ("float32", (40, 50), struct.pack("<2000f", *pruned_and_shared())),
    "fc.bias": ("float32", (5,), struct.pack("<5f", 0.5, -0.0, 1.5, 0.0, 2.5)),
    "conv.weight": (
        "float16",
        (4, 1, 3, 3),
        struct.pack("<36H", *(0 if i % 5 == 0 else 0x3C00 + 256 * (i % 3) for i in range(36))),
    ),
    "conv.bias": ("bfloat16", (4,), struct.pack("<4H", 0x3F80, 0x8000, 0x7FC1, 0xFF80)),
    "shared.bfloat16": (
        "bfloat16",
        (64,),
        struct.pack("<64H", *(0x8000 if i % 2 else 0x3F80 for i in range(64))),
    ),
    "steps": ("int64", (), struct.pack("<q", 1234567890123)),
    "empty": ("float32", (0, 3), b""),
    "flags": ("bool", (10,), bytes(i % 3 == 0 for i in range(10))),
    "zeros": ("float32", (2, 3, 4), bytes(96)),
    "ones": ("float32", (64,), struct.pack("<64f", *[1.0] * 64)),
    "every.second": (
        "float32",
        (200,),
        struct.pack("<200f", *((0.0 if i % 2 == 0 else 1.0 + i % 4) for i in range(200))),
    ),
    "far": ("float32", (5000,), bytes(4 * 4999) + struct.pack("<f", 2.5)),
    "float64": ("float64", (3,), struct.pack("<3d", 0.0, 0.1, -0.2)),
    "uint8": ("uint8", (3,), bytes([0, 1, 255])),
    "int8": ("int8", (3,), struct.pack("<3b", 0, 1, -1)),
    "int16": ("int16", (3,), struct.pack("<3h", 0, 1, -1)),
    "int32": ("int32", (3,), struct.pack("<3i", 0, 1, -1)),
}


def test_second_decoder_reads_the_golden_file_bit_for_bit():
    tensors = pomona_file.decode(GOLDEN.read_bytes())
    assert list(tensors) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        assert tensors[name] == expected, name


def test_golden_file_has_every_kind_of_section_and_stream():
    entries = {e.name: e for e in pomona_file.read_directory(GOLDEN.read_bytes())}
    kinds = {section for e in entries.values() for section, data in e.sections.items() if data}
    assert kinds == {"codebook", "positions", "codes", "values"}
    assert entries["far"].fillers > 0
    streams = [
        e.sections[s] for e in entries.values() for s in ("positions", "codes") if e.sections[s]
    ]
    assert {stream[0] & 1 for stream in streams} == {0, 1}  # fixed width and Huffman


def test_second_decoder_computes_the_check_value_of_crc32c():
    assert pomona_file.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("bits", range(1, 9))
def test_second_decoder_refuses_a_flipped_bit_anywhere(bits):
    data = bytearray(GOLDEN.read_bytes())
    for at in range(bits, len(data), 97):
        data[at] ^= 1 << (bits - 1)
        with pytest.raises(pomona_file.DamagedFile):
            pomona_file.decode(bytes(data))
        data[at] ^= 1 << (bits - 1)


def test_second_decoder_tells_a_newer_version_from_damage():
    data = bytearray(GOLDEN.read_bytes())
    data[8] = 2
    data[12:16] = struct.pack("<I", pomona_file.crc32c(bytes(data[:12])))
    with pytest.raises(pomona_file.NewerVersion, match="version 2"):
        pomona_file.decode(bytes(data))


def test_document_names_the_numbers_of_the_second_decoder():
    document = (GOLDEN.parents[2] / "docs" / "format.md").read_text()
    for number, (dtype, size) in pomona_file.DTYPES.items():
        assert f"| {number} | {dtype} | {size} |" in document
    assert " | ".join(f"{byte:02X}" for byte in pomona_file.MAGIC) in document
