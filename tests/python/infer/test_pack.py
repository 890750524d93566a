"""pomona.pack_: packed where that is faster, the rest untouched."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

import pomona
from pomona import InvalidArgument, _packed_linear, infer
from pomona.nn import PackedLinear, SharedLinear


def prune(model: nn.Module, density: float = 0.05) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                mask = torch.rand(module.weight.shape, generator=generator) < density
                module.weight.mul_(mask)
    return model


@pytest.fixture
def packed_wins(monkeypatch):
    """Times that always favour packed layers: what is chosen does not depend on the machine."""
    monkeypatch.setattr(infer, "_measure", lambda modules, _: [2.0] + [1.0] * (len(modules) - 1))


@pytest.fixture
def dense_wins(monkeypatch):
    monkeypatch.setattr(infer, "_measure", lambda modules, _: [1.0] + [2.0] * (len(modules) - 1))


def bytes_of(module: nn.Module) -> float:
    tensors = [*module.parameters(), *module.buffers()]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def net() -> nn.Sequential:
    return prune(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)))


def test_a_sparse_layer_is_packed_and_a_dense_one_is_not(monkeypatch):
    # A machine whose time is the bytes that it reads, whatever else runs beside this test.
    monkeypatch.setattr(infer, "_measure", lambda modules, _: [bytes_of(m) for m in modules])
    model = nn.Sequential(nn.Linear(4096, 1024), nn.ReLU(), nn.Linear(1024, 1024))
    prune(model[0], 0.02)
    x = torch.randn(1, 4096)
    expected = model(x)
    report = pomona.pack_(model, example=x)
    assert type(model[0]) is PackedLinear
    assert type(model[2]) is nn.Linear
    assert report.packed == ["0"]
    torch.testing.assert_close(model(x), expected)
    assert report.rows[0].packed_us < report.rows[0].dense_us
    assert report.rows[0].density == pytest.approx(0.02, rel=0.1)


@pytest.mark.usefixtures("packed_wins")
def test_report_is_a_table_and_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="pomona"):
        report = pomona.pack_(net(), example=torch.ones(1, 20))
    lines = str(report).splitlines()
    assert lines[0].split() == [
        "layer",
        "shape",
        "density",
        "layout",
        "bytes",
        "error",
        "dense",
        "us",
        "packed",
        "us",
        "choice",
    ]
    assert lines[1].split()[:2] == ["0", "30x20"]
    assert lines[1].endswith("packed")
    assert str(report) in caplog.text


def shared_net() -> nn.Sequential:
    """A net whose layers fit every layout."""
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_((parameter * 20).round().clamp(-7, 7) / 20)
    return model


@pytest.mark.usefixtures("packed_wins")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fixed16", "int8"])
def test_every_precision_keeps_the_outputs(precision, monkeypatch):
    monkeypatch.setattr(infer._C, "fast_precisions", lambda: ["fp32", "bf16", "fixed16", "int8"])
    model, x = shared_net(), torch.randn(1, 20)
    expected = model(x)
    report = pomona.pack_(model, example=x, precision=precision)
    assert report.packed == ["0", "2"]
    assert {row.layout for row in report.rows} <= {"csr16", "pg32", "pgv", "lut", "csc16"}
    assert {model[0].precision, model[2].precision} == {precision}
    for row in report.rows:
        assert row.bytes > 0
        assert row.error <= {"fp32": 1e-6, "bf16": 2e-2, "fixed16": 1e-4, "int8": 0.1}[precision]
    assert (model(x) - expected).abs().max() <= 0.1 * expected.abs().max()


@pytest.mark.usefixtures("packed_wins")
def test_a_layer_whose_outputs_would_change_too_much_stays(monkeypatch):
    monkeypatch.setattr(infer._C, "fast_precisions", lambda: ["fp32", "int8"])
    model = shared_net()
    report = pomona.pack_(model, torch.randn(1, 20), precision="int8", verify=1e-9)
    assert report.packed == []
    assert "more than 1e-09" in report.rows[0].why


@pytest.mark.usefixtures("packed_wins")
def test_a_layer_whose_outputs_would_become_nan_stays(monkeypatch):
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: torch.full((1, 30), torch.nan))
    report = pomona.pack_(nn.Sequential(nn.Linear(20, 30)), torch.randn(1, 20))
    assert report.packed == []
    assert report.rows[0].error == torch.inf


@pytest.mark.usefixtures("packed_wins")
def test_a_layer_given_nan_is_compared_where_it_is_not_nan():
    model = shared_net()
    x = torch.randn(2, 20)
    x[0, 3] = torch.nan
    report = pomona.pack_(model, x)
    assert report.rows[0].choice == "packed"
    assert report.rows[0].error <= 1e-6


@pytest.mark.usefixtures("packed_wins")
def test_a_precision_that_the_processor_lacks_is_done_in_fp32_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(infer._C, "fast_precisions", lambda: ["fp32"])
    _packed_linear._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="pomona"):
        for _ in range(2):
            model = shared_net()
            pomona.pack_(model, torch.randn(1, 20), precision="int8")
            assert model[0].precision == "fp32"
    assert caplog.text.count("no instructions for int8") == 1


@pytest.mark.usefixtures("packed_wins")
def test_a_layer_that_no_layout_holds_in_this_precision_stays(monkeypatch):
    monkeypatch.setattr(infer._C, "fast_precisions", lambda: ["fp32", "int8"])
    model = prune(nn.Sequential(nn.Linear(40, 50)), 0.9)  # all weights differ
    report = pomona.pack_(model, torch.randn(1, 40), precision="int8")
    assert report.rows[0].why == "no layout holds it in int8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "expected `precision` to be fp32, bf16, fixed16 or int8, got 'fp8'"),
        ({"verify": 0}, "expected `verify` to be above 0, got 0"),
        ({"verify": "x"}, "expected `verify` to be above 0, got 'x'"),
    ],
)
def test_refuses_options_and_changes_nothing(options, message):
    model = net()
    before = list(model.modules())
    with pytest.raises(InvalidArgument, match=message):
        pomona.pack_(model, torch.ones(1, 20), **options)
    assert list(model.modules()) == before


@pytest.mark.usefixtures("dense_wins")
def test_layers_stay_where_dense_is_faster():
    model = net()
    before = list(model.modules())
    report = pomona.pack_(model, example=torch.ones(1, 20))
    assert list(model.modules()) == before
    assert [row.choice for row in report.rows] == ["dense", "dense"]


@pytest.mark.usefixtures("packed_wins")
def test_modes_hooks_and_gradients_are_as_before():
    model = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.Dropout(), nn.Linear(30, 10))
    prune(model).train()
    model[1].eval()
    mean = model[1].running_mean.clone()
    pomona.pack_(model, example=torch.ones(1, 20))
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert torch.equal(model[1].running_mean, mean)
    assert all(not m._forward_pre_hooks for m in model.modules())
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("packed_wins")
@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "dict"])
def test_example_may_be_a_tensor_arguments_or_keywords(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, scale=1.0):
            return self.fc(input=x) * scale

    model, x = prune(Net(), 0.5), torch.ones(2, 4)
    examples = {"tensor": x, "tuple": (x, 2.0), "list": [x], "dict": {"x": x, "scale": 3.0}}
    assert pomona.pack_(model, example=examples[kind]).packed == ["fc"]


@pytest.mark.usefixtures("packed_wins")
def test_a_layer_in_several_places_is_replaced_in_all_of_them():
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Sequential(layer))
    report = pomona.pack_(prune(model, 0.5), example=torch.ones(1, 6))
    assert [row.name for row in report.rows] == ["0"]
    assert type(model[0]) is PackedLinear
    assert model[0] is model[2] is model[3][0]


@pytest.mark.usefixtures("packed_wins")
def test_a_layer_that_the_example_does_not_reach_stays():
    model = net()
    model.extra = nn.ModuleList([nn.Linear(3, 3)])
    model.forward = lambda x: model[2](model[1](model[0](x)))
    report = pomona.pack_(model, example=torch.ones(1, 20))
    assert [row.choice for row in report.rows] == ["packed", "packed", "dense"]
    assert report.rows[2].why == "not called with the example"
    assert "dense (not called with the example)" in str(report)


@pytest.mark.usefixtures("packed_wins")
def test_a_layer_with_hooks_stays():
    model = net()
    model[0].register_forward_hook(lambda *_: None)
    rows = pomona.pack_(model, example=torch.ones(1, 20)).rows
    assert (rows[0].choice, rows[0].why) == ("dense", "it has hooks")
    assert len(model[0]._forward_hooks) == 1


@pytest.mark.usefixtures("packed_wins")
def test_float64_layers_stay():
    rows = pomona.pack_(net().double(), example=torch.ones(1, 20).double()).rows
    assert {(row.choice, row.why) for row in rows} == {("dense", "float64")}


@pytest.mark.usefixtures("packed_wins")
def test_bfloat16_models_are_packed_and_keep_their_dtype():
    model, x = net().bfloat16(), torch.ones(1, 20).bfloat16()
    expected = model(x)
    pomona.pack_(model, example=x)
    assert model(x).dtype == torch.bfloat16
    torch.testing.assert_close(model(x), expected, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("packed_wins")
def test_shared_layers_are_packed_too():
    linear = prune(nn.Linear(20, 30), 0.3)
    with torch.no_grad():
        linear.weight.copy_((linear.weight * 20).round() / 20)
    model = nn.Sequential(SharedLinear.from_linear(linear))
    x = torch.ones(1, 20)
    expected = model(x)
    assert pomona.pack_(model, example=x).packed == ["0"]
    torch.testing.assert_close(model(x), expected)


@pytest.mark.usefixtures("packed_wins")
def test_a_transformer_layer_keeps_the_weights_that_it_reads():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = prune(nn.TransformerEncoder(layer, 2), 0.5).eval(), torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = model(x)
        report = pomona.pack_(model, example=x)
        torch.testing.assert_close(model(x), expected)
    assert {row.why for row in report.rows} == {"its parent reads the weight"}


def test_a_transformer_layer_runs_on_packed_layers_through_their_weight():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = prune(layer, 0.5).eval(), torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = model(x)
        model.linear1 = PackedLinear.from_linear(model.linear1)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("packed_wins")
def test_subclasses_of_linear_stay():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(4, 4))
    assert pomona.pack_(model, example=torch.ones(1, 4)).rows == []


@pytest.mark.usefixtures("packed_wins")
def test_a_model_without_linear_layers_gives_an_empty_report():
    assert pomona.pack_(nn.ReLU(), example=torch.ones(1)).rows == []


@pytest.mark.usefixtures("packed_wins")
def test_compiled_models_are_packed_inside():
    model = net()
    expected = model(torch.ones(1, 20))
    report = pomona.pack_(torch.compile(model), example=torch.ones(1, 20))
    assert report.packed == ["0", "2"]
    torch.testing.assert_close(model(torch.ones(1, 20)), expected)


@pytest.mark.usefixtures("packed_wins")
def test_a_packed_model_compiles_and_exports():
    model, x = net(), torch.ones(2, 20)
    pomona.pack_(model, example=x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_weights_that_are_not_finite_and_changes_nothing(bad):
    model = net()
    model[2].weight.data[1, 2] = bad
    modules = list(model.modules())
    with pytest.raises(InvalidArgument, match=r"expected `2.weight` to be finite, got NaN or Inf"):
        pomona.pack_(model, example=torch.ones(1, 20))
    assert list(model.modules()) == modules


def test_refuses_weights_without_data():
    with pytest.raises(InvalidArgument, match=r"expected `0.weight` to have data"):
        pomona.pack_(net().to("meta"), example=torch.ones(1, 20))


@pytest.mark.parametrize("bad", [None, torch.ones(1, 19), torch.ones(1, 20).int(), "x", ()])
def test_refuses_an_example_that_the_model_does_not_take(bad):
    model = net().train()
    modules = list(model.modules())
    with pytest.raises(InvalidArgument, match="expected `example` to be an input of the model"):
        pomona.pack_(model, example=bad)
    assert list(model.modules()) == modules
    assert all(module.training and not module._forward_pre_hooks for module in modules)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.ones(3), "expected `model` to be a torch.nn.Module, got Tensor"),
        (nn.Linear(3, 3), "expected `model` to contain its layers, got a bare Linear"),
    ],
)
def test_refuses_what_has_no_layers_to_replace(model, message):
    with pytest.raises(InvalidArgument, match=message):
        pomona.pack_(model, example=torch.ones(1, 3))


class Mixer(nn.Module):
    """A recurrent layer behind an attention."""

    def __init__(self, kind: type[nn.RNNBase], **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, **options)
        self.recurrent = kind(16, 12, batch_first=True)

    def forward(self, x):
        mixed, _ = self.attention(x, x, value=x, need_weights=False)
        return self.recurrent(mixed)[0]


@pytest.mark.usefixtures("packed_wins")
@pytest.mark.parametrize(
    ("kind", "packed"), [(nn.LSTM, pomona.nn.PackedLSTM), (nn.GRU, pomona.nn.PackedGRU)]
)
def test_recurrent_layers_and_attention_are_packed(kind, packed):
    torch.manual_seed(0)
    model = Mixer(kind).eval()
    pomona.Pruner(model, {"*weight*": 0.7}).step()
    x = torch.randn(1, 5, 16)
    expected = model(x)
    report = pomona.pack_(model, example=x)
    assert report.packed == ["attention", "recurrent"]
    assert type(model.recurrent) is packed
    assert type(model.attention) is pomona.nn.PackedMultiheadAttention
    assert all(row.bytes > 0 and row.error < 1e-4 for row in report.rows)
    assert report.rows[0].density == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("packed_wins")
def test_what_is_no_chain_of_products_says_why_it_stays():
    torch.manual_seed(0)
    model = Mixer(nn.LSTM, add_zero_attn=True).eval()
    report = pomona.pack_(model, example=torch.randn(1, 5, 16))
    assert {row.name: row.why for row in report.rows} == {
        "attention": "add_bias_kv or add_zero_attn",
        "recurrent": "",
    }
    transformer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    report = pomona.pack_(transformer, example=torch.randn(1, 3, 8))
    assert {row.why for row in report.rows} == {"its parent reads the weight"}


@pytest.mark.usefixtures("packed_wins")
def test_an_lstm_that_is_given_a_packed_sequence_is_packed():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3)

        def forward(self, x):
            return self.lstm(nn.utils.rnn.pack_sequence([x]))[0].data

    model, x = Reader(), torch.randn(5, 4)
    expected = model(x)
    assert pomona.pack_(model, example=x).packed == ["lstm"]
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


def test_an_lstm_that_is_not_finite_is_named():
    model = Mixer(nn.LSTM)
    with torch.no_grad():
        model.recurrent.weight_hh_l0[0, 0] = float("nan")
    with pytest.raises(InvalidArgument, match=r"`recurrent.weight_hh_l0` to be finite"):
        pomona.pack_(model, example=torch.randn(1, 5, 16))
