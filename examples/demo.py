"""What ``make demo`` shows: the whole thread on LeNet-5, then DSD beside its control.

    python examples/demo.py [--data DIR]

Every word on the command line goes to both programs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAMS = ["01_lenet5_thread.py", "02_dsd.py"]


def main() -> int:
    """Run the programs one after the other; the first status that is not 0, or 0."""
    for program in PROGRAMS:
        print(f"=== examples/{program}", flush=True)
        path = Path(__file__).with_name(program)
        status = subprocess.run([sys.executable, "-u", path, *sys.argv[1:]], check=False).returncode
        if status:
            return status
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
