"""The example examples/01_lenet5_thread.py, its table recorded.

python benchmarks/bench_thread.py [arguments of the example]
"""

from __future__ import annotations

import json
import subprocess
import sys
from tempfile import TemporaryDirectory

from _measure import ROOT, write_table


def main() -> None:
    """Run the example in a folder of its own; it leaves its table there."""
    with TemporaryDirectory() as folder:
        example = ROOT / "examples" / "01_lenet5_thread.py"
        subprocess.run([sys.executable, example, "--out", folder, *sys.argv[1:]], check=True)
        with open(f"{folder}/thread.json", encoding="utf-8") as file:
            table = json.load(file)
    write_table("thread", table["title"], table["columns"], table["rows"])


if __name__ == "__main__":
    main()
