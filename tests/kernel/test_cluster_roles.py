"""Roles in any order, repeated, with the peer dead, and over restarts.

What counts in the end is what an operator counts on: a standby that is promoted has
the flows of whoever carried the traffic, and nobody has a role that he was not given.
"""

import itertools
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture, reader
from tests.kernel.cluster import SYNCD, Cluster, Node
from tests.lab import Lab

pytestmark = [pytest.mark.kernel, cluster.BOTH]

FLOWS = 400


class Stage:
    """Two or three firewalls with the same rules, packets around each."""

    def __init__(
        self, lab: Lab, directory: Path, names: tuple[str, ...], standby: str
    ) -> None:
        self.made = Cluster(lab, directory, names, standby=standby)
        self.roads = {
            node.name: mixture.Roads(lab, node.namespace, f"far-{node.name}")
            for node in self.made.nodes
        }
        self.made.start()

    def play(self, node: Node, count: int = FLOWS, part: int = 0) -> None:
        """Flows of all kinds through a node."""
        talks = mixture.talks(count, part)
        mixture.play(self.roads[node.name], node.namespace, talks)

    def close(self) -> None:
        self.made.close()
        for roads in self.roads.values():
            roads.close()


@pytest.fixture
def stage(lab: Lab, tmp_path: Path, standby: str) -> Iterator[Stage]:
    made = Stage(lab, tmp_path, ("fw1", "fw2"), standby)
    try:
        yield made
    finally:
        made.close()


def _has(node: Node, wanted: reader.Rows) -> None:
    found = node.kernel()
    living = {key: row for key, row in found.items() if key in wanted}
    wrong = reader.differences(wanted, living, reader.as_committed)
    assert not wrong, (len(wrong), wrong[:5], node.log)


ORDERS = tuple(itertools.product(("promote", "demote", "fault"), repeat=2))


def test_roles_in_any_order_end_in_the_last_one(stage: Stage) -> None:
    first, second = stage.made.nodes
    stage.play(first)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = first.kernel()
    words = {"promote": "primary", "demote": "backup", "fault": "fault"}
    for order in ORDERS:
        for command in order:
            done = second.command(command)
            assert done.returncode == 0, (order, command, done)
            status = second.status()
            assert status["role"] == words[command]
            assert status["ready"] is (command != "fault"), (order, status)
    assert second.command("promote").returncode == 0
    _has(second, wanted)
    assert "Traceback" not in second.log


def test_roles_change_with_a_dead_peer_as_fast_and_complete(stage: Stage) -> None:
    first, second = stage.made.nodes
    assert first.command("promote").returncode == 0
    stage.play(first)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = first.kernel()
    first.kill()
    for command in ("demote", "fault", "demote", "promote", "promote"):
        assert second.command(command).returncode == 0, command
    _has(second, wanted)
    second.command("demote")
    second.command("promote")
    _has(second, wanted)


@pytest.mark.parametrize("wait_for_step", [True, False])
def test_a_primary_that_restarted_and_died_is_taken_over(
    stage: Stage, *, wait_for_step: bool
) -> None:
    """Nobody promotes it again: that the peers remember its role must be enough."""
    first, second = stage.made.nodes
    assert first.command("promote").returncode == 0
    stage.play(first)
    cluster.wait_until_equal(first, second, 5.0)
    first.kill()
    stage.play(first, FLOWS, part=1)
    first.start()
    first.wait(lambda status: status["role"] == "primary", "it is primary again")
    if wait_for_step:
        first.wait_in_step(1)
        cluster.wait_until_equal(first, second, 5.0)
        stage.play(first, FLOWS, part=2)
        cluster.wait_until_equal(first, second, 5.0)
        wanted = first.kernel()
    else:
        wanted = {}
    first.kill()
    assert second.command("promote").returncode == 0
    last = second.status()["commit"]["last"]
    assert last["unchanged" if second.warm else "created"] > 0, second.log
    _has(second, wanted)


def test_a_primary_that_was_killed_at_once_after_its_restart_is_taken_over(
    stage: Stage,
) -> None:
    first, second = stage.made.nodes
    assert first.command("promote").returncode == 0
    stage.play(first)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = first.kernel()
    first.kill()
    first.start()
    second.wait(
        lambda status: status["peers"][0]["epoch"] != "0" and "restarted" in second.log,
        "the new life was heard of",
    )
    first.kill()
    assert second.command("promote").returncode == 0
    _has(second, wanted)


