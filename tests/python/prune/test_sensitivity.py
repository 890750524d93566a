"""The scan measures what the real prune does, and the model comes back bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn
from training import SmallNet, batch

import pomona
from pomona._model_state import bits

SPARSITIES = (0.0, 0.5, 0.9)
LAYERS = ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]


class Normed(SmallNet):
    """With everything that an evaluation may disturb: BatchNorm, dropout, a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(10)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x):
        self.calls = self.calls + 1  # another tensor each time
        return self.drop(self.norm(super().forward(x)))


@pytest.fixture
def model():
    return SmallNet()


def loss(model):
    with torch.no_grad():
        images, labels = batch(0)
        return nn.functional.cross_entropy(model(images), labels).item()


def scan(model, evaluate=loss, **options):
    options = {"sparsities": SPARSITIES, "progress": False, **options}
    return pomona.sensitivity(model, evaluate, **options)


def everything(model):
    """The bytes of all that the scan must leave alone."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    facts = {name: bits(tensor).clone() for name, tensor in tensors.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            facts[f"{name}.grad"] = bits(parameter.grad).clone()
    facts["rng"] = torch.get_rng_state()
    flags = [module.training for module in model.modules()]
    objects = [(id(p), id(p.grad), p.requires_grad) for p in model.parameters()]
    hooks = [len(p._post_accumulate_grad_hooks or {}) for p in model.parameters()]
    return facts, (flags, objects, hooks, [id(b) for b in model.buffers()])


def assert_same(before, after):
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    assert [n for n, value in before[0].items() if not torch.equal(value, after[0][n])] == []


def disturbing(model):
    """An evaluation that behaves badly."""
    model.eval()
    model.train()
    random = torch.rand(())
    (model(batch(0)[0]).square().mean() + random).backward()
    return random.item()


class Stop(Exception):
    """Raised by an evaluation that is stopped."""


def stopping(after, error=Stop, evaluate=loss):
    """An evaluation that is stopped when it is called the ``after``-th time, from 0."""
    calls = []

    def stopped(model):
        if len(calls) == after:
            raise error
        calls.append(1)
        return evaluate(model)

    return stopped


def disturbed_model():
    model = Normed()
    model.fc2.weight.requires_grad_(False)
    model.fc1.eval()
    model(batch(1)[0]).sum().backward()
    with torch.no_grad():
        model.fc1.weight[0, :5] = -0.0
        model.norm.running_mean[0] = torch.tensor(0x7FC01234, dtype=torch.int32).view(torch.float32)
        model.norm.running_var[1] = -0.0
    model.conv2.to(memory_format=torch.channels_last)
    return model


def test_a_scan_leaves_the_model_as_it_was_bit_for_bit():
    model = disturbed_model()
    before = everything(model)
    scan(model, disturbing)
    assert_same(before, everything(model))


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_scan_that_is_stopped_leaves_the_model_as_it_was(error, after):
    model = disturbed_model()
    before = everything(model)
    with pytest.raises(error):
        scan(model, stopping(after, error, disturbing))
    assert_same(before, everything(model))


def test_a_scan_of_a_model_with_nan_fails_and_leaves_its_payload(model):
    with torch.no_grad():
        payload = torch.tensor(0x7FC01234, dtype=torch.int32).view(torch.float32)
        model.fc1.weight[3, 3] = payload
    before = everything(model)
    with pytest.raises(pomona.InvalidArgument, match=r"expected `fc1\.weight` to be finite"):
        scan(model, lambda model: 0.0)
    assert_same(before, everything(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_point_is_what_a_real_pruner_of_that_layer_gives(dtype):
    model = SmallNet().to(dtype)
    with torch.no_grad():
        model.fc1.weight[:, :40] = 0  # zeros of an earlier pruning
        model.fc1.weight[:, 40:50] = -0.0

    def evaluate(model):
        with torch.no_grad():
            return model(batch(0, dtype=dtype)[0]).double().square().sum().item()

    result = scan(model, evaluate, sparsities=(0.1, 0.3, 0.77))
    expected = []
    for name in LAYERS:
        for sparsity in (0.1, 0.3, 0.77):
            pruned = copy.deepcopy(model)
            pruner = pomona.Pruner(pruned, {f"re:{name}": sparsity})
            pruner.step()
            kept = int(pruner.masks()[name].sum())
            expected.append((name, sparsity, kept, evaluate(pruned)))
    assert [(p.layer, p.sparsity, p.kept, p.metric) for p in result.rows] == expected
    assert result.dense == evaluate(model)


def test_the_pruner_is_given_the_very_rule_at_each_sparsity(model, monkeypatch):
    given = []

    make = pomona.Pruner.__init__

    def spy(self, model, rules, **options):
        given.append(rules)
        make(self, model, rules, **options)

    monkeypatch.setattr(pomona.Pruner, "__init__", spy)
    rule = pomona.Prune(0.7)
    result = scan(model, rules={"fc1": rule, "fc2": 0.2, "*": None})
    assert result.layers == ["fc1.weight", "fc2.weight"]
    names = ["fc1.weight"] * 3 + ["fc2.weight"] * 3
    rules = [dataclasses.replace(rule, sparsity=s) for s in SPARSITIES] * 2
    assert given == [{n: r} for n, r in zip(names, rules, strict=True)]


def test_each_evaluation_begins_with_the_same_random_numbers(model):
    seen = []

    def evaluate(model):
        seen.append(torch.rand(3).tolist())
        return 0.0

    scan(model, evaluate)
    assert len(seen) == 9  # dense, and two of three sparsities of four layers
    assert all(numbers == seen[0] for numbers in seen)


def test_a_layer_of_one_name_is_not_taken_for_another_of_the_same_ending():
    model = nn.ModuleDict({"fc": nn.Linear(4, 4), "block": nn.ModuleDict({"fc": nn.Linear(4, 4)})})
    result = scan(model, lambda m: float((m["fc"].weight == 0).sum()), sparsities=(0.5,))
    assert [p.metric for p in result.rows] == [8.0, 0.0]
    assert list(result.rules(8)) == ["fc.weight", "block.fc.weight"]
    pruner = pomona.Pruner(model, result.rules(8))
    pruner.step()
    assert [row.kept for row in pruner.report()] == [8, 8]


def test_a_bias_that_a_rule_names_is_scanned(model):
    result = scan(model, rules={"fc1.bias": 0.5}, sparsities=(0.5,))
    assert [(p.layer, p.kept) for p in result.rows] == [("fc1.bias", 12)]


@pytest.mark.parametrize("after", range(9))
def test_a_scan_that_was_stopped_goes_on_where_it_was(model, tmp_path, after):
    whole = scan(model)
    file = tmp_path / "scan.csv"
    with pytest.raises(Stop):
        scan(model, stopping(after), resume=file)
    calls = []
    resumed = scan(model, lambda m: calls.append(1) or loss(m), resume=file)
    assert resumed == whole
    assert len(calls) == 9 - after
    whole.to_csv(tmp_path / "whole.csv")
    assert file.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_half_written_last_line_is_dropped(model, tmp_path):
    file = tmp_path / "scan.csv"
    whole = scan(model, resume=file)
    content = file.read_bytes()
    last = content.rstrip().rfind(b"\n") + 1
    for end in range(last, len(content)):
        file.write_bytes(content[:end])
        assert scan(model, resume=file) == whole
        assert file.read_bytes() == content


def test_csv_gives_back_every_number_and_the_rules(model, tmp_path):
    result = scan(model, metric='loss, "nats"')
    result.to_csv(tmp_path / "scan.csv")
    read = pomona.Sensitivity.from_csv(tmp_path / "scan.csv")
    assert read == result
    assert read.rules(0.1) == result.rules(0.1)


def test_rules_stop_at_the_first_sparsity_that_is_out_of_tolerance():
    model = nn.Linear(10, 10, bias=False)
    metrics = iter([10.0, 10.5, 11.5, 10.0])
    result = scan(model, lambda m: next(metrics), sparsities=(0.1, 0.2, 0.3))
    assert result.rules(1.0) == {"weight": pomona.Prune(0.1)}
    assert result.rules(1.5) == {"weight": pomona.Prune(0.3)}
    assert result.rules(0) == {"weight": None}


def test_rules_of_an_accuracy_allow_it_to_fall():
    model = nn.Linear(10, 10, bias=False)
    metrics = iter([90.0, 95.0, 89.0, 70.0])
    result = scan(model, lambda m: next(metrics), sparsities=(0.1, 0.2, 0.3), lower_is_better=False)
    assert result.rules(1.0) == {"weight": pomona.Prune(0.2)}


def test_the_table_has_a_row_for_each_layer():
    model = nn.Linear(10, 10, bias=False)
    metrics = iter([1.25, 2.5])
    result = scan(model, lambda m: next(metrics), sparsities=(0.0, 0.5))
    assert str(result) == (
        "pruned  weights   0 %  50 %\nweight      100  1.25   2.5\n"
        "error % of the dense network: 1.25"
    )


@pytest.mark.parametrize("x", ["sparsity", "density"])
def test_png_is_a_png(model, tmp_path, x):
    pytest.importorskip("matplotlib")
    scan(model).to_png(tmp_path / "scan.png", x=x)
    assert (tmp_path / "scan.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_png_of_one_layer_with_an_infinite_metric_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    metrics = iter([1.0, float("inf"), 50.0])
    result = scan(nn.Linear(9, 9), lambda m: next(metrics), sparsities=(0.5, 0.9))
    result.to_png(tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 1000


def test_png_without_matplotlib_says_what_to_install(model, tmp_path, monkeypatch):
    result = scan(model)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(pomona.InvalidArgument, match=r"got none\. Run `pip install matplotlib`"):
        result.to_png(tmp_path / "scan.png")


@pytest.mark.parametrize("has_rich", [True, False])
def test_progress_is_shown_on_a_terminal(model, monkeypatch, capsys, has_rich):
    if has_rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    scan(model, progress=True)
    shown = capsys.readouterr().err
    assert "fc2.weight at 90 %" in shown
    assert "100%" in shown if has_rich else "13/13" in shown


def test_progress_is_silent_where_there_is_no_terminal(model, capsys):
    scan(model, progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("value", [float("nan"), None, "0.5", True, torch.zeros(2)])
def test_a_metric_that_is_no_number_is_refused(model, value):
    message = r"expected `evaluate` to return a number, got .* for the dense network\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        scan(model, lambda model: value)


def test_a_metric_that_is_nan_names_the_point(model):
    values = iter([1.0, 2.0, float("nan")])
    message = r"got nan for conv1\.weight at sparsity 0\.9\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        scan(model, lambda model: next(values))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsities": (0.5, 1.0)}, r"`sparsities` to be numbers in \[0, 1\), got 1\.0\."),
        ({"sparsities": (-0.1,)}, r"`sparsities` to be numbers in \[0, 1\), got -0\.1\."),
        ({"sparsities": ("a",)}, r"`sparsities` to be numbers in \[0, 1\), got 'a'\."),
        ({"sparsities": (float("nan"),)}, r"`sparsities` to be numbers in \[0, 1\), got nan\."),
        ({"sparsities": ()}, r"`sparsities` to be numbers in \[0, 1\), got none\."),
        ({"sparsities": (0.5, 0.2, 0.5)}, r"`sparsities` to be distinct, got 0\.5 twice\."),
        ({"rules": {"fc9": 0.5}}, r"fc9"),
        ({"rules": {"*": None}}, r"expected `rules` to name a parameter, got only None"),
        ({"metric": "two\nlines"}, r"expected `metric` to be a name on one line"),
        ({"resume": 3}, r"resume: expected a str or a pathlib\.Path, got int"),
        ({"evaluate": 3}, r"expected `evaluate` to be callable, got int"),
    ],
)
def test_bad_arguments_are_refused(model, options, message):
    with pytest.raises(pomona.InvalidArgument, match=message):
        scan(model, **options)


def test_a_model_that_is_none_is_refused():
    with pytest.raises(pomona.InvalidArgument, match=r"expected `model` to be a torch\.nn\.Module"):
        scan({})


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"sparsities": (0.0, 0.5)}, "sparsities"),
        ({"rules": {"fc*": 0.5}}, "layers"),
        ({"metric": "loss"}, "metric"),
        ({"lower_is_better": False}, "lower_is_better"),
        ({"model": SmallNet(seed=1)}, "weights"),
    ],
)
def test_the_file_of_another_scan_is_refused_and_kept(model, tmp_path, options, difference):
    file = tmp_path / "scan.csv"
    scan(model, resume=file)
    before = file.read_bytes()
    message = rf"expected `resume` to be a file of this scan, got .* with other {difference}\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        scan(**{"model": model, "resume": file, **options})
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", ["hello", "a,b\n1,2\n", "# pomona.sensitivity {}\n\n"])
def test_a_file_that_is_no_scan_is_refused_and_kept(model, tmp_path, content):
    file = tmp_path / "other.csv"
    file.write_text(content)
    with pytest.raises(pomona.InvalidArgument, match=r"expected a file of pomona\.sensitivity"):
        scan(model, resume=file)
    assert file.read_text() == content


def test_a_folder_that_does_not_exist_is_refused(model, tmp_path):
    file = tmp_path / "absent" / "scan"
    message = r"expected a file in a folder that exists, got .*absent.scan'\. Make the folder first"
    with pytest.raises(pomona.InvalidArgument, match=f"resume: {message}"):
        scan(model, resume=file)
    result = scan(model)
    with pytest.raises(pomona.InvalidArgument, match=f"to_csv: {message}"):
        result.to_csv(file)
    with pytest.raises(pomona.InvalidArgument, match=f"to_png: {message}"):
        result.to_png(file)


def test_results_refuse_bad_arguments(model, tmp_path):
    result = scan(model)
    with pytest.raises(pomona.InvalidArgument, match=r"`tolerance` to be at least 0, got -1"):
        result.rules(-1)
    with pytest.raises(pomona.InvalidArgument, match=r"`x` to be 'sparsity' or 'density', got 'k'"):
        result.to_png(tmp_path / "scan.png", x="k")
    with pytest.raises(Stop):
        scan(model, stopping(3), resume=tmp_path / "part.csv")
    with pytest.raises(pomona.InvalidArgument, match=r"from_csv: expected 13 points, got 5 in"):
        pomona.Sensitivity.from_csv(tmp_path / "part.csv")


def test_quantize_sensitivity_is_the_scan_of_bits(model, tmp_path):
    file = tmp_path / "scan.csv"
    options = {"metric": "loss", "progress": False}
    ours = pomona.quantize.sensitivity(model, loss, {"fc*": 3}, bits=[1, 4], **options)
    theirs = scan(model, rules={"fc*": 3}, sparsities=None, bits=[1, 4], **options)
    assert str(ours) == str(theirs)
    ours.to_csv(file)
    assert pomona.Sensitivity.from_csv(file).rows == theirs.rows
    assert {
        point.setting for point in pomona.quantize.sensitivity(model, loss, **options).rows
    } == {*range(1, 9)}


def test_a_file_that_cpp_has_written_is_read(tmp_path):
    path = tmp_path / "scan.csv"  # as tests/cpp/nn/sensitivity_test.cpp expects it
    path.write_text(
        '# pomona.sensitivity {"metric": "caf\\u00e9 \\"%\\"", "lower_is_better": true, '
        '"sparsities": [0.1, 0.95], "layers": [{"name": "a,b", "shape": [5, 2], '
        '"rule": {"sparsity": 0.0, "criterion": {"kind": "StdFactor", "quality": 0.25}, '
        '"scope": "global"}}]}\n'
        'layer,sparsity,kept,size,"café ""%"""\n'
        "(dense),0.0,10,10,0.91\n"
        '"a,b",0.1,9,10,1e-05\n'
        '"a,b",0.95,1,10,100.0\n',
        encoding="utf-8",
    )
    found = pomona.Sensitivity.from_csv(path)
    assert found.rules(0.1) == {
        "a,b": pomona.Prune(0.1, criterion=pomona.StdFactor(0.25), scope="global")
    }
    found.to_csv(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
