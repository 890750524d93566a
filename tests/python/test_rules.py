"""Rules: what counts as one, and which parameter it decides."""

import pytest
import torch

import pomona
from pomona import InvalidArgument, Prune, Share, rules_from_json, rules_to_json
from pomona._shell import resolve
from pomona.rules import normalize


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 4, 3)
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
        self.fc = torch.nn.Linear(8, 2)
        self.codes = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.int64), requires_grad=False)


def names(rules, kind=Prune, model=None):
    return [name for name, _, _ in resolve(model or Net(), rules, kind)]


def test_a_number_is_short_for_a_rule():
    assert normalize({"fc*": 0.5, "*": None}, Prune) == {"fc*": Prune(0.5), "*": None}
    assert normalize({"fc*": 5}, Share) == {"fc*": Share(5)}


def test_star_takes_weights_and_leaves_biases_norms_and_integers():
    assert names({"*": 0.5}) == ["conv1.weight", "body.0.weight", "fc.weight"]


def test_none_leaves_a_layer_alone():
    assert names({"conv1": None, "*": 0.5}) == ["body.0.weight", "fc.weight"]


def test_a_bias_is_taken_when_spelled_out():
    assert names({"fc.bias": 0.5}) == ["fc.bias"]


def test_tied_parameters_are_taken_once():
    model = Net()
    model.body[0].weight = torch.nn.Parameter(torch.zeros(2, 8))
    model.fc.weight = model.body[0].weight
    assert names({"*": 0.5}, model=model) == ["conv1.weight", "body.0.weight"]


def test_the_prefixes_of_wrappers_do_not_matter():
    wrapped = torch.nn.Module()
    wrapped.module = Net()
    assert names({"fc": 0.5}, model=wrapped) == ["fc.weight"]


def test_rules_go_through_json_in_order():
    rules = {"fc*": Prune(0.5), "conv1": None, "*": Prune(0.25)}
    back = rules_from_json(rules_to_json(rules, Prune), Prune)
    assert list(back.items()) == list(rules.items())


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), "0.5", None, True])
def test_a_sparsity_outside_0_1_is_refused(sparsity):
    with pytest.raises(InvalidArgument, match=r"expected `sparsity` in \[0, 1\), got"):
        Prune(sparsity)


@pytest.mark.parametrize("bits", [0, 9, 2.5, True, "4"])
def test_bits_outside_1_8_are_refused(bits):
    with pytest.raises(InvalidArgument, match=r"expected `bits` to be an integer in 1\.\.8, got"):
        Share(bits)


def test_a_wrong_number_names_its_pattern():
    with pytest.raises(InvalidArgument, match=r"rules\['fc\*'\]: Prune: expected `sparsity`"):
        normalize({"fc*": 1.0}, Prune)


@pytest.mark.parametrize("rules", [{}, [("fc", 0.5)], 0.5, None])
def test_rules_must_be_a_dict_that_holds_something(rules):
    with pytest.raises(InvalidArgument, match="expected a non-empty dict"):
        normalize(rules, Prune)


def test_a_rule_of_another_kind_is_refused():
    with pytest.raises(InvalidArgument, match="expected a number, Prune or None, got Share"):
        normalize({"fc": Share(4)}, Prune)


def test_a_pattern_that_is_no_string_is_refused():
    with pytest.raises(InvalidArgument, match="expected patterns to be strings, got 3"):
        normalize({3: 0.5}, Prune)


def test_an_unknown_key_in_json_is_refused():
    with pytest.raises(InvalidArgument, match=r"expected the keys \['sparsity', .*\] of Prune"):
        rules_from_json('[["fc", {"sparsity": 0.5, "color": "red"}]]', Prune)


@pytest.mark.parametrize("text", ["{", "3", '["fc"]'])
def test_json_that_holds_no_rules_is_refused(text):
    with pytest.raises(InvalidArgument, match="expected JSON"):
        rules_from_json(text, Prune)


def test_a_rule_that_matches_nothing_lists_the_names():
    with pytest.raises(InvalidArgument, match=r"`fc9`.*conv1\.weight, body\.0\.weight, fc\.weight"):
        names({"fc9": 0.5})


def test_an_integer_parameter_spelled_out_is_refused():
    with pytest.raises(InvalidArgument, match="`codes` to name a floating-point parameter"):
        names({"codes": 0.5})


def test_why_no_cuda_says_why_when_there_is_none():
    assert pomona.cuda_available() == (pomona.why_no_cuda() == "")
    if not torch.cuda.is_available():
        assert "torch.cuda" in pomona.why_no_cuda() or "built" in pomona.why_no_cuda()
