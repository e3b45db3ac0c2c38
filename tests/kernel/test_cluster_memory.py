"""Memory of real daemons: bounded by what they hold, not by what has been.

`scripts/soak` runs this longer: SYNCD_SOAK_CYCLES, SYNCD_SOAK_FLOWS.
"""

import os
import re
import time
from pathlib import Path

import pytest

from tests.kernel import mixture
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab, run_in

pytestmark = pytest.mark.kernel

CYCLES = int(os.environ.get("SYNCD_SOAK_CYCLES", "10"))
FLOWS = int(os.environ.get("SYNCD_SOAK_FLOWS", "3000"))
WARM = 3  # cycles until every cache and arena has its size
SLACK = 4 << 20


def resident(node: Node) -> int:
    """Bytes of the daemon in memory."""
    text = Path(f"/proc/{node.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) << 10


def test_filling_and_emptying_the_tables_does_not_grow_the_daemons(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Cluster(lab, tmp_path)
    first, second = made.nodes
    roads = mixture.Roads(lab, first.namespace)
    full: list[tuple[int, ...]] = []
    empty: list[tuple[int, ...]] = []
    try:
        made.start()
        begin = [resident(node) for node in made.nodes]
        for _ in range(CYCLES):
            mixture.play(roads, first.namespace, mixture.talks(FLOWS))
            second.wait(
                lambda status: status["tables"]["peer"]["flows"] >= FLOWS * 0.9,
                "the flows are at the peer",
            )
            full.append(tuple(resident(node) for node in made.nodes))
            run_in(first.namespace, "conntrack", "-F")
            second.wait(
                lambda status: status["tables"]["peer"]["flows"] < FLOWS * 0.1,
                "they are gone again",
            )
            time.sleep(0.2)
            empty.append(tuple(resident(node) for node in made.nodes))
    finally:
        made.close()
        roads.close()
    with capsys.disabled():
        for name, at in (("primary", 0), ("backup", 1)):
            bytes_each = (max(row[at] for row in full) - begin[at]) / FLOWS
            print(
                f"\n{name}: {begin[at] >> 10} KiB at first, "
                f"{max(row[at] for row in full) >> 10} KiB when full of {FLOWS} flows, "
                f"{empty[WARM][at] >> 10} KiB after {WARM + 1} cycles, "
                f"{empty[-1][at] >> 10} KiB after {CYCLES}; {bytes_each:.0f} B a flow"
            )
    for at in (0, 1):
        settled = max(row[at] for row in full[:WARM])
        assert full[-1][at] <= settled * 1.1 + SLACK, full
        assert empty[-1][at] <= max(row[at] for row in empty[:WARM]) * 1.1 + SLACK
