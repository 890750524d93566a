"""The plan that both languages share, without a model around it."""

from __future__ import annotations

import pytest
import torch

import pomona


def layer(name, weight, bias, why="", consumer=""):
    return (name, torch.tensor(weight), torch.tensor(bias), False, False, why, consumer, 1, [])


def test_a_constant_goes_into_the_bias_of_the_next_layer():
    first = layer("a", [[0.0, 0.0], [1.0, 2.0]], [3.0, 4.0], consumer="b")
    plan = pomona._C.DeadPlan([first, layer("b", [[5.0, 6.0]], [7.0], why="last")], {})
    assert [alive.tolist() for alive in plan.alive()] == [[False, True], [True]]
    assert plan.biases()[1].tolist() == [22.0]
    assert plan.inputs(0) is None
    assert plan.inputs(1).tolist() == [False, True]
    assert plan.rows() == [("a", 2, 1, 0, ""), ("b", 1, 0, 0, "last")]


def test_a_consumer_that_is_no_layer_is_refused():
    message = r"DeadPlan: expected each consumer to be one of `layers`, got `b`\."
    with pytest.raises(pomona.InvalidArgument, match=message):
        pomona._C.DeadPlan([layer("a", [[1.0]], [0.0], consumer="b")], {})
