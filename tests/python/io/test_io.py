"""save, load and load_: every bit back, or a clear error and nothing changed."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference.pomona_file import crc32c
from torch import nn

import pomona
from pomona import CorruptFile, InvalidArgument

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def net() -> nn.Sequential:
    """Pruned, partly shared, with buffers of floats and integers."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )
    with torch.no_grad():
        model[0].weight.copy_((model[0].weight * 8).round() / 8)
        model[4].weight[torch.rand(10, 64) < 0.8] = 0
    model(random(8, 1, 6, 6))  # statistics
    return model


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_same_bits(tensors, expected):
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype, name
        assert tensor.shape == expected[name].shape, name
        assert torch.equal(bits(tensor), bits(expected[name])), name


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_model_comes_back_bit_for_bit_in_a_new_process(tmp_path):
    model = net()
    pomona.save(model, tmp_path / "net.pomona")
    torch.save(model.state_dict(), tmp_path / "net.pt")
    program = (
        "import sys, torch, pomona\n"
        "loaded = pomona.load(sys.argv[1])\n"
        "for name, want in torch.load(sys.argv[2]).items():\n"
        "    got = loaded.pop(name)\n"
        "    assert got.dtype == want.dtype and got.shape == want.shape, name\n"
        "    flat = lambda t: t.contiguous().flatten().view(torch.uint8)\n"
        "    assert torch.equal(flat(got), flat(want)), name\n"
        "assert not loaded\n"
    )
    files = [str(tmp_path / "net.pomona"), str(tmp_path / "net.pt")]
    subprocess.run([sys.executable, "-c", program, *files], check=True)


def test_load_gives_every_tensor_in_order(tmp_path):
    model = net()
    pomona.save(model, tmp_path / "net.pomona")
    assert_same_bits(pomona.load(tmp_path / "net.pomona"), model.state_dict())


def test_load_copies_into_the_parameters_that_the_optimizer_holds(tmp_path):
    model, other = net(), net()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    pomona.save(model, tmp_path / "net.pomona")
    pomona.load_(other, tmp_path / "net.pomona")
    assert_same_bits(other.state_dict(), model.state_dict())
    assert [id(p) for p in other.parameters()] == held
    assert all(p.requires_grad and p.is_leaf for p in other.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (65,), (5, 7), (2, 3, 4, 5)])
def test_every_dtype_and_shape_comes_back(tmp_path, dtype, shape):
    tensor = (random(*shape) * 3).to(dtype)
    pomona.save({"t": tensor}, tmp_path / "t.pomona")
    assert_same_bits(pomona.load(tmp_path / "t.pomona"), {"t": tensor})


def test_strides_do_not_matter(tmp_path):
    base = random(4, 6, 5, 3)
    tensors = {
        "transposed": random(4, 6).T,
        "channels_last": base.to(memory_format=torch.channels_last),
        "every_other": base[:, ::2],
        "expanded": random(1, 6).expand(5, 6),
        "negative": torch.complex(random(4), random(4)).conj().imag,
    }
    assert tensors["negative"].is_neg()
    pomona.save(tensors, tmp_path / "t.pomona")
    loaded = pomona.load(tmp_path / "t.pomona")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_load_writes_through_any_strides(tmp_path):
    model, other = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    pomona.save(model, tmp_path / "t.pomona")
    pomona.load_(other, tmp_path / "t.pomona")
    assert torch.equal(other.weight, model.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)


def test_negative_zero_and_every_nan_of_a_buffer_come_back(tmp_path):
    patterns = torch.tensor([0, -(2**31), 0x7FC00000, 0x7F800001, -1, 0x7F800000, 1])
    buffer = patterns.to(torch.int32).view(torch.float32)
    model = nn.Module()
    model.register_buffer("table", buffer)
    pomona.save(model, tmp_path / "t.pomona")
    assert_same_bits(pomona.load(tmp_path / "t.pomona"), {"table": buffer})


def test_an_empty_model_comes_back(tmp_path):
    pomona.save(nn.ReLU(), tmp_path / "t.pomona")
    assert pomona.load(tmp_path / "t.pomona") == {}
    pomona.load_(nn.ReLU(), tmp_path / "t.pomona")


