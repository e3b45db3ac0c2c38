"""A part of the benchmark in a process and a network namespace of its own.

In: the name of its module, which program, how many flows. Out: what the module printed:
one JSON object of figures by name. The namespace ends with the process.
"""

import json
import subprocess
import sys
from pathlib import Path


def measure_apart(part: str, kind: str, flows: int) -> dict[str, float]:
    """Run `python -m benchmark.PART FLOWS conntrackd|syncd`."""
    words = (sys.executable, "-m", f"benchmark.{part}", str(flows), kind)
    done = subprocess.run(
        ["unshare", "--net", *words],
        cwd=Path(__file__).parents[1],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{part}: {done.stderr.strip()}")
    figures = json.loads(done.stdout)
    return {str(name): float(value) for name, value in figures.items()}
