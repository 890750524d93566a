"""What a Share rule may say, and what Sharer makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pomona
from pomona import InvalidArgument, Share, Sharer
from pomona.rules import rules_from_json, rules_to_json


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(rows: int = 24, columns: int = 40, seed: int = 0) -> nn.Linear:
    linear = nn.Linear(columns, rows)
    linear.weight.data.copy_(weights(rows, columns, seed=seed))
    return linear


def error(model: nn.Linear, before: torch.Tensor) -> float:
    return float((model.weight - before).square().sum())


def share(rule: Share, model: nn.Linear | None = None, **step) -> tuple[nn.Linear, Sharer, float]:
    model = model or layer()
    before = model.weight.detach().clone()
    sharer = Sharer(model, {"weight": rule})
    sharer.step(**step)
    return model, sharer, error(model, before)


@pytest.mark.parametrize("fit", ["linear", "density", "forgy", "kmeans++"])
def test_the_exact_fit_is_never_worse(fit):
    exact = share(Share(4))[2]
    assert exact <= share(Share(4, fit=fit))[2]
    assert share(Share(4, fit=fit, seed=3))[2] == share(Share(4, fit=fit, seed=3))[2]


def test_codes_need_not_be_a_power_of_two():
    model, sharer, _ = share(Share(4, codes=11))
    assert len(model.weight.unique()) == 11
    assert sharer.report()[0].centroids == 11


def test_each_channel_may_have_its_codebook():
    model, sharer, by_channel = share(Share(2, granularity="channel"))
    assert all(len(row.unique()) <= 4 for row in model.weight)
    assert by_channel < share(Share(2))[2]
    report = sharer.report()[0]
    assert (report.groups, report.centroids) == (24, 4)
    assert sharer.codebooks()["weight"].shape == (24, 4)
    for row, expected in zip(model.weight, weights(24, 40), strict=True):
        book = pomona.quantize.fit_codebook(expected, 4)
        torch.testing.assert_close(row.unique(), book)


def test_groups_go_on_over_rows():
    model, sharer, _ = share(Share(1, granularity="group:100"))
    flat = model.weight.flatten()
    assert sharer.report()[0].groups == 10
    assert all(len(part.unique()) == 2 for part in flat.split(100))


def test_a_pruned_layer_keeps_its_zeros_in_every_group():
    model = layer()
    model.weight.data[:, ::3] = 0
    model.weight.data[5] = 0  # a group without weights
    zeros = model.weight == 0
    model, sharer, _ = share(Share(2, granularity="channel"), model)
    assert torch.equal(model.weight == 0, zeros)
    assert sharer.report()[0].centroids == 3
    model(torch.randn(3, 40)).square().sum().backward()
    sharer.pool()
    assert not model.weight.grad[zeros].any()


@pytest.mark.parametrize("granularity", ["channel", "group:7"])
def test_groups_train_as_codebooks_of_their_own(granularity):
    model = layer().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sharer = Sharer(model, {"weight": Share(2, granularity=granularity)}, optimizer=optimizer)
    sharer.step()
    codes, book = sharer.codes()["weight"], nn.Parameter(sharer.codebooks()["weight"])
    group = 40 if granularity == "channel" else 7
    bias = nn.Parameter(model.bias.detach().clone())
    twin = torch.optim.SGD([book, bias], lr=0.1, momentum=0.9)
    each = torch.zeros(book.shape, dtype=torch.float64)
    rows = torch.arange(codes.numel()) // group
    each.index_put_((rows, codes.flatten().long()), torch.ones(codes.numel()).double(), True)
    x = torch.randn(16, 40, dtype=torch.float64)
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        twin.zero_grad()
        weight = pomona.quantize.lookup(book, codes, (24, 40), group=group)
        nn.functional.linear(x, weight, bias).square().mean().backward()
        book.grad /= each.clamp_min(1)
        twin.step()
    weight = pomona.quantize.lookup(book, codes, (24, 40), group=group)
    torch.testing.assert_close(model.weight, weight)
    sharer.step()


def test_importance_moves_the_centroids():
    model = layer()
    before = model.weight.detach().clone()
    importance = torch.rand(24, 40) ** 4

    def weighed(linear):
        return float((importance * (linear.weight - before).square()).sum())

    plain = share(Share(2), layer())[0]
    model = share(Share(2), importance={"weight": importance})[0]
    assert weighed(model) < weighed(plain)


@pytest.mark.parametrize(
    ("entries", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)]
)
def test_entries_may_have_16_bits(entries, dtype):
    model, sharer, _ = share(Share(4, entries=entries))
    assert torch.equal(model.weight, model.weight.to(dtype).float())
    with torch.no_grad():
        model.weight *= 1.01
    sharer.finalize()
    assert torch.equal(model.weight, model.weight.to(dtype).float())


def test_entries_may_be_fixed_point():
    model = share(Share(8, entries="fixed16"))[0]
    book = model.weight.detach().unique().double()
    scale = 2.0 ** (15 - torch.frexp(book.abs().max())[1].item())
    assert torch.equal((book * scale).round(), book * scale)
    assert (book * scale).abs().max() <= 32767


def test_a_rate_trades_error_for_entropy():
    found = [share(Share(4, rate=rate)) for rate in (0.0, 0.5, 2.0)]
    entropies = [sharer.report()[0].entropy for _, sharer, _ in found]
    errors = [error for *_, error in found]
    assert entropies == sorted(entropies, reverse=True)
    assert errors == sorted(errors)


def test_free_weights_are_shared_anew():
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sharer = Sharer(model, {"weight": 3}, optimizer=optimizer)
    with pytest.raises(InvalidArgument, match="expected a shared model, got none"):
        sharer.reassign_()
    sharer.step()
    codes = sharer.codes()["weight"]
    with sharer.free():
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(64, 40)).square().sum().backward()
            optimizer.step()
        assert len(model.weight.unique()) > 8
    assert len(model.weight.unique()) == 8
    assert not torch.equal(sharer.codes()["weight"], codes)
    sharer.step()


def test_rules_go_to_json_and_back():
    rules = {
        "a": Share(3, codes=7, granularity="group:64", fit="kmeans++", seed=2),
        "b": Share(8, entries="bfloat16", rate=0.5),
        "*": 5,
    }
    text = rules_to_json(rules, Share)
    assert rules_from_json(text, Share) == {**rules, "*": Share(5)}
    assert rules_to_json({"*": 5}, Share) == '[["*", {"bits": 5}]]'


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"bits": 0}, r"`bits` to be an integer in 1\.\.8, got 0"),
        ({"bits": 2.0}, r"`bits` to be an integer in 1\.\.8, got 2\.0"),
        ({"bits": 2, "codes": 5}, r"`codes` to be an integer in 1\.\.4 for 2 bits, got 5"),
        ({"bits": 2, "fit": "best"}, "`fit` to be one of exact, linear"),
        ({"bits": 2, "entries": "int8"}, "`entries` to be one of same, float16"),
        ({"bits": 2, "granularity": "row"}, "'tensor', 'channel' or 'group:G', got 'row'"),
        ({"bits": 2, "granularity": "group:0"}, "got 'group:0'"),
        ({"bits": 2, "rate": -1}, "`rate` to be finite and not negative, got -1"),
        ({"bits": 2, "seed": -1}, "`seed` to be an integer in"),
    ],
)
def test_rules_that_say_nothing_are_refused(members, message):
    with pytest.raises(InvalidArgument, match=message):
        Share(**members)


def test_bad_importance_is_refused_by_name():
    def refuses(message, importance, rule=None):
        model = layer()
        before = model.weight.detach().clone()
        with pytest.raises(InvalidArgument, match=message):
            Sharer(model, {"weight": rule or Share(2)}).step(importance)
        assert torch.equal(model.weight, before)

    refuses(r"parameters under a rule, got \['other'\]", {"other": torch.ones(1)})
    refuses(r"importance of `weight` of shape \[24, 40\], got \[3\]", {"weight": torch.ones(3)})
    refuses("`weight` to have finite importance", {"weight": -torch.ones(24, 40)})


def test_fit_codebook_refuses_bad_options():
    values = torch.randn(10)
    with pytest.raises(InvalidArgument, match="`fit` to be one of"):
        pomona.quantize.fit_codebook(values, 2, fit="best")
    with pytest.raises(InvalidArgument, match=r"`importance` of shape \[10\], got \[3\]"):
        pomona.quantize.fit_codebook(values, 2, importance=torch.ones(3))
    with pytest.raises(InvalidArgument, match="positive `importance`, got zeros only"):
        pomona.quantize.fit_codebook(values, 2, importance=torch.zeros(10))
    with pytest.raises(InvalidArgument, match="`rate` to be finite"):
        pomona.quantize.fit_codebook(values, 2, rate=float("nan"))


def test_one_code_has_no_room_for_zeros():
    model = layer()
    model.weight.data[0] = 0
    with pytest.raises(InvalidArgument, match="to have no zeros where it has one code"):
        Sharer(model, {"weight": Share(1, codes=1)}).step()


def test_sharing_twice_on_one_optimizer_is_refused():
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = Sharer(model, {"weight": 3}, optimizer=optimizer)
    second = Sharer(model, {"weight": 2}, optimizer=optimizer)
    first.step()
    before = model.weight.detach().clone()
    with pytest.raises(InvalidArgument, match="on this optimizer has shared, got weight"):
        second.step()
    assert torch.equal(model.weight, before)
    first.finalize()
    assert second.step()
    assert len(model.weight.unique()) == 4
