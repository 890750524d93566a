"""Criteria, pieces, scopes and schedules of pruning, beside slow literal references."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import selection as reference
from torch import nn
from training import SmallNet, batch, train

import pomona
from pomona import Prune


@pytest.fixture
def model():
    return SmallNet()


def weights(model):
    return {name: p for name, p in model.named_parameters() if p.dim() > 1}


def masks_of(model, rule, **options):
    pruner = pomona.Pruner(model, {"*": rule}, **options)
    pruner.step()
    return pruner.masks()


def assert_equal(masks, expected):
    assert masks.keys() == expected.keys()
    for name, keep in masks.items():
        assert torch.equal(keep, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sparsity", [0.0, 0.13, 0.5, 0.9])
def test_global_scope_ranks_all_layers_together(model, sparsity, dtype):
    model.to(dtype)
    names, tensors = zip(*weights(model).items(), strict=True)
    expected = dict(zip(names, reference.pool(tensors, sparsity), strict=True))
    rule = Prune(sparsity, scope="global", may_empty=True)
    assert_equal(masks_of(model, rule), expected)


def test_global_scope_takes_layers_of_mixed_dtypes(model):
    model.fc1.to(torch.bfloat16)
    names, tensors = zip(*weights(model).items(), strict=True)
    expected = dict(zip(names, reference.pool(tensors, 0.6), strict=True))
    assert_equal(masks_of(model, Prune(0.6, scope="global")), expected)


def test_unequal_global_rules_are_pools_of_their_own(model):
    pruner = pomona.Pruner(
        model, {"conv*": Prune(0.3, scope="global"), "fc*": Prune(0.7, scope="global")}
    )
    tensors = weights(model)
    expected = {}
    for names, sparsity in ((("conv1", "conv2"), 0.3), (("fc1", "fc2"), 0.7)):
        pool = [tensors[f"{name}.weight"] for name in names]
        for name, keep in zip(names, reference.pool(pool, sparsity), strict=True):
            expected[f"{name}.weight"] = keep
    pruner.step()
    assert_equal(pruner.masks(), expected)


def test_weights_that_are_zero_never_return(model):
    with torch.no_grad():
        model.fc1.weight[:, ::2] = 0  # half of them, by another library
    masks = masks_of(model, 0.3)
    assert torch.equal(masks["fc1.weight"], model.fc1.weight != 0)
    assert int((~masks["fc2.weight"]).sum()) == round(0.3 * model.fc2.weight.numel())


PIECES = {
    "row": lambda w: reference.rows(w, 0.4),
    "filter": lambda w: reference.rows(w, 0.4),
    "column": lambda w: reference.columns(w, 0.4),
    "channel": lambda w: reference.columns(w, 0.4),
    "block:2x5": lambda w: reference.blocks(w, 0.4, 2, 5),
    "block:7x1": lambda w: reference.blocks(w, 0.4, 7, 1),
}


@pytest.mark.parametrize("granularity", PIECES)
def test_pieces_go_whole(model, granularity):
    expected = {name: PIECES[granularity](w.detach().clone()) for name, w in weights(model).items()}
    assert_equal(masks_of(model, Prune(0.4, granularity=granularity)), expected)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 7)])
def test_n_of_m_neighbours_stay(model, n, m):
    expected = {name: reference.n_of_m(w, n, m) for name, w in weights(model).items()}
    assert_equal(masks_of(model, Prune(granularity=f"{n}:{m}")), expected)


def test_rows_are_ranked_over_layers_in_global_scope(model):
    means = [w.detach().double().abs().flatten(1).mean(1) for w in weights(model).values()]
    kept = reference.pool(means, 0.5)
    masks = masks_of(model, Prune(0.5, granularity="row", scope="global", may_empty=True))
    for keep, rows in zip(masks.values(), kept, strict=True):
        assert torch.equal(keep.flatten(1).all(1), rows)
        assert torch.equal(keep.flatten(1).any(1), rows)


def test_standard_deviation_times_quality_is_the_threshold(model):
    expected = {name: w.abs() >= 0.7 * w.std() for name, w in weights(model).items()}
    pruner = pomona.Pruner(model, {"*": Prune(criterion=pomona.StdFactor(0.7))})
    thresholds = {name: 0.7 * float(w.std()) for name, w in weights(model).items()}
    pruner.step()
    assert_equal(pruner.masks(), expected)
    for row in pruner.report():
        assert row.threshold == pytest.approx(thresholds[row.name], rel=1e-6)


def test_the_quality_grows_by_round(model):
    rule = Prune(
        criterion=pomona.StdFactor(0.2, growth=0.3), schedule=pomona.Growing(rounds=3, every=2)
    )
    pruner = pomona.Pruner(model, {"*": rule})
    for call in range(7):
        before = {name: w.detach().clone() for name, w in weights(model).items()}
        kept = pruner.masks()
        pruner.step()
        if call in (0, 2, 4):
            quality = 0.2 + 0.3 * (call // 2)
            for name, keep in pruner.masks().items():
                expected = kept[name] & (before[name].abs() >= quality * before[name].std())
                assert torch.equal(keep, expected), (name, call)


def gradients(model, index):
    model.zero_grad()
    images, labels = batch(index)
    nn.functional.cross_entropy(model(images), labels).backward()
    return {name: p.grad.clone() for name, p in weights(model).items()}


def test_taylor_accumulates_weight_times_gradient(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    rule = Prune(0.6, criterion="taylor", scope="global")
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    scores = {name: torch.zeros_like(w) for name, w in weights(model).items()}
    for index in range(4):
        for name, gradient in gradients(model, index).items():
            scores[name] += (gradient * weights(model)[name].detach()).abs()
        optimizer.step()
    pruner.step()
    expected = dict(zip(scores, reference.pool(list(scores.values()), 0.6), strict=True))
    assert_equal(pruner.masks(), expected)


def test_obd_weighs_squares_by_the_average_of_squared_gradients(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    rule = Prune(0.6, criterion=pomona.OBD(decay=0.9), scope="global")
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    averages = {name: torch.zeros_like(w) for name, w in weights(model).items()}
    for index in range(4):
        for name, gradient in gradients(model, index).items():
            averages[name].mul_(0.9).addcmul_(gradient, gradient, value=1 - 0.9)
        optimizer.step()
    scores = [w.detach().square() * averages[name] for name, w in weights(model).items()]
    expected = dict(zip(averages, reference.pool(scores, 0.6), strict=True))
    pruner.step()
    assert_equal(pruner.masks(), expected)


def test_obd_takes_the_second_moment_of_adam(model):
    optimizer = torch.optim.Adam(model.parameters())
    rule = Prune(0.6, criterion=pomona.OBD(from_optimizer=True), scope="global")
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    train(model, optimizer, 0, 3)
    tensors = weights(model)
    scores = [w.detach().square() * optimizer.state[w]["exp_avg_sq"] for w in tensors.values()]
    expected = dict(zip(tensors, reference.pool(scores, 0.6), strict=True))
    pruner.step()
    assert_equal(pruner.masks(), expected)


def test_gradients_without_a_step_are_accumulated_by_hand(model):
    pruner = pomona.Pruner(model, {"*": Prune(0.5, criterion="taylor")})
    found = gradients(model, 0)
    pruner.accumulate()
    expected = {
        name: reference.pool([found[name] * w.detach()], 0.5)[0]
        for name, w in weights(model).items()
    }
    pruner.step()
    assert_equal(pruner.masks(), expected)


def test_the_callers_scores_count_with_their_signs(model):
    scores = {name: torch.randn_like(w) for name, w in weights(model).items()}
    pruner = pomona.Pruner(model, {"*": Prune(0.5, criterion="scores")})
    pruner.step(scores)
    for name, keep in pruner.masks().items():
        assert torch.equal(keep, reference.pool([scores[name]], 0.5, by_value=True)[0])


def test_random_masks_depend_on_the_seed_alone():
    def masks(seed):
        rule = Prune(0.5, criterion=pomona.schedules.Random(seed))
        return masks_of(SmallNet(), rule)

    assert_equal(masks(1), masks(1))
    assert any(
        not torch.equal(a, b) for a, b in zip(masks(1).values(), masks(2).values(), strict=True)
    )
    for keep in masks(1).values():
        assert int((~keep).sum()) == int(keep.numel() * 0.5 + 0.5)


def test_an_iterative_schedule_follows_its_list_and_revives_nothing(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = pomona.Iterative((0.2, 0.5, 0.8), every=2, begin=1)
    pruner = pomona.Pruner(model, {"*": Prune(schedule=schedule)}, optimizer=optimizer)
    seen = []
    for index in range(7):
        before = pruner.masks()
        pruner.step()
        seen.append(round(pruner.sparsity, 2))
        for name, keep in pruner.masks().items():
            assert not (keep & ~before[name]).any()
        train(model, optimizer, index, index + 1)
    assert seen == [0.0, 0.2, 0.2, 0.5, 0.5, 0.8, 0.8]


def test_a_cubic_ramp_reaches_its_sparsity(model):
    rule = Prune(0.9, schedule=pomona.Cubic(steps=10, every=3, initial=0.2), scope="global")
    pruner = pomona.Pruner(model, {"*": rule})
    seen = []
    for _ in range(12):
        pruner.step()
        seen.append(pruner.sparsity)
    expected = {t: 0.9 - 0.7 * (1 - t / 10) ** 3 for t in (0, 3, 6, 9, 10)}
    for t, sparsity in expected.items():
        assert seen[t] == pytest.approx(sparsity, abs=1e-3)
    assert seen[11] == seen[10]


def surgery(model, optimizer, steps):
    rule = Prune(0.6, schedule=pomona.Surgery(steps=12, every=3))
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    for index in range(steps):
        train(model, optimizer, index, index + 1)
        pruner.step()
    return pruner


def test_surgery_lets_weights_return_and_ends_exact(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    rule = Prune(0.6, schedule=pomona.Surgery(steps=12, every=3))
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    returned = 0
    for index in range(20):
        before = pruner.masks()
        train(model, optimizer, index, index + 1)
        for name, keep in pruner.masks().items():
            assert weights(model)[name][~keep].count_nonzero() == 0, (name, index)
        pruner.step()
        if index > 0:
            returned += sum(int((k & ~before[n]).sum()) for n, k in pruner.masks().items())
        if index >= 12:
            for keep in pruner.masks().values():
                assert int((~keep).sum()) == int(keep.numel() * 0.6 + 0.5)
    assert returned > 0


def test_surgery_equals_training_a_dense_copy_under_a_mask():
    """Guo et al., eq. 2: the loss sees W * T, the gradient moves all of W."""
    model, dense = SmallNet(), SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rule = {"fc1": Prune(0.5, schedule=pomona.Surgery(steps=100, every=50))}
    pruner = pomona.Pruner(model, rule, optimizer=optimizer)
    pruner.step()
    keep = pruner.masks()["fc1.weight"]
    hidden = dense.fc1.weight.detach().clone()
    for index in range(5):
        with torch.no_grad():
            dense.fc1.weight.copy_(torch.where(keep, hidden, 0))
        dense.zero_grad()
        images, labels = batch(index)
        nn.functional.cross_entropy(dense(images), labels).backward()
        with torch.no_grad():
            hidden -= 0.1 * dense.fc1.weight.grad
            for p in dense.parameters():
                if p is not dense.fc1.weight:
                    p -= 0.1 * p.grad
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert torch.allclose(model.fc1.weight, torch.where(keep, hidden, 0), atol=1e-6)
    assert torch.allclose(
        pruner.state_dict()["shadows"]["fc1.weight"], torch.where(keep, 0, hidden), atol=1e-6
    )


RESUMED = {
    "cubic obd": lambda: Prune(
        0.8, criterion=pomona.OBD(), scope="global", schedule=pomona.Cubic(8, every=2, begin=1)
    ),
    "iterative taylor": lambda: Prune(
        criterion="taylor", schedule=pomona.Iterative((0.3, 0.6), every=4, begin=2)
    ),
    "surgery": lambda: Prune(0.6, schedule=pomona.Surgery(steps=8, every=2)),
    "growing std": lambda: Prune(
        criterion=pomona.StdFactor(0.2, growth=0.2), schedule=pomona.Growing(3, every=3)
    ),
    "random": lambda: Prune(
        criterion="random", schedule=pomona.Iterative((0.2, 0.5, 0.7), every=3)
    ),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_stopping_anywhere_and_going_on_gives_the_same_bits(name, stop, tmp_path):
    def fresh():
        model = SmallNet()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, pomona.Pruner(model, {"*": RESUMED[name]()}, optimizer=optimizer)

    def run(model, optimizer, pruner, begin, end):
        for index in range(begin, end):
            train(model, optimizer, index, index + 1)
            pruner.step()

    whole = fresh()
    run(*whole, 0, 12)
    first = fresh()
    keys = {k: list(v) for k, v in first[2].state_dict().items() if k != "history"}
    run(*first, 0, stop)
    torch.save([part.state_dict() for part in first], tmp_path / "state.pt")
    second = fresh()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for part, saved in zip(second, state, strict=True):
        part.load_state_dict(saved)
    assert keys == {k: list(v) for k, v in state[2].items() if k != "history"}
    run(*second, stop, 12)
    for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert_equal(second[2].masks(), whole[2].masks())


def test_rules_go_through_json_and_back():
    rules = {
        "conv1": None,
        "conv*": Prune(granularity="2:4"),
        "fc1": Prune(0.9, criterion=pomona.OBD(0.9), scope="global", may_empty=True),
        "fc2": Prune(criterion=pomona.StdFactor(0.5, growth=0.1), schedule=pomona.Growing(3)),
        "*": Prune(schedule=pomona.Iterative((0.1, 0.2), every=5)),
    }
    text = pomona.rules_to_json(rules, Prune)
    assert pomona.rules_from_json(text, Prune) == rules
    assert pomona.rules_to_json({"*": 0.5}, Prune) == '[["*", {"sparsity": 0.5}]]'


WRONG = {
    "sparsity": (lambda: Prune(1.0), r"`sparsity` in \[0, 1\), got 1.0"),
    "no sparsity": (lambda: Prune(), r"`sparsity` in \[0, 1\), got None"),
    "criterion": (lambda: Prune(0.5, criterion="best"), "`criterion` to be one of .* got 'best'"),
    "granularity": (lambda: Prune(0.5, granularity="cube"), "`granularity` to be one of .*'cube'"),
    "n of m": (lambda: Prune(granularity="4:4"), "`n:m` with n below m, got 4:4"),
    "scope": (lambda: Prune(0.5, scope="all"), "`scope` to be 'layer' or 'global', got 'all'"),
    "schedule": (lambda: Prune(0.5, schedule="now"), "`schedule` to be one of OneShot.* got 'now'"),
    "length": (lambda: Prune(0.5, schedule=pomona.Cubic(0)), "`length` of at least 1, got 0"),
    "descending": (
        lambda: Prune(schedule=pomona.Iterative((0.5, 0.2))),
        r"`sparsities` ascending, got \[0.5, 0.2\]",
    ),
    "two sparsities": (
        lambda: Prune(0.4, schedule=pomona.Iterative((0.1, 0.5))),
        "`sparsity` of 0.5, as the schedule .* got 0.4",
    ),
    "quality": (lambda: Prune(criterion=pomona.StdFactor(0)), "`quality` finite and above 0"),
    "decay": (lambda: Prune(0.5, criterion=pomona.OBD(1.0)), r"`decay` in \[0, 1\), got 1"),
    "types": (lambda: Prune(0.5, schedule=pomona.Cubic("ten")), "numbers of the right types"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_rule_is_refused(name):
    make, message = WRONG[name]
    with pytest.raises(pomona.InvalidArgument, match=message):
        make()


REFUSED = {
    "all weights": ({"fc2": Prune(0.999, granularity="row")}, "`fc2.weight` to keep a weight"),
    "no gradients": ({"*": Prune(0.5, criterion="taylor")}, "gradients of `conv1.weight` before"),
    "no scores": ({"*": Prune(0.5, criterion="scores")}, "step\\(\\) to be given scores"),
    "no moment": (
        {"*": Prune(0.5, criterion=pomona.OBD(from_optimizer=True))},
        "keep `exp_avg_sq` for `conv1.weight`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_round_that_cannot_be_is_refused_and_the_model_is_as_it_was(model, name):
    rules, message = REFUSED[name]
    before = copy.deepcopy(model.state_dict())
    pruner = pomona.Pruner(model, rules)
    with pytest.raises(pomona.InvalidArgument, match=message):
        pruner.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert pruner.sparsity == 0


def test_rules_that_do_not_fit_a_shape_are_refused(model):
    with pytest.raises(pomona.InvalidArgument, match=r"`fc1.bias` to have two or more dimensions"):
        pomona.Pruner(model, {"fc1.bias": Prune(granularity="2:4")})
    with pytest.raises(pomona.InvalidArgument, match=r"surgery on `conv1.weight`"):
        pomona.Pruner(model, {"*": Prune(0.5, criterion="obd", schedule=pomona.Surgery(5))})
    with pytest.raises(pomona.InvalidArgument, match="granularity element"):
        pomona.Pruner(model, {"*": Prune(criterion=pomona.StdFactor(1.0), granularity="row")})


def test_scores_of_other_names_or_shapes_are_refused(model):
    pruner = pomona.Pruner(model, {"fc2": 0.5})
    with pytest.raises(pomona.InvalidArgument, match="dict with the keys"):
        pruner.step({"fc1.weight": model.fc1.weight})
    with pytest.raises(
        pomona.InvalidArgument, match=r"`fc2.weight` of shape \[10, 24\], got \[3\]"
    ):
        pruner.step({"fc2.weight": torch.ones(3)})
    bad = torch.full((10, 24), float("nan"))
    with pytest.raises(
        pomona.InvalidArgument, match=r"scores of `fc2.weight` to be finite, got nan"
    ):
        pruner.step({"fc2.weight": bad})
