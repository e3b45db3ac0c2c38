"""Three nodes under load, hurt in a dozen ways one after the other.

The short form of `scripts/faults`: after each fault every copy becomes the kernel table
of its source, and status told nothing but the truth meanwhile. How soon depends on what
else a machine does, so that the promise of three seconds is judged by the script alone.
`SYNCD_TEST_FAULTS` names others, or `all`; `SYNCD_TEST_FAULT_SCALE=1` makes them last.
"""

import os
from pathlib import Path

import pytest

from tests.kernel import trial
from tests.kernel.faults import FAULTS
from tests.lab import Lab

pytestmark = pytest.mark.kernel

RATE, FLOWS, PATIENCE_S = 1200.0, 2400, 20.0
SHORT = (
    *("loss-20", "partition-standby", "stop-primary", "kill-standby", "mistreat"),
    *("flap-switch-primary", "interface-standby", "address-primary", "mtu", "power"),
)
SCALE = float(os.environ.get("SYNCD_TEST_FAULT_SCALE", "0.1"))


def _names() -> tuple[str, ...]:
    wanted = os.environ.get("SYNCD_TEST_FAULTS", "")
    if wanted == "all":
        return tuple(FAULTS)
    return tuple(wanted.split(",")) if wanted else SHORT


def test_after_every_fault_all_copies_are_equal_and_status_told_the_truth(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems: list[str] = []
    with trial.staged(
        lab, tmp_path, RATE, FLOWS, SCALE, security=trial.ENFORCE
    ) as stage:
        stage.heal_s = PATIENCE_S
        first = [trial.resident_mib(node) for node in stage.made.nodes]
        for name in _names():
            result = stage.trial(FAULTS[name])
            problems += [f"{name}: {problem}" for problem in result.problems]
            with capsys.disabled():
                print(f"\n {name}: equal after {result.heal_s:.2f} s", end="")
        for node, before in zip(stage.made.nodes, first, strict=True):
            assert not trial.grown(before, trial.resident_mib(node)), node.name
            assert "Traceback" not in node.log, node.log
    assert not problems, "\n".join(problems)
