"""Warm standbys: the backup's kernel holds the state before anybody asks for it.

Real daemons, real packets, and the independent reader as the judge.
"""

import subprocess
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
PATIENCE_S = 20.0


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
    command = ("ip", "netns", "exec", pair.second.namespace, *words)
    subprocess.run(command, capture_output=True, check=False)  # all, or some of them
    pair.second.command("verify")
    wait_until_planted(pair.first, pair.second)
    answer = pair.second.ask("verify")
    compared = len(pair.first.kernel())
    found = {"compared": compared, "different": 0, "repaired": 0, "complete": True}
    assert answer["kernel"] == found | {"refused": 0, "untold": 0}, pair.second.log


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


def _established(source: str) -> mixture.Kind:
    """A TCP conversation from such clients, its handshake and one request."""
    kinds = [kind for kind in mixture.KINDS if kind.source.startswith(source)]
    return next(kind for kind in kinds if kind.protocol == 6 and len(kind.steps) >= 4)


def test_without_a_promotion_traffic_makes_copies_own_and_nobody_ends_them(
    pair: Pair,
) -> None:
    talks = pair.open(FLOWS)
    wait_until_planted(pair.first, pair.second)
    pair.first.kill()
    time.sleep(4.0)  # so that what packets set is not what was written
    kind = _established("10.")
    alive = [talk for talk in talks if talk.kind is kind]
    for talk in alive:  # the last packets once more: no event comes of it
        mixture.say(pair.roads[1], talk, len(kind.steps) - 1)
    run_in(pair.first.namespace, "conntrack", "-F")
    pair.first.start()
    pair.second.wait_in_step(1)
    assert pair.second.status()["tables"]["peer"]["flows"] == 0
    pair.second.command("verify")
    present = pair.second.kernel()
    assert {(talk.orig, talk.zone) for talk in alive} <= present.keys()
    assert len(present) >= len(talks) * 3 // 4  # the rest has its timer
    own = pair.second.status()["tables"]["own"]["flows"]
    assert own >= len(alive) > 0, pair.second.log


def test_each_of_two_active_nodes_sees_one_direction(pair: Pair) -> None:
    kind = _established("10.2")
    talks = [mixture.talk(kind, index) for index in range(20)]
    for talk in talks:
        mixture.say(pair.roads[0], talk, 0)
    mixture.learn(pair.first.namespace, talks)
    for number in range(1, len(kind.steps)):
        wait_until_known(pair, talks)
        for talk in talks:
            is_reply = kind.steps[number][0]
            mixture.say(pair.roads[is_reply], talk, number)
    wait_until_known(pair, talks)
    for node in (pair.first, pair.second):
        states = {str(row["state"])[:14] for row in node.kernel().values()}
        assert states == {"('ESTABLISHED'"}, (node.name, states)
    counts = [_warm(node)["advanced"] for node in (pair.first, pair.second)]
    time.sleep(0.5)
    assert counts == [_warm(node)["advanced"] for node in (pair.first, pair.second)]
    assert sum(counts) > 0
    assert not _warm(pair.first)["deleted"] + _warm(pair.second)["deleted"]


def wait_until_known(pair: Pair, talks: list[mixture.Talk]) -> None:
    """Wait until both kernels have the flows in the same state."""

    def alike() -> bool:
        tables = [node.kernel() for node in (pair.first, pair.second)]
        keys = [(talk.orig, talk.zone) for talk in talks]
        states = [
            [str(table.get(key, {}).get("state"))[:14] for key in keys]
            for table in tables
        ]
        return states[0] == states[1] and "None" not in states[0]

    _wait(alike, "both know the flows alike", PATIENCE_S)


def test_the_demo_lives_on_though_nobody_promotes() -> None:
    """Real connections, v4 and v6, NAT and FTP; strict kernels that drop INVALID."""
    done = subprocess.run(
        ["scripts/demo", "--warm", "--strict"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
