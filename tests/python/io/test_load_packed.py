"""load_packed_: a file's linear layers and embeddings straight into packed ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import pomona
from pomona import CorruptFile, InvalidArgument
from pomona.nn import (
    PackedEmbedding,
    PackedGRU,
    PackedLinear,
    PackedLSTM,
    PackedMultiheadAttention,
)


class Net(nn.Module):
    """Linear layers, one of them twice, and what is no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.hidden = nn.Linear(3 * 36, 40)
        self.again = self.hidden
        self.last = nn.Linear(40, 10, bias=False)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.last(self.hidden(x).relu())


@pytest.fixture
def trained():
    torch.manual_seed(0)
    model = Net().eval()
    pomona.Pruner(model, {"hidden*": 0.9}).step()
    pomona.Sharer(model, {"hidden.weight": 4}).step()
    return model


@pytest.fixture
def path(trained, tmp_path):
    pomona.save(trained, tmp_path / "net.pomona")
    return tmp_path / "net.pomona"


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net().eval()


X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("make", [lambda: Net().eval(), on_meta])
@pytest.mark.parametrize("layout", [None, "csr16", "pg32"])
def test_the_loaded_model_computes_the_same(trained, path, make, layout):
    model = make()
    assert pomona.load_packed_(model, path, layout=layout) == ["hidden"]
    assert type(model.hidden) is PackedLinear
    assert model.hidden is model.again
    assert type(model.last) is nn.Linear  # all its weights are kept, and differ
    if layout is not None:
        assert model.hidden.layout == layout
    torch.testing.assert_close(model(X), trained(X))
    assert torch.equal(model.hidden.weight, trained.hidden.weight)
    assert torch.equal(model.norm.running_var, trained.norm.running_var)
    assert all(not value.is_meta for value in model.state_dict().values())
    assert isinstance(model.conv.weight, nn.Parameter)


def test_a_precision_that_a_layer_cannot_have_becomes_fp32(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(pomona._C, "fast_precisions", lambda: ["fp32", "fixed16"])
    trained.last.weight.data[:, ::3] = 0  # pruned, with too many values for slots
    trained.last.weight.data[:, 1::3] = 0
    pomona.save(trained, tmp_path / "other.pomona")
    model = on_meta()
    assert pomona.load_packed_(model, tmp_path / "other.pomona", precision="fixed16") == [
        "hidden",
        "last",
    ]
    assert (model.hidden.precision, model.last.precision) == ("fixed16", "fp32")
    with pytest.raises(InvalidArgument, match=r"`last.weight` to fit pgv in fixed16"):
        pomona.load_packed_(on_meta(), tmp_path / "other.pomona", precision="fixed16", layout="pgv")


def test_a_precision_that_the_processor_lacks_becomes_fp32(path, monkeypatch):
    monkeypatch.setattr(pomona._C, "fast_precisions", lambda: ["fp32"])
    model = on_meta()
    pomona.load_packed_(model, path, precision="int8")
    assert model.hidden.precision == "fp32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "load_packed_: expected `precision` to be fp32, bf16, fixed16 or"),
        ({"layout": "csr"}, "expected `layout` to be csr16, pg32, pgv, lut or csc16, got csr"),
    ],
)
def test_refuses_unknown_options(path, options, message):
    model = on_meta()
    with pytest.raises(InvalidArgument, match=message):
        pomona.load_packed_(model, path, **options)
    assert type(model.hidden) is nn.Linear


def test_an_existing_model_keeps_its_parameters(trained, path):
    model = Net()
    conv = model.conv.weight
    pomona.load_packed_(model, path)
    assert model.conv.weight is conv
    assert torch.equal(conv, trained.conv.weight)


class Words(nn.Module):
    """Embeddings: pruned, one of few values, whole, one that another layer reads, and max_norm."""

    def __init__(self) -> None:
        super().__init__()
        self.pruned = nn.Embedding(60, 120, padding_idx=0)
        self.few = nn.Embedding(60, 120, dtype=torch.float16)
        self.whole = nn.Embedding(60, 120)
        self.tied = nn.Embedding(60, 120)
        self.head = nn.Linear(120, 60, bias=False)
        self.head.weight = self.tied.weight
        self.norm = nn.Embedding(60, 120, max_norm=1e9)

    def forward(self, tokens):
        found = [layer(tokens).float() for layer in (self.pruned, self.few, self.whole, self.norm)]
        return self.head(sum(found) + self.tied(tokens))


