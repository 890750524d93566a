"""Which images a script of this folder trains on and reports: all, or a part when tuning."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from data import Dataset

HELD_OUT = 5000


def split(dataset: Dataset, tune: bool, quick: bool) -> Dataset:
    """When tuning, the held-out part of the training images stands in for the test set."""
    if tune:
        dataset = replace(
            dataset,
            train_images=dataset.train_images[:-HELD_OUT],
            train_labels=dataset.train_labels[:-HELD_OUT],
            test_images=dataset.train_images[-HELD_OUT:],
            test_labels=dataset.train_labels[-HELD_OUT:],
        )
    if quick:
        dataset = replace(
            dataset,
            train_images=dataset.train_images[:4000],
            train_labels=dataset.train_labels[:4000],
        )
    return dataset
