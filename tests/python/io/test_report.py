"""Words and tables."""

from __future__ import annotations

import pytest

from pomona import report


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (27_246, "27.2 kB"),
        (999_999, "1000 kB"),
        (6_900_000, "6.90 MB"),
        (240_000_000, "240 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(count, words):
    assert report.size(count) == words


def test_shares_and_ratios_of_nothing_are_empty():
    assert (report.percent(1, 0), report.ratio(1, 0)) == ("", "")
    assert (report.percent(1, 8), report.ratio(10, 4)) == ("12.5 %", "2.5x")


def test_a_table_without_rows_is_its_head():
    assert report.text_table(["a", "bc"], []) == "a  bc"


def test_shapes():
    assert [report.shape_text(s) for s in ([], [3], [3, 0, 2])] == ["scalar", "3", "3x0x2"]
