"""The own table is what the kernel has, also where the kernel tells nothing.

Entries that begin while nobody listens never report (`nf_conntrack_events` 0 behaves
like 2 without a listener, which is a matter of the whole machine): an audit covers
them. Lost events cost the network what was lost, not the table.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture, wire
from tests.kernel.churn import Churn
from tests.kernel.cluster import Cluster, Node
from tests.kernel.mixture import CLIENT_SIDE, MARK_CLASS, Roads, Talk
from tests.kernel.wire import ACK, FIN
from tests.lab import Lab, run_in, sysctl

pytestmark = pytest.mark.kernel

AUDIT = "[kernel]\naudit_interval_s = 1\n"
NO_AUDIT = '[kernel]\naudit_interval_s = 0\nreceive_buffer = "64 KiB"\n'
RELIABLE = NO_AUDIT + "reliable_events = true\n"
WITHIN_AN_AUDIT_S = 4.0  # the interval, the audit itself, a slow machine
FLOWS = int(os.environ.get("SYNCD_TEST_TRUTH_FLOWS", "20000"))
CHANGED = 400
_TCP_TIMEOUT = "net.netfilter.nf_conntrack_tcp_timeout"
_OPEN_KINDS = ("tcp4-3", "tcp6-3", "tcp4-11")  # established; with data in flight
_EVENTS = "net.netfilter.nf_conntrack_events"


@contextmanager
def _with_roads(
    lab: Lab, directory: Path, more: str
) -> Iterator[tuple[Cluster, Roads]]:
    """A cluster, not started yet, and the roads through its first node."""
    made = Cluster(lab, directory, more=more)
    roads = Roads(lab, made.nodes[0].namespace)
    try:
        yield made, roads
    finally:
        made.close()
        roads.close()


def _finish(roads: Roads, talk: Talk) -> None:
    """The client closes an established connection."""

    def build(ends: tuple[int, ...]) -> bytes:
        return wire.tcp(ends[0], ends[1], FIN | ACK, 1011, 5001)

    mac = roads.macs[CLIENT_SIDE]
    roads.put(CLIENT_SIDE, mixture.frame(mac, talk.orig, build))


def _mark(roads: Roads, talk: Talk) -> None:
    """The client's next datagram changes the mark."""
    mac = roads.macs[CLIENT_SIDE]
    build = talk.kind.steps[0][1]
    frame = mixture.frame(mac, talk.orig, build, MARK_CLASS)
    roads.put(CLIENT_SIDE, frame)


def test_flows_from_before_the_daemon_are_right_on_the_peer_within_an_audit(
    lab: Lab, tmp_path: Path
) -> None:
    with _with_roads(lab, tmp_path, AUDIT) as (made, roads):
        first, second = made.nodes
        sysctl(first.namespace, _EVENTS, 0)
        played = mixture.talks(600)
        mixture.play(roads, first.namespace, played)
        made.start()
        assert sysctl(first.namespace, _EVENTS) == "1"
        cluster.wait_until_equal(first, second, WITHIN_AN_AUDIT_S)
        kernel = first.status()["kernel"]

        established = [t for t in played if t.kind.name in ("tcp4-3", "tcp6-3")]
        marked = [t for t in played if t.kind.protocol == 17 and t.reply]
        for talk in established:
            _finish(roads, talk)
        for talk in marked:
            _mark(roads, talk)
        sysctl(first.namespace, "net.netfilter.nf_conntrack_icmp_timeout", 1)
        echoes = [t for t in played if t.kind.protocol == 1]
        for talk in echoes:  # refreshed by the new timer, they end by themselves
            mixture.say(roads, talk, 0)
        run_in(first.namespace, "conntrack", "-D", "-p", "sctp")
        cluster.wait_until_equal(first, second, 2 * WITHIN_AN_AUDIT_S)

        after = first.status()["kernel"]
        assert after["events"] == kernel["events"]  # not one of them was told
        assert after["audits"] > kernel["audits"]
        found = after["audit_differences"] - kernel["audit_differences"]
        assert found >= len(established) + len(echoes)
        assert "audit: " in first.log
        assert " had ended; for instance " in first.log


def test_an_audit_of_a_true_table_finds_nothing_under_load(
    lab: Lab, tmp_path: Path
) -> None:
    with _with_roads(lab, tmp_path, AUDIT.replace("1", "0.2")) as (made, roads):
        first, second = made.nodes
        made.start()
        load = Churn(roads, first.namespace, 2000)
        try:
            load.run(4000.0, 3.0)
        finally:
            load.close()
        cluster.wait_until_equal(first, second, WITHIN_AN_AUDIT_S)
        kernel = first.status()["kernel"]
        assert kernel["audits"] >= 2
        assert kernel["audit_differences"] == 0, first.log
        assert kernel["lost_events"] == 0