@pytest.fixture
def words(tmp_path):
    torch.manual_seed(0)
    model = Words().eval()
    pomona.Pruner(model, {"whole*": None, "*": 0.8}).step()
    with torch.no_grad():
        model.few.weight.copy_(torch.randint(1, 5, (60, 120)) / 4)
    pomona.save(model, tmp_path / "words.pomona")
    return model


@pytest.mark.parametrize("cache", [False, True])
def test_embeddings_are_packed_where_that_takes_less_memory(words, tmp_path, cache):
    path = tmp_path / "words.pomona"
    tokens = torch.arange(60)
    for _ in range(2):  # of the file, of the cache
        with torch.device("meta"):
            model = Words().eval()
        assert pomona.load_packed_(model, path, cache=cache) == ["pruned", "few"]
        assert type(model.pruned) is type(model.few) is PackedEmbedding
        assert (model.pruned.layout, model.few.layout) == ("csr16", "lut")
        assert model.few(tokens).dtype == torch.float16
        assert not model.pruned.training
        assert model.tied.weight is model.head.weight
        for name in ("pruned", "few"):
            packed, dense = getattr(model, name), getattr(words, name)
            assert torch.equal(packed(tokens), dense(tokens))
            assert packed.packed.numel() < dense.weight.nbytes
        with torch.no_grad():
            torch.testing.assert_close(model(tokens), words(tokens))


def test_a_table_that_would_grow_stays_dense(tmp_path):
    """A kept value of 16 bits takes a column of 16 bits besides, and is widened."""
    for dtype, density, names in (
        (torch.float32, 0.45, ["0"]),
        (torch.float16, 0.45, []),
        (torch.float16, 0.2, ["0"]),
    ):
        model = nn.Sequential(nn.Embedding(100, 64, dtype=dtype))
        with torch.no_grad():
            model[0].weight.masked_fill_(torch.rand(100, 64) >= density, 0)
        pomona.save(model, tmp_path / "net.pomona")
        assert pomona.load_packed_(model, tmp_path / "net.pomona") == names
        if names:
            assert model[0].packed.numel() < model[0].weight.nbytes


def test_an_embedding_with_hooks_stays(words, tmp_path):
    model = Words()
    model.pruned.register_forward_hook(lambda *_: None)
    assert pomona.load_packed_(model, tmp_path / "words.pomona") == ["few"]


