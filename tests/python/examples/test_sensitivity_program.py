"""The example of the sensitivity scan runs from nothing, and goes on from its own file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "examples" / "04_sensitivity.py"


@pytest.mark.slow
def test_the_sensitivity_example_writes_a_table_a_csv_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    command = [sys.executable, PROGRAM, "--datasets", "digits", "--seconds", "3"]
    command += ["--out", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "up to 0.1 points more error by one layer alone:" in result.stdout
    assert len((tmp_path / "sensitivity.csv").read_text().splitlines()) == 2 + 1 + 4 * 11
    assert (tmp_path / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    before = (tmp_path / "sensitivity.csv").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "sensitivity.csv").read_bytes() == before