def test_a_standby_that_restarts_during_its_promotion_can_be_promoted(
    stage: Stage,
) -> None:
    first, second = stage.made.nodes
    assert first.command("promote").returncode == 0
    stage.play(first, 4 * FLOWS)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = first.kernel()
    for delay in (0.0, 0.02, 0.1):
        asking = subprocess.Popen(
            [str(SYNCD), "promote", "--socket", str(second.socket)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            asking.wait(0.05 + delay)
        except subprocess.TimeoutExpired:
            second.kill()
            asking.wait(20)
        else:
            second.kill()
        second.start()
        second.wait_in_step(1)
    first.kill()
    assert second.command("promote").returncode == 0
    _has(second, wanted)
    assert second.status()["role"] == "primary"


def test_both_primary_for_a_while_lose_nothing(stage: Stage) -> None:
    first, second = stage.made.nodes
    assert first.command("promote").returncode == 0
    stage.play(first)
    cluster.wait_until_equal(first, second, 5.0)
    for node in (first, second):
        cluster.set_link(node.namespace, "eth2", "down")
    second.wait(lambda status: status["peers"][0]["state"] == "lost", "fw1 is lost")
    wanted = first.kernel()
    assert second.command("promote").returncode == 0
    _has(second, wanted)
    stage.play(second, FLOWS, part=2)
    for node in (first, second):
        cluster.set_link(node.namespace, "eth2", "up")
    for node in (first, second):
        node.wait_in_step(1)
    cluster.wait_until_equal(first, second, 5.0)
    cluster.wait_until_equal(second, first, 5.0)
    wanted = second.kernel()
    assert first.command("demote").returncode == 0
    assert second.command("demote").returncode == 0
    assert first.command("promote").returncode == 0
    _has(first, wanted)


@pytest.mark.parametrize("given_back", [True, False])
def test_what_begins_after_a_takeover_from_a_living_primary_is_taken_over_too(
    stage: Stage, *, given_back: bool
) -> None:
    """Flapping VRRP, or two addresses with a primary each: one dies."""
    first, second = stage.made.nodes
    assert first.command("promote").returncode == 0
    stage.play(first)
    cluster.wait_until_equal(first, second, 5.0)
    for command in ("promote", "demote", "promote", "demote")[: 4 if given_back else 3]:
        assert second.command(command).returncode == 0
    stage.play(first, FLOWS, part=1)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = first.kernel()
    first.kill()
    assert second.command("promote").returncode == 0
    _has(second, wanted)


def test_a_random_walk_through_roles_and_restarts(stage: Stage) -> None:
    """Whatever happened: who is promoted last, alone, has all that lived."""
    first, second = stage.made.nodes
    draw = random.Random(11)
    stage.play(first)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = first.kernel()
    for _ in range(24):
        node = draw.choice((first, second))
        verb = draw.choice(("promote", "demote", "fault", "restart", "promote"))
        if verb == "restart":
            node.kill()
            node.start()
            node.wait(lambda _: True, "it answers")
        else:
            assert node.command(verb).returncode == 0, (verb, node.log)
    for node in (first, second):
        node.wait_in_step(1)
        assert "Traceback" not in node.log
    for old, new in ((first, second), (second, first)):
        assert old.command("demote").returncode == 0
        assert new.command("promote").returncode == 0
        _has(new, wanted)
    # A refresh by a commit takes MAXACK_SET away, and no event tells that.
    cluster.wait_until_equal(first, second, 5.0, view=reader.as_told)
    cluster.wait_until_equal(second, first, 5.0, view=reader.as_told)


def test_the_third_node_takes_over_from_the_second(
    lab: Lab, tmp_path: Path, standby: str
) -> None:
    made = Stage(lab, tmp_path, ("fw1", "fw2", "fw3"), standby)
    try:
        first, second, third = made.made.nodes
        assert first.command("promote").returncode == 0
        made.play(first)
        for copy in (second, third):
            cluster.wait_until_equal(first, copy, 5.0, among=3)
        wanted = first.kernel()
        first.kill()
        assert second.command("promote").returncode == 0
        _has(second, wanted)
        made.play(second, FLOWS, part=2)
        wanted = second.kernel()
        cluster.wait_until_equal(second, third, 5.0, among=3)
        second.kill()
        assert third.command("promote").returncode == 0
        _has(third, wanted)
    finally:
        made.close()
