"""The tour's programs run from end to end, on few small images."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

pytestmark = pytest.mark.slow


def run(program: str, *arguments: object) -> str:
    """What the program prints; it must end with 0."""
    command = [sys.executable, EXAMPLES / program, "--datasets", "digits", *arguments]
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("thread")
    return run("01_lenet5_thread.py", "--out", folder, "--epochs", 4, 2, 1), folder


def row(output: str, stage: str) -> list[str]:
    """The cells of a stage's line in the table."""
    line = re.search(rf"^{stage}  .*$", output, re.MULTILINE)
    assert line, output
    return re.split(r"\s{2,}", line[0])


def test_the_thread_prints_a_line_for_every_stage(thread):
    for stage in ("trained", "pruned", "shared", "read back", "packed", "pack_"):
        assert len(row(thread[0], stage)) == 9


def test_the_thread_prunes_to_the_densities_of_the_thesis(thread):
    # 330 + 3,000 + 32,000 + 950; a dead weight or two may be 0 by itself
    assert 36_000 <= int(row(thread[0], "pruned")[2].replace(",", "")) <= 36_280


def test_the_thread_saves_a_file_at_least_25_times_smaller_than_fp32(thread):
    output, folder = thread
    size = (folder / "lenet5.pomona").stat().st_size
    assert int(row(output, "shared")[6].replace(",", "")) == size
    assert int(row(output, "trained")[3].replace(",", "")) > 25 * size


def test_the_thread_reads_every_tensor_back_bit_for_bit(thread):
    assert "all 8 tensors equal bit for bit" in thread[0]
    assert row(thread[0], "read back")[1:3] == row(thread[0], "shared")[1:3]


def test_the_thread_learns(thread):
    for stage in ("trained", "pruned", "shared", "packed"):
        assert float(row(thread[0], stage)[1]) < 20


def test_the_thread_says_when_it_had_no_time_for_all_images(tmp_path):
    pytest.importorskip("sklearn")
    output = run("01_lenet5_thread.py", "--out", tmp_path, "--epochs", 1, 1, 1, "--seconds", 0)
    assert "0 s of training did not suffice here: 384 images were shown instead of 4,314" in output


def test_dsd_prints_dense_llr_and_dsd_side_by_side():
    pytest.importorskip("sklearn")
    output = run("02_dsd.py", "--epochs", 2, 1, 1, "--seeds", 2)
    for name in ("dense", "LLR", "DSD"):
        assert len(row(output, name)) == 4
    assert re.search(r"DSD - LLR: [+-]\d+\.\d\d \+- \d+\.\d\d points over 2 seeds", output)


def test_a_program_says_what_is_wrong_with_its_data(tmp_path):
    command = [sys.executable, str(EXAMPLES / "02_dsd.py"), "--data", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1
    assert "expected `data_dir` to be a folder" in result.stderr
    assert "Traceback" not in result.stderr
