"""Warm standbys: the backup's kernel holds the state before anybody asks for it.

Real daemons, real packets, and the independent reader as the judge.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import mixture, reader
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab, run_in

pytestmark = pytest.mark.kernel

FLOWS = 400
WARM = '[replication]\nstandby = "kernel"\nwarm_timeout_s = 300\n'
PATIENCE_S = 5.0


class Pair:
    """Two nodes with warm standby, and roads to both."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.made = Cluster(lab, directory, more=WARM)
        self.first, self.second = self.made.nodes
        self.roads = [
            mixture.Roads(lab, node.namespace, f"far-{node.name}")
            for node in self.made.nodes
        ]
        self.made.start()

    def open(self, count: int, part: int = 0) -> list[mixture.Talk]:
        """Flows of all kinds through the first node."""
        talks = mixture.talks(count, part)
        mixture.play(self.roads[0], self.first.namespace, talks)
        return talks

    def close(self) -> None:
        self.made.close()
        for roads in self.roads:
            roads.close()


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(lab, tmp_path)
    try:
        yield made
    finally:
        made.close()


def _warm(node: Node) -> dict[str, Any]:
    warm: dict[str, Any] = node.status()["warm"]
    return warm


def _wait(good: Callable[[], object], what: str, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while not good():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def _wrong(wanted: reader.Rows, found: reader.Rows) -> list[str]:
    return reader.differences(wanted, found, reader.as_committed)


def wait_until_planted(
    source: Node, copy: Node, patience_s: float = PATIENCE_S
) -> None:
    """Wait until the copy's kernel is as the source's."""
    end = time.monotonic() + patience_s
    while wrong := _wrong(source.kernel(), copy.kernel()):
        if time.monotonic() > end:
            pytest.fail(f"{len(wrong)}: {wrong[:4]}\n{_warm(copy)}\n{copy.log}")
        time.sleep(0.05)


def delete_flows(node: Node, share: slice = slice(None)) -> int:
    """Delete flows by a program."""
    messages = reader.dump(node.namespace)[share]
    assert reader.delete_flows(node.namespace, messages) == 0
    return len(messages)


def test_the_backups_kernel_holds_every_kind_of_flow_as_the_primarys(
    pair: Pair,
) -> None:
    pair.open(FLOWS)
    wait_until_planted(pair.first, pair.second)
    warm = _warm(pair.second)
    assert (warm["planted"], warm["failed"]) == (len(pair.first.kernel()), {})
    # No copy is taken for own, also when the kernel is read anew; nothing is told back.
    assert pair.second.command("resync", "kernel").returncode == 0
    assert pair.second.status()["tables"]["own"]["flows"] == 0
    assert pair.first.status()["tables"]["peer"]["flows"] == 0
    assert _warm(pair.first)["planted"] == 0
    delete_flows(pair.first)
    _wait(lambda: not pair.second.kernel(), "no copy is left", PATIENCE_S)


def test_what_a_program_deleted_is_planted_again_and_verify_finds_it(
    pair: Pair,
) -> None:
    pair.open(FLOWS)
    wait_until_planted(pair.first, pair.second)
    delete_flows(pair.second, slice(0, 40))
    wait_until_planted(pair.first, pair.second)
    words = ("conntrack", "-U", "-p", "tcp", "--src", "10.23.0.0/16", "-m", "99")
    run_in(pair.second.namespace, *words)
    pair.second.command("verify")
    wait_until_planted(pair.first, pair.second)
    answer = pair.second.ask("verify")
    assert answer["kernel"] == {"compared": len(pair.first.kernel()), "different": 0}, (
        pair.second.log
    )


def test_a_promotion_makes_the_copies_own_at_once(pair: Pair) -> None:
    pair.open(FLOWS)
    wait_until_planted(pair.first, pair.second)
    wanted = pair.first.kernel()
    pair.first.kill()
    answer = pair.second.ask("promote")
    assert answer["ok"], answer
    assert (answer["created"], answer["unchanged"]) == (0, len(wanted))
    pair.second.wait(
        lambda status: status["tables"]["own"]["flows"] == len(wanted), "all are own"
    )
    assert not _wrong(wanted, pair.second.kernel())
    assert _warm(pair.second)["planted"] == 0


def test_copies_outlive_restarts_of_the_backups_daemon_and_are_not_told_back(
    pair: Pair,
) -> None:
    pair.first.command("promote")
    pair.open(FLOWS)
    wait_until_planted(pair.first, pair.second)
    pair.second.kill()
    pair.second.start()
    count = len(pair.first.kernel())
    pair.second.wait(
        lambda status: (
            status["warm"]["planted"] == count and not status["tables"]["own"]["flows"]
        ),
        "all are copies again",
    )
    assert not _wrong(pair.first.kernel(), pair.second.kernel())
    pair.first.wait(
        lambda status: status["tables"]["peer"]["flows"] == 0, "nothing is told back"
    )
    delete_flows(pair.first)
    _wait(lambda: not pair.second.kernel(), "no copy is left", PATIENCE_S)


def test_a_former_primary_holds_copies_of_what_was_its_own(pair: Pair) -> None:
    pair.first.command("promote")
    pair.open(FLOWS)
    wait_until_planted(pair.first, pair.second)
    wanted = pair.first.kernel()
    assert pair.first.command("demote").returncode == 0
    assert pair.second.command("promote").returncode == 0
    assert not _wrong(wanted, pair.second.kernel())
    pair.first.wait(
        lambda status: (
            status["warm"]["planted"] == len(wanted)
            and not status["tables"]["own"]["flows"]
        ),
        "all are copies",
    )
    assert not _wrong(wanted, pair.first.kernel())
    assert pair.second.command("demote").returncode == 0
    assert pair.first.command("promote").returncode == 0
    assert not _wrong(wanted, pair.first.kernel())
    delete_flows(pair.first)
    _wait(lambda: not pair.second.kernel(), "no copy is left", PATIENCE_S)
