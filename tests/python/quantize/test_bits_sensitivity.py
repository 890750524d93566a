"""sensitivity(bits=...): each point is what Sharer really does to one layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona
from pomona import InvalidArgument, Share, Sharer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))


def error(model: nn.Module) -> float:
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    reference = network()
    return float((model(x) - reference(x)).square().mean())


def scan(model: nn.Module, **options):
    options = {"bits": (1, 2, 4), "metric": "error", "progress": False, **options}
    return pomona.sensitivity(model, error, **options)


def test_each_point_is_a_real_sharer_and_the_model_comes_back():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    result = scan(model)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    for point in result.rows:
        alone = network()
        Sharer(alone, {point.layer: point.bits}).step()
        assert point.metric == error(alone)
    assert [p.bits for p in result.rows] == [1, 2, 4, 1, 2, 4]
    assert "1 bits" in result.table()
    assert "shared" in result.table()


def test_rules_are_the_fewest_bits_within_a_tolerance():
    result = scan(network(), rules={"*": Share(8, fit="density", codes=9)})
    errors = {(p.layer, p.bits): p.metric for p in result.rows}
    rules = result.rules(errors["0.weight", 2])
    assert rules["0.weight"] == Share(2, fit="density")
    assert result.rules(0.0)["0.weight"] is None
    Sharer(network(), {name: rule for name, rule in rules.items() if rule}).step()


def test_files_and_pictures(tmp_path):
    result = scan(network(), resume=tmp_path / "scan.csv")
    assert (tmp_path / "scan.csv").read_text().splitlines()[1] == "layer,bits,kept,size,error"
    again = pomona.Sensitivity.from_csv(tmp_path / "scan.csv")
    assert again == result
    assert scan(network(), resume=tmp_path / "scan.csv") == result
    pytest.importorskip("matplotlib")
    result.to_png(tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 1000
    with pytest.raises(InvalidArgument, match="`x` to be 'bits', got 'density'"):
        result.to_png(tmp_path / "other.png", x="density")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": (0,)}, r"`bits` to be integers in 1\.\.8, got 0"),
        ({"bits": (2.0,)}, r"`bits` to be integers in 1\.\.8, got 2\.0"),
        ({"bits": (2, 2)}, "`bits` to be distinct, got 2 twice"),
        ({"bits": ()}, r"`bits` to be integers in 1\.\.8, got none\."),
        ({"sparsities": (0.5,)}, "`sparsities` or `bits`, got both"),
        ({"rules": {"*": None}}, "`rules` to name a parameter, got only None"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InvalidArgument, match=message):
        scan(network(), **options)
