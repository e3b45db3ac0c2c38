"""Somebody without the key on the sync link of three nodes under load.

The short form of `scripts/attack`: nothing is accepted, nothing changes, everything is
counted, the copies are equal afterwards, the logs stay short.
"""

from pathlib import Path

import pytest

from tests.kernel import trial
from tests.kernel.attack import ATTACKS, GUEST, OPEN_TOO, TCP_ATTACKS, Attacker
from tests.lab import Lab

pytestmark = pytest.mark.kernel

LOAD, FLOWS, PATIENCE_S = 800.0, 1600, 20.0
SHORT = {
    "multicast": (
        *("truncated", "turned", "replayed", "echo", "spliced", "forged", "unknown"),
        *("all-restart", "flood"),
    ),
    "unicast": ("turned", "replayed", "unknown", "flood"),
    "tcp": ("turned", "unknown", "flood", "lengths", "strangers"),
}
SECONDS, RATE = 1.5, 3000.0


def test_without_a_key_nodes_bear_what_is_no_frame(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trial.staged(lab, tmp_path, LOAD, FLOWS) as stage:
        stage.heal_s = PATIENCE_S
        attacker = Attacker(stage, tmp_path)
        assert attacker.record(2.0) > 0
        _bear(attacker, OPEN_TOO, capsys)


@pytest.mark.parametrize("link", SHORT)
def test_without_the_key_nobody_changes_anything(
    lab: Lab, tmp_path: Path, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    guests = (GUEST,) if link == "tcp" else ()
    with trial.staged(
        *(lab, tmp_path, LOAD, FLOWS),
        link=trial.LINKS[link],
        security=trial.ENFORCE,
        guests=guests,
    ) as stage:
        stage.heal_s = PATIENCE_S
        attacker = Attacker(stage, tmp_path)
        assert attacker.record(2.0) > 0
        _bear(attacker, SHORT[link], capsys)


def _bear(
    attacker: Attacker, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    known = ATTACKS | TCP_ATTACKS
    problems: list[str] = []
    for name in names:
        strike = attacker.strike(known[name], SECONDS, RATE)
        problems += [f"{name}: {problem}" for problem in strike.problems]
        with capsys.disabled():
            print(f"\n {name}: {strike.sent} sent, {strike.rejected}", end="")
    assert not problems, "\n".join(problems)
