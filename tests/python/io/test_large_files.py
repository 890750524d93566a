"""What a load takes beside the tensors, and what is left of a save that is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import pomona

MEGABYTES_BESIDE = 64

MEASURE = """
import sys, torch
torch.set_num_threads(2)
import pomona
def kilobytes(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":"))
pomona.load(sys.argv[2])  # what the first load brings in
{setup}
open("/proc/self/clear_refs", "w").write("5")  # the peak is what it is now
before = kilobytes("VmRSS")
{load}
print((1024 * (kilobytes("VmHWM") - before) - {counted}) / 1e6)
"""
LOAD = {
    "setup": "",
    "load": "tensors = pomona.load(sys.argv[1])",
    "counted": "sum(t.numel() * t.element_size() for t in tensors.values())",
}
LOAD_INTO = {
    "setup": (
        "model = torch.nn.Module()\n"
        "for entry in pomona.entries(sys.argv[1]):\n"
        "    model.register_parameter(entry.name, torch.nn.Parameter(torch.ones(entry.shape)))"
    ),
    "load": "pomona.load_(model, sys.argv[1])",
    "counted": "0",
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """200 MB that are pruned and shared, 100 MB of plain floats, 60 MB of codes."""
    folder = tmp_path_factory.mktemp("large")
    torch.manual_seed(0)
    kept = torch.rand(5000, 10000) < 0.05
    tensors = {
        "pruned": torch.where(kept, torch.randint(1, 16, kept.shape) / 8, 0.0),
        "plain": torch.randn(2500, 10000),
        "codes": torch.randint(1, 17, (1500, 10000)) / 16,
    }
    pomona.save(tensors, folder / "large.pomona", coding="fast")
    pomona.save({"a": torch.ones(3)}, folder / "small.pomona")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", [LOAD, LOAD_INTO], ids=["load", "load_"])
def test_a_load_takes_at_most_64_megabytes_beside_the_tensors(large, way):
    command = [sys.executable, "-c", MEASURE.format(**way)]
    command += [str(large / "large.pomona"), str(large / "small.pomona")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout) < MEGABYTES_BESIDE


SAVE = """
import sys, torch, pomona
torch.manual_seed(0)
tensors = {f"w{i}": torch.randn(300, 300) for i in range(4)}
print("ready", flush=True)
while True:
    pomona.save(tensors, sys.argv[1], coding="fast")
"""


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "net.pomona"
    pomona.save({"w0": torch.ones(3)}, path)
    generator = random.Random(0)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", SAVE, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(generator.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        pomona.File(path).verify()
        assert "w0" in pomona.load(path)
