"""Seeds and threads of the Python tests; tests that need a GPU are skipped where there is none.

POMONA_SEED=7 runs them with other random numbers; a failing test's report names the seed.
"""

from __future__ import annotations

import os
import random

import pytest

SEED = int(os.environ.get("POMONA_SEED", "0"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, len(os.sched_getaffinity(0)) // WORKERS)

# Before torch is imported, and for the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import torch  # noqa: E402

import pomona  # noqa: E402


def pytest_report_header() -> str:
    """Printed above the tests."""
    return f"pomona {pomona.__version__}, torch {torch.__version__}, seed {SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU, and say why there is none."""
    if reason := pomona.why_no_cuda():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers for a test however it is run."""
    print(f"seed {SEED}")
    random.seed(SEED)
    torch.manual_seed(SEED)