def test_tied_parameters_are_saved_under_each_name(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model, other = Tied(), Tied()
    pomona.save(model, tmp_path / "t.pomona")
    assert list(pomona.load(tmp_path / "t.pomona")) == ["embed.weight", "head.weight"]
    pomona.load_(other, tmp_path / "t.pomona")
    assert torch.equal(other.head.weight, model.embed.weight)
    assert other.head.weight is other.embed.weight


def test_names_lose_the_prefixes_of_wrappers(tmp_path):
    model = net()
    pomona.save(torch.compile(model), tmp_path / "t.pomona")
    assert list(pomona.load(tmp_path / "t.pomona")) == list(model.state_dict())
    other = net()
    pomona.load_(torch.compile(other), tmp_path / "t.pomona")
    assert_same_bits(other.state_dict(), model.state_dict())


def test_a_packed_layer_is_saved_with_its_dense_weight(tmp_path):
    path, x = tmp_path / "t.pomona", random(4)
    model = nn.Sequential(pomona.nn.PackedLinear(random(5, 4), random(5)))
    pomona.save(model, path)
    dense = nn.Sequential(nn.Linear(4, 5))
    pomona.load_(dense, path)
    torch.testing.assert_close(dense(x), model(x))
    other = nn.Sequential(pomona.nn.PackedLinear(torch.eye(5, 4), torch.zeros(5)))
    pomona.load_(other, path)
    torch.testing.assert_close(other(x), model(x))  # of another layout, which adds up otherwise


def test_a_packed_layer_refuses_a_file_with_nan_and_stays_as_it_was(tmp_path):
    path = tmp_path / "t.pomona"
    pomona.save({"weight": torch.full((5, 4), float("nan")), "bias": torch.ones(5)}, path)
    layer = pomona.nn.PackedLinear(torch.eye(5, 4), torch.zeros(5))
    with pytest.raises(InvalidArgument, match="expected `weight` to be finite, as a packed layer"):
        pomona.load_(layer, path)
    assert torch.equal(layer.weight, torch.eye(5, 4))
    assert layer.bias.tolist() == [0.0] * 5


def test_zeros_with_a_minus_sign_are_kept_and_warned_of(tmp_path, caplog):
    model = nn.Linear(4, 5)
    model.weight.data.copy_(-torch.zeros(5, 4))
    pomona.save(model, tmp_path / "t.pomona")
    assert pomona.load(tmp_path / "t.pomona")["weight"].signbit().all()
    assert "`weight` holds 20 zeros with a minus sign" in caplog.text


def test_paths_may_be_strings(tmp_path):
    path = str(tmp_path / "näme with spaces.pomona")
    pomona.save({"t": torch.ones(2)}, path)
    assert pomona.load(path)["t"].tolist() == [1.0, 1.0]
    assert [entry.name for entry in pomona.entries(path)] == ["t"]


def test_the_report_counts_the_bytes_of_the_real_file(tmp_path):
    path = tmp_path / "net.pomona"
    report = pomona.save(net(), path)
    assert report.file_bytes == path.stat().st_size
    assert sum(entry.bytes for entry in report.entries) < report.file_bytes
    state = net().state_dict().values()
    assert report.dense_bytes == sum(t.numel() * t.element_size() for t in state)
    assert report.ratio == pytest.approx(report.fp32_bytes / path.stat().st_size)
    listed = pomona.entries(path)
    assert [(e.name, e.kept, e.bytes) for e in listed] == [
        (e.name, e.kept, e.bytes) for e in report.entries
    ]


def test_the_report_is_a_table_and_is_logged_not_printed(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="pomona"):
        report = pomona.save(net(), tmp_path / "net.pomona")
    lines = str(report).splitlines()
    assert lines[0].split()[:4] == ["tensor", "shape", "dtype", "kept"]
    assert lines[1].split()[:3] == ["0.weight", "4x1x3x3", "float32"]
    assert lines[-2].startswith("whole file")
    assert lines[-1].endswith("smaller than fp32")
    assert str(report) in caplog.text
    assert capsys.readouterr().out == ""


def test_gap_bits_are_those_asked_for(tmp_path):
    weight = torch.where(random(50, 50) > 1.2, random(50, 50), 0)
    for width in (2, 5, 8):
        report = pomona.save({"w": weight}, tmp_path / "w.pomona", gap_bits=width)
        assert report.entries[0].gap_bits == width
    best = pomona.save({"w": weight}, tmp_path / "w.pomona").entries[0]
    assert best.position_bytes <= report.entries[0].position_bytes


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_save_refuses_parameters_that_are_not_finite_and_names_them_all(tmp_path, bad):
    model, path = net(), tmp_path / "net.pomona"
    pomona.save(model, path)
    before = path.read_bytes()
    model[0].bias.data[1] = bad
    model[4].weight.data[2, 3] = bad
    with pytest.raises(InvalidArgument, match=r"got NaN or Inf in: 0.bias, 4.weight"):
        pomona.save(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.ones(2).cfloat(),
            "expected `t` to have a dtype that a file can hold .* ComplexFloat",
        ),
        (torch.eye(3).to_sparse(), "expected `t` to be dense, got layout Sparse"),
        (
            torch.ones(2, device="meta"),
            "expected `t` to have data, got a tensor on the meta device",
        ),
        (3.0, "expected tensors by name, got float for 't'"),
        (None, "expected tensors by name, got NoneType for 't'"),
    ],
)
def test_save_refuses_what_a_file_cannot_hold_and_keeps_the_old_file(tmp_path, value, message):
    path = tmp_path / "t.pomona"
    pomona.save({"t": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match=message):
        pomona.save({"good": torch.ones(3), "t": value}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore")
def test_save_refuses_quantized_tensors(tmp_path):
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(InvalidArgument, match="expected `t` to be dense, got a quantized tensor"):
        pomona.save({"t": quantized}, tmp_path / "t.pomona")


def test_save_refuses_tensors_that_keep_their_data_elsewhere(tmp_path):
    with torch._subclasses.FakeTensorMode():
        fake = torch.ones(3)
    with pytest.raises(InvalidArgument, match="got a tensor subclass that keeps its data elsewher"):
        pomona.save({"t": fake}, tmp_path / "t.pomona")


def test_save_refuses_two_tensors_of_one_clean_name(tmp_path):
    with pytest.raises(InvalidArgument, match="fc"):
        pomona.save({"fc": torch.ones(1), "_orig_mod.fc": torch.ones(1)}, tmp_path / "t.pomona")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gap_bits", [-1, 1, 17, 2.5, True, "5"])
def test_save_refuses_other_gap_bits(tmp_path, gap_bits):
    with pytest.raises(InvalidArgument, match="gap_bits"):
        pomona.save({"t": torch.ones(1)}, tmp_path / "t.pomona", gap_bits=gap_bits)
    assert list(tmp_path.iterdir()) == []


def test_save_and_load_refuse_other_arguments(tmp_path):
    path = tmp_path / "t.pomona"
    with pytest.raises(
        InvalidArgument, match=r"expected `model` to be .* or a dict of tensors, got li"
    ):
        pomona.save([torch.ones(1)], path)
    with pytest.raises(InvalidArgument, match="expected tensors by name, got Tensor for 0"):
        pomona.save({0: torch.ones(1)}, path)
    with pytest.raises(
        InvalidArgument, match=r"expected `model` to be a torch.nn.Module, got dict"
    ):
        pomona.load_({}, path)
    for call in (lambda p: pomona.save({}, p), pomona.load, pomona.entries):
        with pytest.raises(InvalidArgument, match=r"expected `path` to be a str or a pathlib.Path"):
            call(3)


def test_load_lists_everything_that_does_not_fit_at_once(tmp_path):
    path = tmp_path / "t.pomona"
    pomona.save(
        {
            "0.weight": torch.ones(3, 5),
            "0.bias": torch.ones(3, dtype=torch.float64),
            "old.a": torch.ones(1),
            "old.b": torch.ones(1),
        },
        path,
    )
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = snapshot(model)
    with pytest.raises(InvalidArgument) as caught:
        pomona.load_(model, path)
    for words in (
        "missing: 1.weight, 1.bias",
        "unexpected: old.a, old.b",
        "wrong shape: 0.weight ([3, 5], the model has [3, 4])",
        "wrong dtype: 0.bias (Double, the model has Float)",
    ):
        assert words in str(caught.value)
    assert_same_bits(model.state_dict(), before)


def test_load_refuses_targets_that_cannot_be_written(tmp_path):
    path = tmp_path / "t.pomona"
    pomona.save({"t": torch.ones(2, 3), "u": torch.ones(2)}, path)
    model = nn.Module()
    model.register_buffer("t", torch.zeros(1, 3).expand(2, 3))
    model.register_buffer("u", torch.zeros(2))
    with pytest.raises(InvalidArgument, match=r"cannot be written: t \(expanded memory\)"):
        pomona.load_(model, path)
    assert model.u.tolist() == [0, 0]
    with pytest.raises(
        InvalidArgument, match=r"t \(on the meta device\), u \(on the meta device\)"
    ):
        pomona.load_(model.to("meta"), path)


def test_300_damaged_copies_are_refused_and_leave_the_model_as_it_was(tmp_path):
    path, damaged = tmp_path / "net.pomona", tmp_path / "damaged.pomona"
    model = net()
    pomona.save(model, path)
    good = path.read_bytes()
    other = net()
    before = snapshot(other)
    generator = torch.Generator().manual_seed(11)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    for trial in range(300):
        data = bytearray(good)
        if trial % 3 == 0:  # one bit
            data[draw(len(data))] ^= 1 << draw(8)
        elif trial % 3 == 1:  # cut short
            del data[draw(len(data)) :]
        else:  # a run of other bytes
            start = draw(len(data))
            run = data[start : start + 1 + draw(40)]
            data[start : start + len(run)] = bytes(b ^ (1 + draw(255)) for b in run)
        damaged.write_bytes(data)
        with pytest.raises(CorruptFile, match=r"at byte \d+: "):
            pomona.load_(other, damaged)
    assert_same_bits(other.state_dict(), before)


@pytest.mark.parametrize("data", [b"", b"x", b"not a pomona file at all" * 10, bytes(1000)])
def test_load_refuses_what_is_no_pomona_file(tmp_path, data):
    path = tmp_path / "t.pomona"
    path.write_bytes(data)
    for call in (pomona.load, pomona.entries):
        with pytest.raises(CorruptFile, match="header at byte 0: "):
            call(path)


def test_load_tells_a_missing_file_a_folder_and_a_path_under_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    for call in (pomona.load, pomona.entries, lambda p: pomona.load_(nn.ReLU(), p)):
        with pytest.raises(FileNotFoundError, match=r"none.pomona"):
            call(tmp_path / "none.pomona")
        with pytest.raises(IsADirectoryError, match="read"):
            call(tmp_path)
        with pytest.raises(NotADirectoryError, match="read"):
            call(file / "t.pomona")


def test_save_tells_a_missing_folder_a_folder_and_a_path_under_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    tensors = {"t": torch.ones(2)}
    with pytest.raises(FileNotFoundError, match=r"none/t.pomona"):
        pomona.save(tensors, tmp_path / "none" / "t.pomona")
    with pytest.raises(IsADirectoryError, match="write"):
        pomona.save(tensors, tmp_path)
    with pytest.raises(NotADirectoryError, match="write"):
        pomona.save(tensors, file / "t.pomona")


def test_no_permission_is_a_permission_error(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    pomona.save({"t": torch.ones(2)}, folder / "t.pomona")
    folder.chmod(0o500)
    try:
        (folder / "probe").touch()
    except PermissionError:
        pass
    else:
        pytest.skip("this user may write everywhere")
    with pytest.raises(PermissionError, match=r"t.pomona"):
        pomona.save({"t": torch.ones(3)}, folder / "t.pomona")
    assert pomona.load(folder / "t.pomona")["t"].numel() == 2


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "t.pomona"
    pomona.save({"t": torch.ones(3)}, path)
    before = path.read_bytes()
    program = (
        "import resource, signal, sys, torch, pomona\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    pomona.save({'t': torch.randn(100, 1000)}, sys.argv[1])\n"
        "except OSError as error:\n"
        "    print(type(error).__name__, error.errno, error.filename)\n"
    )
    run = [sys.executable, "-c", program, str(path)]
    output = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert output.split() == ["OSError", "27", str(path)]  # EFBIG, as ENOSPC would be
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 10_000


def test_a_newer_version_is_told_apart(tmp_path):
    path = tmp_path / "t.pomona"
    pomona.save({"t": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    data[8] = 3  # the version; then the header's checksum
    data[12:16] = crc32c(bytes(data[:12])).to_bytes(4, "little")
    path.write_bytes(data)
    for call in (pomona.load, pomona.entries, lambda p: pomona.load_(nn.ReLU(), p)):
        with pytest.raises(InvalidArgument, match="written by a newer version"):
            call(path)


def test_load_of_the_golden_file_still_works():
    golden = sorted((Path(__file__).parents[2] / "golden").glob("*.pomona"))
    assert golden
    for path in golden:
        assert len(pomona.load(path)) == len(pomona.entries(path)) > 0
