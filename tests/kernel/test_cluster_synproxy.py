"""A connection behind SYNPROXY crosses a failover: its numbers are still translated.

The firewall answers the client's SYN itself, and opens the connection to the server
when the client has proved itself: the server's numbers are then not those that the
client knows, and its timestamps are not either. The judge is the twin of the matrix.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import cluster, matrix, mixture, reader, wire
from tests.kernel.cluster import Cluster
from tests.kernel.mixture import CLIENT_SIDE, SERVER_SIDE, Roads
from tests.kernel.wire import ACK, PSH, SYN
from tests.lab import Lab, sysctl

pytestmark = pytest.mark.kernel

RULES = """
table inet firewall {
  chain early { type filter hook prerouting priority raw;
    iifname "eth2" notrack
    tcp dport 443 tcp flags syn notrack
  }
  chain proxy { synproxy mss 1460 wscale 7 timestamp sack-perm; }
  chain own { type filter hook output priority raw; oifname "eth2" notrack; }
  chain forward { type filter hook forward priority 0;
    tcp dport 443 ct state invalid,untracked jump proxy
    ct state invalid drop
  }
  chain hidden { type nat hook postrouting priority srcnat; }
}
"""
FILTER = '[filter]\ntcp_states = { ignore = ["SYN_SENT"] }\n'
CLIENT, SERVER, PORT = "10.9.0.1", "172.16.0.1", 40000
_FIRST = 1000  # the client's number; the server's is 5000


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _put(
    roads: Roads,
    side: int,
    flags: int,
    numbers: tuple[int, int],
    times: tuple[int, int],
    data: bytes = b"",
    *,
    port: int = 443,
) -> None:
    """A TCP packet with timestamps, and with a checksum, which SYNPROXY looks at."""
    options = b"\1\1\x08\x0a" + struct.pack(">II", *times)
    if flags & SYN:
        options = b"\2\4\x05\xb4\4\2\1\1\1\3\3\7" + options
    ports, ends = (PORT, port), (CLIENT, SERVER)
    if side == SERVER_SIDE:
        ports, ends = (port, PORT), (SERVER, CLIENT)
    segment = wire.tcp(*ports, flags, *numbers, data, options=options)
    addresses = wire.packet(roads.macs[side], *ends, 6, b"")[26:34]
    pseudo = addresses + struct.pack(">HH", 6, len(segment))
    value = _sum(pseudo + segment + bytes(len(segment) & 1)).to_bytes(2, "big")
    segment = segment[:16] + value + segment[18:]
    roads.put(side, wire.packet(roads.macs[side], *ends, 6, segment))


def _read(packet: bytes) -> tuple[int, int, int, int, int]:
    """Flags, number, acknowledged, timestamp and its echo of an IPv4 packet."""
    number, acknowledged, size, flags = struct.unpack_from(">IIBB", packet, 24)
    options = packet[40 : 20 + (size >> 4) * 4]
    at = options.index(b"\x08\x0a")
    value, echo = struct.unpack_from(">II", options, at + 2)
    return flags, number, acknowledged, value, echo


def _heard(ears: matrix.Ears, side: int) -> list[tuple[int, int, int, int, int]]:
    return sorted(
        _read(data)
        for where, data in ears.take()
        if where == side and data[0] >> 4 == 4  # hosts speak of themselves in IPv6
    )


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[tuple[Cluster, list[Roads]]]:
    made = Cluster(lab, tmp_path, more=FILTER)
    roads = [
        mixture.Roads(lab, node.namespace, f"far-{node.name}", RULES)
        for node in made.nodes
    ]
    for node in made.nodes:
        for name in ("tcp_loose", "tcp_be_liberal"):
            sysctl(node.namespace, f"net.netfilter.nf_conntrack_{name}", 0)
    try:
        made.start()
        yield made, roads
    finally:
        made.close()
        for road in roads:
            road.close()


def _open(roads: Roads, ears: matrix.Ears) -> tuple[int, int]:
    """The whole handshake; what the firewall told the client as number and time."""

    _put(roads, CLIENT_SIDE, SYN, (_FIRST, 0), (700, 0))
    ((flags, cookie, acknowledged, value, _),) = _heard(ears, CLIENT_SIDE)
    assert (flags, acknowledged) == (SYN | ACK, _FIRST + 1)
    _put(roads, CLIENT_SIDE, ACK, (_FIRST + 1, cookie + 1), (701, value))
    ((flags, number, _, told, _),) = _heard(ears, SERVER_SIDE)
    assert (flags, number) == (SYN, _FIRST)
    _put(roads, SERVER_SIDE, SYN | ACK, (5000, _FIRST + 1), (90_000, told))
    ears.take()
    return cookie, value


def test_a_proxied_connection_keeps_its_translated_numbers(
    pair: tuple[Cluster, list[Roads]],
) -> None:
    made, roads = pair
    first, second = made.nodes
    ears = [matrix.Ears(road) for road in roads]
    cookie, value = _open(roads[0], ears[0])
    cluster.wait_until_equal(first, second, 5.0, view=reader.as_told)
    ((_, row),) = first.kernel().items()
    assert row["synproxy"] != (0, 0, 0)
    assert row["adjust"] != ((0, 0, 0), (0, 0, 0))
    assert second.ask("commit")["created"] == 1
    wrong = reader.differences(first.kernel(), second.kernel(), reader.as_committed)
    assert not wrong, wrong

    said = []
    for road, ear in zip(roads, ears, strict=True):
        ask, answer = (_FIRST + 1, cookie + 1), (5001, _FIRST + 4)
        _put(road, CLIENT_SIDE, PSH | ACK, ask, (702, value), b"ask")
        asked = _heard(ear, SERVER_SIDE)
        _put(road, SERVER_SIDE, PSH | ACK, answer, (90_001, 702), b"answer")
        said.append((asked, _heard(ear, CLIENT_SIDE)))
        ear.close()
    assert said[0] == said[1]
    ((_, number, acknowledged, _, _),), ((_, answered, _, _, _),) = said[1]
    assert (number, acknowledged) == (_FIRST + 1, 5001)
    assert answered == cookie + 1


def test_a_half_open_connection_that_is_not_proxied_begins_anew(
    pair: tuple[Cluster, list[Roads]],
) -> None:
    """Put into a kernel with SYNPROXY rules it would be taken for a proxied one."""
    made, roads = pair
    first, second = made.nodes
    ears = matrix.Ears(roads[1])
    for road in roads:
        _put(road, CLIENT_SIDE, SYN, (_FIRST, 0), (700, 0), port=80)
        if road is roads[0]:
            assert len(first.kernel()) == 1
            assert second.ask("commit")["created"] == 0
    _put(roads[1], SERVER_SIDE, SYN | ACK, (5000, _FIRST + 1), (90_000, 700), port=80)
    assert _heard(ears, CLIENT_SIDE) == [(SYN | ACK, 5000, _FIRST + 1, 90_000, 700)]
    ears.close()