# The dense weight has 256 MB; the model after loading takes about 7.
PEAK = """
import sys, torch, pomona
Layer = getattr(torch.nn, sys.argv[2])
def kilobytes(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":"))
with torch.device("meta"):
    model = torch.nn.Sequential(Layer(8192, 8192), torch.nn.ReLU())
open("/proc/self/clear_refs", "w").write("5")
before = kilobytes("VmRSS")
pomona.load_packed_(model, sys.argv[1], layout="csr16")
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("layer", ["Linear", "Embedding"])
def test_the_dense_weight_is_never_made(tmp_path, layer):
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(8192, 8192)
    index = torch.randint(0, 8192 * 8192, (1_000_000,), generator=generator)
    weight.view(-1)[index] = torch.randint(1, 9, (1_000_000,), generator=generator).float() / 8
    state = {"0.weight": weight}
    if layer == "Linear":
        state["0.bias"] = torch.zeros(8192)
    pomona.save(state, tmp_path / "wide.pomona", coding="fast")
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "wide.pomona"), layer],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 100_000


def test_all_differences_are_listed_and_nothing_has_changed(path):
    model = on_meta()
    model.last = nn.Linear(40, 9, bias=False, device="meta")
    model.extra = nn.Linear(2, 2, device="meta")
    del model.norm
    before = dict(model.named_parameters())
    with pytest.raises(InvalidArgument) as error:
        pomona.load_packed_(model, path)
    message = str(error.value)
    assert "`extra.weight` is not in the file" in message
    assert "`norm.running_mean` is not in the model" in message
    assert "`last.weight` is float32 [9, 40], in the file float32 [10, 40]" in message
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(before[name] is value for name, value in model.named_parameters())


def test_damage_leaves_the_model_as_it_was(path):
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    model = Net()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CorruptFile):
        pomona.load_packed_(model, path)
    assert type(model.hidden) is nn.Linear
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(2), persistent=False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "expected `model` to be a torch.nn.Module that contains its layers, got int"),
        (nn.Linear(2, 2), "that contains its layers, got Linear"),
    ],
)
def test_refuses_what_is_no_model(path, model, message):
    with pytest.raises(InvalidArgument, match=message):
        pomona.load_packed_(model, path)


def test_refuses_buffers_that_no_file_holds(tmp_path):
    pomona.save(WithBuffer(), tmp_path / "net.pomona")
    with torch.device("meta"):
        model = WithBuffer()
    with pytest.raises(InvalidArgument, match="got `scale` on the meta device"):
        pomona.load_packed_(model, tmp_path / "net.pomona")


def test_from_packed_refuses_other_bytes():
    with pytest.raises(InvalidArgument, match="expected `packed`"):
        PackedLinear.from_packed(torch.zeros(500, dtype=torch.uint8))
    layer = PackedLinear(torch.eye(3))
    with pytest.raises(
        InvalidArgument, match=r"expected `bias` to be floating point of shape \[3\]"
    ):
        PackedLinear.from_packed(layer.packed, torch.ones(2))
    assert torch.equal(PackedLinear.from_packed(layer.packed).weight, torch.eye(3))


def test_a_cache_is_written_and_mapped_the_next_time(trained, path, tmp_path, monkeypatch):
    first, second, third = on_meta(), on_meta(), on_meta()
    assert pomona.load_packed_(first, path, cache=True) == ["hidden"]
    assert (tmp_path / "net.pomona.packed").exists()

    def fail(*_):
        raise AssertionError("it was packed again")

    monkeypatch.setattr(pomona._C.FileReader, "read_packed", fail)
    assert pomona.load_packed_(second, path, cache=True) == ["hidden"]
    assert torch.equal(first.hidden.packed, second.hidden.packed)
    assert second.hidden.packed.data_ptr() % 64 == 0
    torch.testing.assert_close(second(X), trained(X))
    assert torch.equal(second.norm.running_var, trained.norm.running_var)
    with pytest.raises(AssertionError, match="packed again"):
        pomona.load_packed_(third, path, cache=tmp_path / "other")


def test_what_was_mapped_may_be_written_to_and_the_cache_stays(path, tmp_path):
    first, second = on_meta(), on_meta()
    pomona.load_packed_(first, path, cache=True)
    before = (tmp_path / "net.pomona.packed").read_bytes()
    pomona.load_packed_(second, path, cache=True)
    with torch.no_grad():
        second.conv.weight.zero_()
        second.hidden.bias.zero_()
        second.hidden.pack_weight_(second.hidden.weight.flip(0))
    first.load_state_dict(second.state_dict())
    assert (tmp_path / "net.pomona.packed").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a cache", None])
def test_a_cache_of_something_else_is_written_anew(trained, path, tmp_path, content):
    cache = tmp_path / "cache"
    if content is None:
        other = Net().eval()
        pomona.Pruner(other, {"hidden*": 0.9}).step()
        pomona.save(other, tmp_path / "other.pomona")
        pomona.load_packed_(on_meta(), tmp_path / "other.pomona", cache=cache)
    else:
        cache.write_bytes(content)
    model = on_meta()
    pomona.load_packed_(model, path, cache=cache)
    torch.testing.assert_close(model(X), trained(X))
    before = cache.read_bytes()
    pomona.load_packed_(model := on_meta(), path, layout="csr16", cache=cache)  # another key
    assert model.hidden.layout == "csr16"
    assert cache.read_bytes() != before


def test_a_cache_that_cannot_be_written_is_said_and_left(path, tmp_path, caplog):
    model = on_meta()
    assert pomona.load_packed_(model, path, cache=tmp_path / "none" / "cache") == ["hidden"]
    assert "cannot write the cache" in caplog.text
    with pytest.raises(InvalidArgument, match="expected `cache` to be a bool or a path, got 3"):
        pomona.load_packed_(on_meta(), path, cache=3)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pomona"]


class Sequences(nn.Module):
    """Layers of several matrices: pruned, and what of them stays dense."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 16, num_layers=2, bidirectional=True, proj_size=8)
        self.gru = nn.GRU(16, 24, batch_first=True, bias=False)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.other = nn.MultiheadAttention(24, 4, kdim=10, vdim=6)
        self.encoder = nn.TransformerEncoderLayer(24, 4, 30, batch_first=True)
        self.with_bias_kv = nn.MultiheadAttention(24, 4, add_bias_kv=True)
        self.partly = nn.LSTM(24, 16)  # one of its matrices is dense

    def forward(self, x):
        x = self.gru(self.lstm(x)[0])[0]
        x = self.attention(x, x, x, need_weights=False)[0]
        x = self.encoder(x)
        x = self.with_bias_kv(x, x, x)[0] + self.other(x, x[..., :10], x[..., :6])[0]
        return self.partly(x)[0]


@pytest.fixture
def sequences(tmp_path):
    torch.manual_seed(0)
    model = Sequences().eval()
    rules = {"partly.weight_hh*": None, "*weight*": 0.7}
    pomona.Pruner(model, rules).step()
    pomona.save(model, tmp_path / "sequences.pomona")
    return model, tmp_path / "sequences.pomona"


