"""Planned switch-overs of masqueraded flows, forth and back, and none is lost.

The address moves as keepalived moves it; when it leaves, the kernel destroys the flows
that it masqueraded. After each promotion the new primary's kernel is compared with what
the old one's was. `SYNCD_TEST_SWITCH_FLOWS=10000` asks for more flows.
"""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture, reader
from tests.kernel.cluster import Cluster, Node
from tests.kernel.mixture import KINDS, Kind, Roads, Talk
from tests.lab import Lab, run

pytestmark = [pytest.mark.kernel, cluster.BOTH]

FLOWS = int(os.environ.get("SYNCD_TEST_SWITCH_FLOWS", "1000"))
ROUNDS = 5
ADDRESS = "192.168.2.1/24"
# An established connection behind the masqueraded network, and its last steps.
TALK = next(k for k in KINDS if k.name == "tcp-nat-10.1-172.17-2")
MARKED = next(k for k in KINDS if k.name == "tcp-nat-10.1-172.17-4")


class Pair:
    """Two firewalls of which one at a time has the address."""

    def __init__(self, lab: Lab, directory: Path, standby: str) -> None:
        self.made = Cluster(lab, directory, standby=standby)
        self.roads: dict[str, Roads] = {}
        self.talks: list[Talk] = []
        self._touched = self._opened = 0
        for node in self.made.nodes:
            self.roads[node.name] = Roads(lab, node.namespace, f"far-{node.name}")
        self.address(self.made.nodes[1], "del")
        self.made.start()
        assert self.made.nodes[0].command("promote").returncode == 0

    def address(self, node: Node, verb: str) -> None:
        """Let the address leave a node, or come to it."""
        run("ip", "-n", node.namespace, "addr", verb, ADDRESS, "dev", "eth1")
        if verb == "add":
            # The routes went away with the address; the neighbour stayed known.
            run("ip", "-n", node.namespace, *NEIGHBOUR)
            run("ip", "-n", node.namespace, *ROUTE)

    def open(self, node: Node, count: int) -> None:
        """New masqueraded connections through a node."""
        first, self._opened = self._opened, self._opened + count
        talks = [_talk(TALK, index) for index in range(first, first + count)]
        mixture.play(self.roads[node.name], node.namespace, talks)
        self.talks += talks

    def touch(self, node: Node, count: int) -> None:
        """Give some connections another mark, by a packet of theirs."""
        roads = self.roads[node.name]
        self._touched += 1
        _, build, _ = MARKED.steps[-1]
        traffic_class = (mixture.MARK_CLASS, mixture.UNMARK_CLASS)[self._touched % 2]
        kind = replace(TALK, steps=((mixture.ORIG, build, traffic_class),))
        for talk in self.talks[-count:]:
            mixture.say(roads, Talk(kind, talk.orig), 0)

    def end(self, node: Node, count: int) -> None:
        """Some connections end."""
        ended = {(talk.orig, 0) for talk in self.talks[:count]}
        del self.talks[:count]
        messages = [
            message
            for message in reader.dump(node.namespace)
            if reader.flow_row(message)[0] in ended
        ]
        assert reader.delete_flows(node.namespace, messages) == 0

    def switch(self, old: Node, new: Node, *, address_first: bool) -> None:
        """What keepalived does on a planned change."""
        done = old.command("demote")
        assert done.returncode == 0, done
        self.address(old, "del")
        if address_first:
            self.address(new, "add")
        done = new.command("promote")
        assert done.returncode == 0, (done, new.log)
        if not address_first:
            self.address(new, "add")

    def close(self) -> None:
        self.made.close()
        for roads in self.roads.values():
            roads.close()


FAR = ("192.168.2.2", "lladdr", "02:00:00:00:00:99", "dev", "eth1")
NEIGHBOUR = ("neigh", "replace", *FAR)
ROUTE = ("route", "replace", "default", "via", "192.168.2.2")


def _talk(kind: Kind, index: int) -> Talk:
    made = mixture.talk(kind, index)
    port = 1024 + index % 60000
    number, source, destination, _, server_port, zone = made.orig
    made.orig = (number, source, destination, port, server_port, zone)
    return made


@pytest.fixture
def pair(lab: Lab, tmp_path: Path, standby: str) -> Iterator[Pair]:
    made = Pair(lab, tmp_path, standby)
    try:
        yield made
    finally:
        made.close()


