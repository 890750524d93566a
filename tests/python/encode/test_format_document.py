"""docs/format.md against the files that the library writes, through the second decoder."""

import struct
from pathlib import Path

import pytest
import torch
from reference import context_coder, pomona_file

import pomona

FOLDER = Path(__file__).parents[2] / "golden"
GOALS = ("smallest", "fast", "huffman", "rans", "context")


def golden(goal):
    return (FOLDER / f"v2-{goal}.pomona").read_bytes()


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


def floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def single(number):
    """A double as float32 rounds it."""
    return struct.unpack("<f", struct.pack("<f", number))[0]


def of_its_row(i):
    h = scatter(i)
    return 0.0 if h >> 30 == 0 else i // 64 + 0.125 * (h % 7 + 1)


def image(i):
    x, y = i % 8, i // 8 % 8
    is_inside = 1 < x < 6 and 1 < y < 6
    return 0.5 + i % 3 if is_inside and scatter(i) >> 30 == 0 else 0.0


def kernel(i):
    h = scatter(i)
    return 0.25 * ((h >> 8) % 4 + 1) if h >> 30 < 2 else 0.0


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
    "grouped": ("float32", (48, 64), floats([of_its_row(i) for i in range(3072)])),
    "grid": ("float32", (40,), floats([(scatter(i) >> 25) / 64 - 1 for i in range(40)])),
    "planes": (
        "float32",
        (20, 30),
        floats([1 + (scatter(i) >> 12) / 2**24 for i in range(600)]),
    ),
    "ids": ("int64", (100,), struct.pack("<100q", *range(1, 101))),
    "rows": ("float32", (10, 30), floats([single(scatter(i % 30)) / 1024 for i in range(300)])),
    "few.pruned": ("float32", (30, 40), floats([(scatter(i) >> 8) % 5 for i in range(1200)])),
    "half.kept": (
        "float32",
        (600,),
        floats([single(scatter(i)) / 1024 if scatter(i) >> 31 else 0.0 for i in range(600)]),
    ),
    "image": ("float32", (12, 64), floats([image(i) for i in range(768)])),
    "kernel": ("float32", (6, 5, 3, 3), floats([kernel(i) for i in range(270)])),
}
CHUNKS = (
    "float32",
    (1100, 1000),
    floats([0.5 * (i % 4 + 1) if i % 20011 == 7 else 0.0 for i in range(1_100_000)]),
)


def expected(goal):
    """Without the tensor of several chunks where a plain decoder would take minutes for it."""
    return EXPECTED if goal in ("smallest", "context") else {**EXPECTED, "chunks": CHUNKS}


@pytest.mark.parametrize("goal", GOALS)
def test_second_decoder_reads_the_golden_file_bit_for_bit(goal):
    tensors = pomona_file.decode(golden(goal))
    assert list(tensors) == list(expected(goal))
    for name, tensor in expected(goal).items():
        assert tensors[name] == tensor, name


@pytest.mark.parametrize("goal", GOALS)
def test_library_reads_the_golden_file_bit_for_bit(goal):
    file = pomona.File(FOLDER / f"v2-{goal}.pomona")
    assert file.metadata == {"golden": 2}
    for name, (dtype, shape, data) in expected(goal).items():
        tensor = file[name]
        assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{dtype}", shape)
        assert bytes(tensor.reshape(-1).view(torch.uint8).tolist()) == data, name


def test_golden_files_have_every_kind_of_part():
    entries = [e for goal in GOALS for e in pomona_file.read_directory(golden(goal))[0]]
    kept = [e for e in entries if e.kept]
    assert {e.positions for e in kept} == {0, 1, 2, 3, 4}
    assert {e.position_coder for e in kept if e.positions == 1} == {0, 1, 2}
    assert {e.code_coder for e in kept if e.has_codes} == {0, 1, 2, 3}
    assert {e.value_form for e in kept if e.centroids == 0} == {0, 1}
    assert {e.codebook_form for e in kept if e.centroids} >= {0, 1, 4}
    assert any(e.group for e in kept)
    assert any(e.distance for e in kept)
    assert any(e.is_plain for e in kept)
    assert any(e.chunk for e in kept)
    assert any(e.fillers for e in kept)
    assert any(e.gap_bits >= 8 for e in kept)


def test_second_decoder_computes_the_check_value_of_crc32c():
    assert pomona_file.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("bits", range(1, 9))
def test_second_decoder_refuses_a_flipped_bit_anywhere(bits):
    data = bytearray(golden("huffman"))
    for at in range(bits, len(data), 97):
        data[at] ^= 1 << (bits - 1)
        with pytest.raises(pomona_file.DamagedFile):
            pomona_file.check(bytes(data))
        data[at] ^= 1 << (bits - 1)


def test_second_decoder_tells_a_newer_version_from_damage():
    data = bytearray(golden("fast"))
    data[8] = 3
    data[12:16] = struct.pack("<I", pomona_file.crc32c(bytes(data[:12])))
    with pytest.raises(pomona_file.NewerVersion, match="version 3"):
        pomona_file.decode(bytes(data))


def test_document_names_the_numbers_of_the_second_decoder():
    document = (FOLDER.parents[1] / "docs" / "format.md").read_text()
    for number, (dtype, size) in pomona_file.DTYPES.items():
        assert f"| {number} | {dtype} | {size} |" in document
    assert " | ".join(f"{byte:02X}" for byte in pomona_file.MAGIC) in document
    words = " ".join(document.split())
    assert " ".join(map(str, context_coder.MASK_WEIGHTS)) in words
    assert " ".join(map(str, context_coder.CODE_WEIGHTS)) in words


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("goal", GOALS)
def test_second_decoder_reads_what_the_library_writes(tmp_path, goal, seed):
    generator = torch.Generator().manual_seed(seed)

    def sparse(*shape, levels, density):
        kept = torch.rand(shape, generator=generator) < density
        values = torch.randint(1, levels + 1, shape, generator=generator) / 8 - levels / 16
        return torch.where(kept, values, 0.0)

    tensors = {
        "fc": sparse(20, 49, levels=5, density=0.1),
        "conv": sparse(6, 4, 3, 3, levels=200, density=0.6),
        "pixels": sparse(9, 64, levels=3, density=0.05),
        "large": sparse(70, 100, levels=16, density=0.5),
        "half": torch.randn(11, 13, generator=generator).half(),
        "brain": torch.randn(300, generator=generator).bfloat16(),
        "doubles": torch.randn(50, generator=generator).double(),
        "bias": torch.randn(7, generator=generator),
    }
    path = tmp_path / "net.pomona"
    pomona.save(tensors, path, coding=goal)
    decoded = pomona_file.decode(path.read_bytes())
    for name, tensor in tensors.items():
        assert decoded[name][1] == tuple(tensor.shape)
        data = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
        assert decoded[name][2] == data, name
