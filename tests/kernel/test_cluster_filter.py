"""Each key of [filter], with real packets: what the kernel has and the peer may have.

Flows of all kinds cross the first node; the independent reader of its kernel and a
predicate in plain words say what the second one has to hold. Filters change by SIGHUP
while flows live, so that each verdict comes from events, from dumps and from a change.
"""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel import mixture, reader, wire
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab, run

pytestmark = pytest.mark.kernel

FLOWS = 300
PATIENCE_S = 20.0
ASSURED, SRC_NAT, DST_NAT = 0x4, 0x10, 0x20
FIREWALL = "192.168.2.1"  # behind which flows are masqueraded
VIP = "198.18.0.1"  # nobody's address at first: packets to it pass through

Wanted = Callable[[reader.Key, reader.Row], bool]


class Pair:
    """Two nodes, packets around the first one."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.made = Cluster(lab, directory)
        self.first, self.second = self.made.nodes
        self.roads = mixture.Roads(lab, self.first.namespace)
        self._plain = {node.name: node.config.read_text() for node in self.made.nodes}
        self._part = 0

    def filter_by(self, text: str) -> None:
        """Another filter on both nodes."""
        for node in self.made.nodes:
            node.config.write_text(f"{self._plain[node.name]}[filter]\n{text}\n")
            node.send_signal(signal.SIGHUP)

    def play(self) -> None:
        """Flows of all kinds, other ones each time."""
        talks = mixture.talks(FLOWS, self._part)
        mixture.play(self.roads, self.first.namespace, talks)
        self._part += 1

    def udp(self, source: str, destination: str, *ports: int) -> None:
        """UDP flows without an answer that begin on the client's side."""
        for port in ports:
            ends = (17, source, destination, port, 7, 0)
            self.roads.put(
                mixture.CLIENT_SIDE,
                mixture.frame(
                    self.roads.macs[mixture.CLIENT_SIDE],
                    ends,
                    lambda numbers: wire.udp(numbers[0], numbers[1]),
                ),
            )

    def close(self) -> None:
        self.made.close()
        self.roads.close()


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(lab, tmp_path)
    try:
        made.made.start()
        yield made
    finally:
        made.close()


def has_exactly(copy: Node, source: Node, wanted: Wanted) -> int:
    """Wait until the copy is what is wanted of the source's kernel; how many."""
    end = time.monotonic() + PATIENCE_S
    while True:
        there = source.kernel()
        right = {key: row for key, row in there.items() if wanted(key, row)}
        wrong = reader.differences(right, copy.table("peer"), reader.as_told)
        if not wrong:
            assert copy.command("verify").returncode == 0
            return len(right)
        assert time.monotonic() < end, (len(wrong), wrong[:4], copy.log[-2000:])
        time.sleep(0.05)


def _tuples(key: reader.Key, row: reader.Row) -> tuple[tuple[object, ...], ...]:
    orig, reply = key[0], row["reply"]
    assert isinstance(orig, tuple)
    assert isinstance(reply, tuple)
    return orig, reply


def _protocol(key: reader.Key) -> object:
    orig = key[0]
    assert isinstance(orig, tuple)
    return orig[0]


def _port(key: reader.Key) -> int:
    orig = key[0]
    assert isinstance(orig, tuple)
    port = orig[3]
    assert isinstance(port, int)
    return port


def _ends(key: reader.Key, row: reader.Row) -> tuple[str, str]:
    """Who began it, and who answers."""
    orig, reply = _tuples(key, row)
    return str(orig[1]), str(reply[1])


def _status(row: reader.Row) -> int:
    status = row["status"]
    assert isinstance(status, int)
    return status


def _mark(row: reader.Row) -> int:
    mark = row["mark"]
    assert isinstance(mark, int)
    return mark


def _zones(key: reader.Key, row: reader.Row) -> tuple[object, object]:
    orig, reply = _tuples(key, row)
    return (key[1] or orig[-1], key[1] or reply[-1])


def _state(row: reader.Row) -> object:
    state = row["state"]
    assert isinstance(state, tuple)
    return state[0] if state else None


FILTERS: tuple[tuple[str, Wanted], ...] = (
    (
        'protocols = { accept = ["tcp", "icmpv6"] }',
        lambda key, _: _protocol(key) in (6, 58),
    ),
    (
        'addresses = { ignore = ["10.1.0.0/16", "fd10::/16"] }',
        lambda key, row: (
            not any(end.startswith(("10.1.", "fd10:")) for end in _ends(key, row))
        ),
    ),
    (
        'tcp_states = { accept = ["ESTABLISHED"] }',
        lambda key, row: _protocol(key) != 6 or _state(row) == "ESTABLISHED",
    ),
    (
        'marks = { accept = ["0x20/0xf0", 7] }',
        lambda _, row: _mark(row) & 0xF0 == 0x20 or _mark(row) == 7,
    ),
    ("marks = { ignore = [0] }", lambda _, row: _mark(row) != 0),
    (
        'zones = { accept = [7, "orig:8"] }',
        lambda key, row: 7 in _zones(key, row) or _zones(key, row)[0] == 8,
    ),
    ("zones = { accept = [0] }", lambda key, row: _zones(key, row) == (0, 0)),
    (
        'nat = { accept = ["src"], ignore = ["dst"] }',
        lambda _, row: _status(row) & (SRC_NAT | DST_NAT) == SRC_NAT,
    ),
    (
        'nat = { accept = ["none"] }\nprotocols = { ignore = ["udp"] }\n'
        'marks = { ignore = ["0x2a"] }',
        lambda key, row: (
            not _status(row) & (SRC_NAT | DST_NAT)
            and _protocol(key) != 17
            and _mark(row) != 0x2A
        ),
    ),
)