def _masqueraded(node: Node) -> reader.Rows:
    rows = node.kernel()
    return {key: row for key, row in rows.items() if _source(key).startswith("10.1.")}


def _source(key: reader.Key) -> str:
    ends = key[0]
    assert isinstance(ends, tuple)
    return str(ends[1])


def _report(capsys: pytest.CaptureFixture[str], *words: object) -> None:
    with capsys.disabled():
        print("\n", *words)


@pytest.mark.parametrize("address_first", [True, False])
def test_no_masqueraded_flow_is_lost_in_switches_forth_and_back(
    pair: Pair, *, address_first: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = pair.made.nodes
    pair.open(nodes[0], FLOWS)
    for number in range(ROUNDS):
        old, new = nodes[number % 2], nodes[1 - number % 2]
        if number:
            pair.open(old, FLOWS // 20)
        pair.touch(old, FLOWS // 5)
        pair.end(old, FLOWS // 40)
        wanted = _masqueraded(old)
        pair.switch(old, new, address_first=address_first)
        found = _masqueraded(new)
        more = len(found.keys() - wanted.keys())
        living = {key: row for key, row in found.items() if key in wanted}
        lost = reader.differences(wanted, living, reader.as_committed)
        last = new.status()["commit"]["last"]
        _report(capsys, f"{len(wanted)} flows, {len(lost)} lost, {more} ended:", last)
        assert not lost, (number, len(lost), lost[:6], old.log, new.log)
    for node, role in ((nodes[0], "backup"), (nodes[1], "primary")):
        assert node.status()["role"] == role


def test_a_flow_that_ended_elsewhere_does_not_come_back(pair: Pair) -> None:
    first, second = pair.made.nodes
    pair.open(first, 100)
    pair.switch(first, second, address_first=True)
    pair.open(second, 100)
    pair.switch(second, first, address_first=True)
    pair.end(first, 150)
    wanted = _masqueraded(first)
    assert len(wanted) == 50
    pair.switch(first, second, address_first=True)
    wrong = reader.differences(wanted, _masqueraded(second), reader.as_committed)
    assert not wrong, (len(wrong), wrong[:3])


def _restart(node: Node) -> None:
    node.start()
    node.wait_in_step(1)


def _address_leaves_before_the_demotion(pair: Pair, old: Node) -> None:
    """The order of keepalived: it removes the address, then it runs its script."""
    pair.address(old, "del")
    assert old.command("demote").returncode == 0


def _demoted_node_restarts(pair: Pair, old: Node) -> None:
    assert old.command("demote").returncode == 0
    pair.address(old, "del")
    old.send_signal(signal.SIGTERM)
    assert old.wait_for_exit() == 0
    _restart(old)


def _daemon_dies_and_is_restarted(pair: Pair, old: Node) -> None:
    """A supervisor starts it anew, faster than the standby is promoted."""
    old.kill()
    pair.address(old, "del")
    _restart(old)


@pytest.mark.parametrize(
    "leave",
    [
        _address_leaves_before_the_demotion,
        _demoted_node_restarts,
        _daemon_dies_and_is_restarted,
    ],
)
def test_masqueraded_flows_outlive_a_clumsy_handover(
    pair: Pair, leave: Callable[[Pair, Node], None]
) -> None:
    first, second = pair.made.nodes
    pair.open(first, 200)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = _masqueraded(first)
    leave(pair, first)
    pair.address(second, "add")
    assert second.command("promote").returncode == 0
    found = _masqueraded(second)
    living = {key: row for key, row in found.items() if key in wanted}
    lost = reader.differences(wanted, living, reader.as_committed)
    assert not lost, len(lost)


def test_a_promotion_before_the_address_leaves_keeps_all(pair: Pair) -> None:
    """The old one is demoted last: that somebody took over protects nothing there."""
    first, second = pair.made.nodes
    pair.open(first, 200)
    cluster.wait_until_equal(first, second, 5.0)
    wanted = _masqueraded(first)
    assert second.command("promote").returncode == 0
    pair.address(first, "del")
    pair.address(second, "add")
    assert first.command("demote").returncode == 0
    assert not reader.differences(wanted, _masqueraded(second), reader.as_committed)
    assert first.command("promote").returncode == 0
    pair.address(second, "del")
    pair.address(first, "add")
    living = {k: row for k, row in _masqueraded(first).items() if k in wanted}
    assert not reader.differences(wanted, living, reader.as_committed)
