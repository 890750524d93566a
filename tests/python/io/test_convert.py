"""Other formats in and out."""

from __future__ import annotations

import struct

import pytest
import torch
from torch import nn

import pomona
from pomona import InvalidArgument, convert


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    tensors = {"w": torch.randn(20, 30), "bias": torch.randn(20), "half": torch.randn(4).half()}
    small = convert.compress(tensors, prune={"w": 0.8}, share={"w": 4})
    path = tmp_path / "net.pomona"
    pomona.save(small, path)
    return path


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_dense_safetensors_hold_the_same_tensors(file, tmp_path):
    pytest.importorskip("safetensors")
    convert.to_safetensors(file, tmp_path / "a.safetensors")
    read = convert.read_tensors(tmp_path / "a.safetensors")
    assert same(dict(sorted(pomona.load(file).items())), dict(sorted(read.items())))


def test_a_checkpoint_holds_the_same_tensors(file, tmp_path):
    convert.to_state_dict(file, tmp_path / "a.pt")
    assert same(pomona.load(file), torch.load(tmp_path / "a.pt", weights_only=True))
    assert same(pomona.load(file), convert.read_tensors(tmp_path / "a.pt"))


def test_onnx_has_the_weights_of_the_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    model.eval()
    small = convert.compress(model.state_dict(), prune={"*": 0.5})
    pomona.save(small, tmp_path / "net.pomona")
    convert.to_onnx(model, tmp_path / "net.pomona", tmp_path / "net.onnx", torch.randn(1, 6))
    graph = onnx.load(tmp_path / "net.onnx").graph
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    assert torch.equal(torch.tensor(weights["0.weight"]), small["0.weight"])


def test_compress_leaves_its_argument_alone():
    tensors = {"w": torch.randn(10, 10)}
    before = tensors["w"].clone()
    convert.compress(tensors, prune={"*": 0.5}, share={"*": 2})
    assert torch.equal(tensors["w"], before)


@pytest.mark.parametrize("content", [torch.ones(3), {}, {"a": 3}, [torch.ones(1)]])
def test_a_checkpoint_without_tensors_by_name_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InvalidArgument, match="expected tensors by name"):
        convert.read_tensors(tmp_path / "a.pt")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"nothing")
    with pytest.raises(InvalidArgument, match="expected tensors in"):
        convert.read_tensors(tmp_path / "a.pt")


def test_a_failed_export_leaves_the_old_file(tmp_path):
    old = tmp_path / "a.pt"
    old.write_bytes(b"old")
    (tmp_path / "bad.pomona").write_bytes(b"bad")
    with pytest.raises(pomona.CorruptFile):
        convert.to_state_dict(tmp_path / "bad.pomona", old)
    assert old.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "bad.pomona"]


def test_a_folder_in_place_of_a_file_is_refused(file, tmp_path):
    with pytest.raises(IsADirectoryError):
        convert.to_state_dict(file, tmp_path)


def test_256_centroids_beside_zeros_do_not_fit_codes_of_a_byte(tmp_path):
    values = torch.arange(1, 257).repeat(20).float().reshape(64, 80)
    values[0, 0] = 0
    pomona.save({"w": values}, tmp_path / "a.pomona")
    with pytest.raises(InvalidArgument, match="at most 255 centroids, got 256"):
        convert.to_shared_safetensors(tmp_path / "a.pomona", tmp_path / "a.safetensors")


def test_read_han_puts_codes_where_gaps_say_and_refuses_what_is_outside(tmp_path):
    data = struct.pack("<I16f2f", 2, *range(16), 0, 0) + bytes([0x21, 0xFF])
    (tmp_path / "a.net").write_bytes(data)
    with pytest.raises(InvalidArgument, match="positions of `fc` below 6, got 31"):
        convert.read_han(tmp_path / "a.net", [("fc", (2, 3))])
    tensors = convert.read_han(tmp_path / "a.net", [("fc", (2, 16))])
    assert tensors["fc.weight"].reshape(-1).nonzero().flatten().tolist() == [15, 31]
    assert tensors["fc.weight"].reshape(-1)[[15, 31]].tolist() == [1.0, 2.0]