def test_the_peer_has_what_the_filter_wants_and_nothing_else(pair: Pair) -> None:
    first, second = pair.first, pair.second
    pair.play()
    everything = has_exactly(second, first, lambda *_: True)
    for text, wanted in FILTERS:
        pair.filter_by(text)  # what is there comes and goes
        count = has_exactly(second, first, wanted)
        assert 0 < count < everything, text
        pair.play()
        everything += FLOWS
        assert has_exactly(second, first, wanted) > count, text
    assert first.command("resync", "kernel").returncode == 0
    has_exactly(second, first, wanted)
    # The same filter says what may be flushed.
    left = {key: row for key, row in first.kernel().items() if not wanted(key, row)}
    assert first.command("flush", "kernel").returncode == 0
    assert not reader.differences(left, first.kernel(), reader.as_told)
    assert not first.kernel(reader.EXPECTATIONS)
    pair.filter_by("")
    has_exactly(second, first, lambda *_: True)


def test_short_flows_never_leave_and_old_ones_come(pair: Pair) -> None:
    first, second = pair.first, pair.second
    pair.filter_by("min_age_s = 3600")
    time.sleep(0.3)  # what it was told before stays told
    pair.play()
    assured = has_exactly(second, first, lambda _, row: bool(_status(row) & ASSURED))
    before = first.status()["tables"]["own"]
    waiting, ended = before["young"], before["ignored"].get("min_age_s", 0)
    assert assured + waiting == len(first.kernel())
    pair.udp("10.9.250.1", "172.31.1.1", *range(1, 101))
    first.wait(lambda s: s["tables"]["own"]["young"] == waiting + 100, "all wait")
    short = [
        message
        for message in reader.dump(first.namespace)
        if _ends(*reader.flow_row(message))[0] == "10.9.250.1"
    ]
    assert reader.delete_flows(first.namespace, short[:80]) == 0
    first.wait(lambda s: s["tables"]["own"]["young"] == waiting + 20, "20 wait")
    assert len(second.table("peer")) == assured
    assert first.status()["tables"]["own"]["ignored"]["min_age_s"] == ended + 80
    pair.filter_by("min_age_s = 0.5")
    assert has_exactly(second, first, lambda *_: True) == assured + waiting + 20
    pair.udp("10.9.250.1", "172.31.1.1", *range(101, 106))
    assert has_exactly(second, first, lambda *_: True) == assured + waiting + 25


def test_what_is_the_nodes_own_is_left_out_while_addresses_move(pair: Pair) -> None:
    pair.play()
    first, second = pair.first, pair.second

    always = (FIREWALL, "192.168.1.1", "fd00:2::1")

    def foreign(key: reader.Key, row: reader.Row) -> bool:
        return not any(end in always for end in _ends(key, row))

    def passes(key: reader.Key, row: reader.Row) -> bool:
        return foreign(key, row) and VIP not in _ends(key, row)

    pair.udp("10.9.2.1", FIREWALL, *range(1, 11))  # to the firewall itself
    before = has_exactly(second, first, passes)
    copies = second.table("peer").items()
    assert any(_tuples(*item)[1][2] == FIREWALL for item in copies)  # masqueraded
    assert first.status()["tables"]["own"]["ignored"]["own_addresses"] >= 10
    pair.udp("10.9.2.1", VIP, *range(1, 11))  # they pass through
    assert has_exactly(second, first, foreign) == before + 10
    run("ip", "-n", first.namespace, "address", "add", f"{VIP}/32", "dev", "lo")
    assert has_exactly(second, first, passes) == before
    pair.udp("10.9.2.1", VIP, *range(11, 21))  # they end here
    assert has_exactly(second, first, passes) == before
    run("ip", "-n", first.namespace, "address", "del", f"{VIP}/32", "dev", "lo")
    pair.udp("10.9.2.1", VIP, *range(11, 31))
    assert first.command("resync", "kernel").returncode == 0
    time.sleep(0.5)
    assert has_exactly(second, first, passes) == before


def test_a_commit_leaves_out_what_is_the_committing_nodes_own(pair: Pair) -> None:
    first, second = pair.first, pair.second
    pair.udp("10.9.3.1", "172.31.2.1", 1, 2, 3)
    pair.udp("10.9.3.2", "172.31.2.1", 1, 2, 3)
    assert has_exactly(second, first, lambda *_: True) == 6
    run("ip", "-n", second.namespace, "address", "add", "10.9.3.2/32", "dev", "lo")
    time.sleep(0.3)
    assert second.command("promote").returncode == 0
    sources = [_ends(*item)[0] for item in second.kernel().items()]
    assert sources == ["10.9.3.1"] * 3