def _datagrams(roads: Roads, count: int, traffic_class: int = 0) -> None:
    """One datagram of each of so many flows."""
    mac = roads.macs[CLIENT_SIDE]
    for index in range(count):
        source = f"10.{30 + index // 62500}.{index // 250 % 250}.{index % 250 + 1}"
        ends = (17, source, "172.20.1.1", 1024 + index % 50000, 53, 0)
        frame = mixture.frame(mac, ends, _udp, traffic_class)
        roads.put(CLIENT_SIDE, frame)


def _udp(ends: tuple[int, ...]) -> bytes:
    return wire.udp(ends[0], ends[1])


def _bytes(node: Node) -> int:
    link = node.status()["links"][0]
    return int(link["sent_bytes"])


def test_an_overrun_costs_the_network_what_has_changed(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _with_roads(lab, tmp_path, NO_AUDIT) as (made, roads):
        first, second = made.nodes
        _datagrams(roads, FLOWS)
        made.start()
        whole = _bytes(first)
        second.wait(
            lambda status: status["tables"]["peer"]["flows"] == FLOWS, "it has all"
        )
        before, resyncs = _bytes(first), first.status()["kernel"]["resyncs"]
        first.send_signal(signal.SIGSTOP)
        _datagrams(roads, CHANGED, MARK_CLASS)
        first.send_signal(signal.SIGCONT)
        kernel = first.wait(
            lambda status: status["kernel"]["resyncs"] > resyncs, "it is healed"
        )["kernel"]
        assert kernel["lost_events"] > 0
        cluster.wait_until_equal(first, second, WITHIN_AN_AUDIT_S)
        told = _bytes(first) - before
        with capsys.disabled():
            print(
                f"\n {FLOWS} flows in {max(whole, before)} bytes; {CHANGED} changed, "
                f"{kernel['lost_events']} events lost: healed with {told} bytes"
            )
        # 160 bytes for each that changed, and the signs of life meanwhile.
        assert told < CHANGED * 160 + 20_000
        assert second.command("verify").returncode == 0


def test_reliable_events_bring_every_end_through_a_small_buffer(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _with_roads(lab, tmp_path, RELIABLE) as (made, roads):
        first, second = made.nodes
        made.start()
        _datagrams(roads, 2000)
        cluster.wait_until_equal(first, second, WITHIN_AN_AUDIT_S)
        before = first.status()["kernel"]["events"]
        first.send_signal(signal.SIGSTOP)
        run_in(first.namespace, "conntrack", "-D", "-p", "udp", "--orig-port-dst", "53")
        _datagrams(roads, 1000)  # new flows on tuples whose end waits to be told
        first.send_signal(signal.SIGCONT)
        kernel = first.wait(
            lambda status: status["kernel"]["events"] >= before + 2000, "each end came"
        )["kernel"]
        after_s = cluster.wait_until_equal(first, second, WITHIN_AN_AUDIT_S)
        assert len(first.kernel()) == 1000
        with capsys.disabled():
            print(
                f"\n reliable: {kernel['events'] - before} events came, "
                f"{kernel['lost_events']} times none fitted, {kernel['resyncs']} "
                f"resyncs, equal after {after_s:.2f} s"
            )


def test_a_restored_timer_is_none_that_this_kernel_would_not_give(
    lab: Lab, tmp_path: Path
) -> None:
    with _with_roads(lab, tmp_path, AUDIT) as (made, roads):
        first, second = made.nodes
        mixture.prepare(lab, second.namespace, lab.namespace("far2"), mixture.RULES)
        for node in made.nodes:
            sysctl(node.namespace, f"{_TCP_TIMEOUT}_established", 600)
            sysctl(node.namespace, f"{_TCP_TIMEOUT}_unacknowledged", 400)
        made.start()
        played = [t for t in mixture.talks(600) if t.kind.name in _OPEN_KINDS]
        mixture.play(roads, first.namespace, played)
        cluster.wait_until_equal(first, second, WITHIN_AN_AUDIT_S)
        assert second.command("promote").returncode == 0
        timers = [row["timeout"] for row in second.kernel().values()]
        assert len(timers) == len(played)
        assert all(isinstance(s, int) and 300 < s <= 600 for s in timers), timers