STEPS = torch.randn(5, 3, 24, generator=torch.Generator().manual_seed(2))
WHOLE = {
    "lstm": PackedLSTM,
    "gru": PackedGRU,
    "attention": PackedMultiheadAttention,
    "other": PackedMultiheadAttention,
}


@pytest.mark.parametrize("is_on_meta", [False, True])
def test_layers_of_several_matrices_are_packed(sequences, is_on_meta):
    dense, path = sequences
    with torch.device("meta" if is_on_meta else "cpu"):
        model = Sequences().eval()
    packed = pomona.load_packed_(model, path)
    # What nn.TransformerEncoderLayer reads stays, as do bias_kv and a layer with a dense matrix.
    assert packed == [*WHOLE]
    assert {name: type(getattr(model, name)) for name in WHOLE} == WHOLE
    assert type(model.partly) is nn.LSTM
    assert type(model.encoder.self_attn) is nn.MultiheadAttention
    assert not any(value.is_meta for value in model.state_dict().values())
    torch.testing.assert_close(model(STEPS), dense(STEPS))


def test_they_come_from_the_cache_as_well(sequences, monkeypatch):
    dense, path = sequences
    first, second = Sequences().eval(), Sequences().eval()
    pomona.load_packed_(first, path, cache=True)
    monkeypatch.delattr(pomona._C.FileReader, "read_packed")
    assert pomona.load_packed_(second, path, cache=True) == [*WHOLE]
    torch.testing.assert_close(second(STEPS), dense(STEPS))


def test_a_layout_that_cannot_hold_a_part_leaves_the_model(sequences):
    _, path = sequences
    model = Sequences().eval()
    with pytest.raises(InvalidArgument, match=r"`lstm.weight_ih_l0` to fit pg32 in fp32"):
        pomona.load_packed_(model, path, layout="pg32")
    assert type(model.lstm) is nn.LSTM


def test_a_double_stays_dense(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.float64))
    pomona.Pruner(model, {"*": 0.7}).step()
    pomona.save(model, tmp_path / "net.pomona")
    other = nn.Sequential(nn.Linear(8, 8, dtype=torch.float64))
    assert pomona.load_packed_(other, tmp_path / "net.pomona") == []
    assert torch.equal(other[0].weight, model[0].weight)


def test_a_layer_that_stays_in_one_place_stays_in_all(tmp_path):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
            self.head = self.encoder.linear1

    torch.manual_seed(0)
    dense = Twice().eval()
    pomona.Pruner(dense, {"*linear1.weight": 0.9}).step()
    pomona.save(dense, tmp_path / "net.pomona")
    model = Twice().eval()
    assert pomona.load_packed_(model, tmp_path / "net.pomona") == []
    assert model.head is model.encoder.linear1
    assert torch.equal(model.head.weight, dense.head.weight)


def test_a_cache_of_other_dense_tensors_is_written_anew(tmp_path):
    class Pair(nn.Module):
        def __init__(self, is_tied: bool) -> None:
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = self.a if is_tied else nn.Linear(64, 64)

    torch.manual_seed(0)
    dense = Pair(is_tied=True)
    pomona.Pruner(dense, {"a.weight": 0.9}).step()
    pomona.save(dense, tmp_path / "net.pomona")
    assert pomona.load_packed_(Pair(True), tmp_path / "net.pomona", cache=True) == ["a"]
    model = Pair(False)
    model.b.register_forward_hook(lambda *_: None)  # so it stays
    assert pomona.load_packed_(model, tmp_path / "net.pomona", cache=True) == ["a"]
    assert torch.equal(model.b.weight, dense.b.weight)


@pytest.mark.parametrize("kind", ["expanded", "made in inference mode"])
def test_a_tensor_that_cannot_be_written_is_named_and_the_model_is_as_it_was(tmp_path, kind):
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 8), nn.Module())
        with torch.inference_mode(kind != "expanded"):
            buffer = torch.zeros(1).expand(4) if kind == "expanded" else torch.zeros(4)
        model[1].register_buffer("late", buffer)
        return model

    saved = nn.Sequential(nn.Linear(8, 8), nn.Module())
    saved[1].register_buffer("late", torch.zeros(4))
    pomona.save(saved, tmp_path / "net.pomona")
    model = make()
    before = model[0].weight.clone()
    with pytest.raises(InvalidArgument, match=f"can be written, got `1.late`, {kind}"):
        pomona.load_packed_(model, tmp_path / "net.pomona")
    assert torch.equal(model[0].weight, before)
