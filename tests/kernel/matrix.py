"""One flow of each kind that a kernel tracks: protocol, life, translation, zone.

In: nothing. Out: `Case`s, each a conversation of hand-made packets that is cut in two:
what was said before a failover and what is said after it. The rule: every protocol is
combined with every translation and every zone, and cut behind every packet.
"""

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.kernel import reader, wire
from tests.kernel.mixture import CLIENT_SIDE, ORIG, REPLY, SERVER_SIDE, Roads, frame
from tests.kernel.wire import ACK, FIN, PSH, RST, SYN
from tests.lab import inside

Ends = tuple[int, ...]
Step = tuple[bool, Callable[[Ends], bytes], int]

LOCAL_PORT = 7777
_ALL = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_QUIET_S = 0.3
# What a kernel says by itself: neighbours, routers, groups.
_NEIGHBOUR_KINDS = frozenset((*range(130, 138), 143))

RULES = """
table inet firewall {
  chain zones { type filter hook prerouting priority raw;
    iifname "eth2" notrack
    ip saddr 10.30.0.0/16 ct zone set 7
    ip daddr 10.30.0.0/16 ct zone set 7
    ip6 saddr fd10:30::/32 ct zone set 7
    ip6 daddr fd10:30::/32 ct zone set 7
    ip saddr 10.31.0.0/16 ct original zone set 8
    ip6 saddr fd10:31::/32 ct original zone set 8
    ip saddr 10.32.0.0/16 ct reply zone set 9
    ip saddr 172.26.0.0/16 ct reply zone set 9
    ip dscp 16 ct zone set 16
    ip dscp 20 ct zone set 20
    ip saddr 10.34.0.0/16 ip dscp 24 ct original zone set 24
    ip saddr 10.34.0.0/16 ip dscp 28 ct original zone set 28
  }
  chain own { type filter hook output priority raw; oifname "eth2" notrack; }
  chain marks { type filter hook prerouting priority mangle;
    ct state new ct mark set ip saddr map { 10.20.0.0/16 : 0x2a, 10.21.0.0/16 : 0xffffffff, 10.30.0.0/16 : 0x80000000 }
    ct state new ip6 saddr fd10:20::/32 ct mark set 0x7fffffff
    ip dscp 8 ct mark set 0xfffffffe
    ip dscp 10 ct mark set 0
    ip dscp 12 ct label set 127
    ip dscp 14 ct label set 0
    ip6 dscp 8 ct mark set 1
    ip6 dscp 10 ct mark set 0
    ip6 dscp 12 ct label set 64
    ip6 dscp 14 ct label set 31
  }
  chain ports { type nat hook prerouting priority dstnat;
    ip daddr 198.51.0.0/16 meta l4proto { tcp, udp, sctp } dnat ip to ip daddr map { 198.51.0.0/16 : 172.31.9.9 } : 8081
    ip daddr 198.51.0.0/16 dnat ip prefix to ip daddr map { 198.51.0.0/16 : 172.29.0.0/16 }
    ip saddr 10.23.0.0/16 meta l4proto { tcp, udp, sctp } dnat ip to ip daddr : 8082
    ip daddr 198.52.0.0/16 dnat ip prefix to ip daddr map { 198.52.0.0/16 : 172.28.0.0/16 }
    ip daddr 198.53.0.0/16 dnat ip prefix to ip daddr map { 198.53.0.0/16 : 10.126.0.0/16 }
    ip6 daddr fd97:1::/64 dnat ip6 prefix to ip6 daddr map { fd97:1::/64 : fd10:126:1::/64 }
    ip saddr 10.28.0.0/16 meta l4proto { tcp, udp } redirect to :7777
    ip6 daddr fd98::/16 meta l4proto { tcp, udp, sctp } dnat ip6 to [fd31::9]:8081
    ip6 saddr fd10:23::/32 meta l4proto { tcp, udp, sctp } dnat ip6 to ip6 daddr : 8082
    ip6 daddr fd99:1::/64 dnat ip6 prefix to ip6 daddr map { fd99:1::/64 : fd32:1::/64 }
  }
  chain hidden { type nat hook postrouting priority srcnat;
    ip saddr { 10.20.0.0/16, 10.24.0.0/16 } oifname "eth1" masquerade
    ip saddr 10.21.0.0/16 meta l4proto { tcp, udp } snat ip to 203.0.113.10-203.0.113.20:20000-60000 fully-random,persistent
    ip saddr 10.21.0.0/16 snat ip to 203.0.113.10-203.0.113.20 persistent
    ip saddr 10.22.0.0/16 meta l4proto { tcp, udp, sctp } snat ip to ip saddr : 30000-65000
    ip saddr 10.25.0.0/16 snat ip prefix to ip saddr map { 10.25.0.0/16 : 203.25.0.0/16 }
    ip saddr 10.26.0.0/16 oifname "eth0" masquerade random
    ip saddr 10.27.0.0/16 masquerade random
    ip saddr { 10.33.0.0/16, 10.34.0.0/16 } snat ip to 203.0.113.40
    ip6 saddr { fd10:20::/32, fd10:24::/32 } oifname "eth1" masquerade
    ip6 saddr fd10:21::/32 meta l4proto { tcp, udp } snat ip6 to [fd20:2::1]:20000-60000 random
    ip6 saddr fd10:21::/32 snat ip6 to fd20:2::1-fd20:2::ffff persistent
    ip6 saddr fd10:22::/32 meta l4proto { tcp, udp, sctp } snat ip6 to ip6 saddr : 30000-65000
    ip6 saddr fd10:25:1::/64 snat ip6 prefix to ip6 saddr map { fd10:25:1::/64 : fd20:25:1::/64 }
    ip6 saddr fd10:26::/32 oifname "eth0" masquerade
  }
  chain input { type filter hook input priority 0; policy drop;
    ct state invalid drop
    iifname { "eth2", "lo" } accept
    udp dport 7777 accept
    meta l4proto { icmp, icmpv6 } accept
  }
  chain forward { type filter hook forward priority 0; policy drop;
    ct state invalid drop
    ct state { established, related } accept
    jump fresh
  }
  chain fresh {
    tcp flags & (fin|syn|rst|ack) == syn accept
    meta l4proto != tcp accept
  }
}
"""  # noqa: E501 - one rule, one line


@dataclass(slots=True)
class Case:
    """A conversation, cut behind step number `cut`."""

    name: str
    orig: tuple[object, ...]
    steps: tuple[Step, ...]
    cut: int
    zone: int = 0
    hairpin: bool = False
    reply: tuple[object, ...] = field(default=())

    def say(self, roads: Roads, number: int) -> None:
        """One step, on the cable where it comes from."""
        is_reply, build, traffic_class = self.steps[number]
        ends = self.reply if is_reply else self.orig
        side = SERVER_SIDE if is_reply and not self.hairpin else CLIENT_SIDE
        roads.put(side, frame(roads.macs[side], ends, build, traffic_class))


class Ears:
    """Hears what a firewall sends to the far ends of its two cables."""

    def __init__(self, roads: Roads) -> None:
        self._heard: list[socket.socket] = []
        for side in (CLIENT_SIDE, SERVER_SIDE):
            with inside(roads.far):
                ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            ear.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            ear.bind((f"eth{side}", _ALL))
            self._heard.append(ear)

    def take(self) -> Counter[tuple[int, bytes]]:
        """(side, packet) of all that came since the last call, until it is quiet."""
        found: Counter[tuple[int, bytes]] = Counter()
        end = time.monotonic() + 10 * _QUIET_S
        while time.monotonic() < end:
            ready, _, _ = select.select(self._heard, [], [], _QUIET_S)
            if not ready:
                break
            for ear in ready:
                data, origin = ear.recvfrom(65536)
                if origin[2] != _OUTGOING and _forwarded(data):
                    found[self._heard.index(ear), data[14:]] += 1
        return found

    def close(self) -> None:
        for ear in self._heard:
            ear.close()


def silent_server(firewall: str) -> socket.socket:
    """What is redirected to the firewall itself finds somebody there."""
    with inside(firewall):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("", LOCAL_PORT))
    return made


def _forwarded(data: bytes) -> bool:
    kind = data[12:14]
    if kind == b"\x86\xdd":
        return data[20] not in (0, 58) or data[54] not in _NEIGHBOUR_KINDS
    return kind == b"\x08\x00"


def play(
    roads: Roads, cases: list[Case], first: bool, *, learning: str | None = None
) -> None:
    """The first or the second part of all conversations, step by step.

    `learning` is the firewall from whose table the reply tuples are taken.
    """
    longest = max(len(case.steps) for case in cases)
    for number in range(longest):
        for case in cases:
            begin, end = (0, case.cut) if first else (case.cut, len(case.steps))
            if begin <= number < end:
                case.say(roads, number)
        if number == 0 and learning is not None:
            _learn(learning, cases)


def _learn(firewall: str, cases: list[Case]) -> None:
    rows = reader.kernel_rows(firewall)
    absent = [case.name for case in cases if (case.orig, case.zone) not in rows]
    if absent:
        raise AssertionError(f"no flow of {absent}")
    for case in cases:
        reply = rows[case.orig, case.zone]["reply"]
        assert isinstance(reply, tuple)
        case.reply = reply


# Conversations. The client's first number is 1000, the server's 5000.


def _tcp(
    reply: bool,
    flags: int,
    sequence: int,
    acknowledged: int = 0,
    data: bytes = b"",
    traffic_class: int = 0,
    options: bytes | bool = False,
) -> Step:
    def build(ends: Ends) -> bytes:
        return wire.tcp(
            *(ends[0], ends[1], flags, sequence, acknowledged, data), options=options
        )

    return reply, build, traffic_class


def _begin(
    client: bytes | bool = True, server: bytes | bool = True
) -> tuple[Step, ...]:
    return (
        _tcp(ORIG, SYN, 1000, options=client),
        _tcp(REPLY, SYN | ACK, 5000, 1001, options=server),
        _tcp(ORIG, ACK, 1001, 5001),
    )


def _scale(shift: int | None, *, sack: bool = True) -> bytes:
    """Options of a SYN: window scale and sack as wanted."""
    made = b"\x02\x04\x05\xb4" + (b"\x04\x02\x01\x01" if sack else b"")
    return made + (b"" if shift is None else bytes((1, 3, 3, shift)))


_DATA = bytes(1000)
_MIDDLE = (
    _tcp(ORIG, PSH | ACK, 1001, 5001, _DATA),
    _tcp(ORIG, PSH | ACK, 2001, 5001, _DATA),
    _tcp(REPLY, ACK, 5001, 3001),
    _tcp(REPLY, PSH | ACK, 5001, 3001, b"answer"),
    _tcp(ORIG, ACK, 3001, 5007),
)
_WHOLE = (
    *_begin(),
    *_MIDDLE,
    _tcp(ORIG, FIN | ACK, 3001, 5007),
    _tcp(REPLY, ACK, 5007, 3002),
    _tcp(REPLY, FIN | ACK, 5007, 3002),
    _tcp(ORIG, ACK, 3002, 5008),
    _tcp(ORIG, ACK, 3002, 5008),
)
_TOGETHER = (
    _tcp(ORIG, SYN, 1000, options=True),
    _tcp(REPLY, SYN, 5000, options=True),
    _tcp(ORIG, SYN | ACK, 1000, 5001, options=True),
    _tcp(REPLY, SYN | ACK, 5000, 1001, options=True),
    *_MIDDLE,
)
_REFUSED = (_tcp(ORIG, SYN, 1000, options=True), _tcp(REPLY, RST | ACK, 0, 1001))
_RESET_BY_SERVER = (*_begin(), *_MIDDLE, _tcp(REPLY, RST, 5007), _tcp(ORIG, RST, 3001))
_RESET_BY_CLIENT = (*_begin(), *_MIDDLE, _tcp(ORIG, RST, 3001), _tcp(REPLY, RST, 5007))
_SERVER_ENDS = (
    *(*_begin(), *_MIDDLE),
    _tcp(REPLY, FIN | ACK, 5007, 3001),
    _tcp(ORIG, FIN | ACK, 3001, 5008),
    _tcp(REPLY, ACK, 5008, 3002),
)


def _talk(build: Callable[[Ends], bytes]) -> tuple[Step, ...]:
    """There, back, there, back."""
    return tuple((reply, build, 0) for reply in (ORIG, REPLY, ORIG, REPLY))


_UDP = _talk(lambda ends: wire.udp(ends[0], ends[1]))
_LITE = _talk(lambda ends: wire.udp(ends[0], ends[1], checksum=1))
_ECHO = _talk(lambda ends: wire.echo(ends[1], ends[0]))
_PLAIN = _talk(lambda _: bytes(32))
_GRE = _talk(lambda _: wire.gre())
_GRE_KEY = tuple((ORIG, lambda ends: wire.gre_with_key(ends[1]), 0) for _ in range(3))


def _sctp(reply: bool, tag: int, chunk: int, value: bytes = b"") -> Step:
    return reply, lambda e: wire.sctp(e[0], e[1], tag, chunk, value), 0


_SCTP = (
    _sctp(ORIG, 0, 1, wire.sctp_begin(77)),
    _sctp(REPLY, 77, 2, wire.sctp_begin(99)),
    _sctp(ORIG, 99, 10, b"abcd"),
    _sctp(REPLY, 77, 11),
    _sctp(ORIG, 99, 4, b"beat"),
    _sctp(REPLY, 77, 5, b"beat"),
    _sctp(ORIG, 99, 7, b"\0\0\0\1"),
    _sctp(REPLY, 77, 8),
    _sctp(ORIG, 99, 14),
)


@dataclass(frozen=True, slots=True)
class Life:
    """What is said: protocol, first port of the two, conversation, where it is cut."""

    name: str
    protocol: int
    steps: tuple[Step, ...]
    cut: int


def _cut(name: str, protocol: int, steps: tuple[Step, ...]) -> Iterator[Life]:
    for cut in range(1, len(steps)):
        yield Life(f"{name}/{cut}", protocol, steps, cut)


LIVES = (
    *_cut("tcp", 6, _WHOLE),
    *_cut("tcp-together", 6, _TOGETHER),
    *_cut("tcp-refused", 6, _REFUSED),
    *(Life(f"tcp-reset/{cut}", 6, _RESET_BY_SERVER, cut) for cut in (2, 5, 8, 9)),
    *(Life(f"tcp-reset-too/{cut}", 6, _RESET_BY_CLIENT, cut) for cut in (5, 9)),
    *(Life(f"tcp-server-ends/{cut}", 6, _SERVER_ENDS, cut) for cut in (9, 10)),
    *_cut("udp", 17, _UDP),
    *_cut("udplite", 136, _LITE),
    *_cut("echo", 1, _ECHO),
    *_cut("sctp", 132, _SCTP),
    *_cut("gre", 47, _GRE),
    *_cut("gre-key", 47, _GRE_KEY),
    *_cut("esp", 50, _PLAIN),
    Life("igmp/1", 2, _PLAIN[:1], 1),
)
_SCALES = (
    *(
        Life(f"tcp-scale-{shift}/{cut}", 6, _begin(_scale(shift), _scale(14 - shift))
             + _MIDDLE, cut)
        for shift in range(15)
        for cut in (1, 2, 4)
    ),
    *(
        Life(f"tcp-options-{number}/{cut}", 6, _begin(*both) + _MIDDLE, cut)
        for number, both in enumerate(
            (
                (_scale(None), _scale(None)),
                (_scale(7), _scale(None)),
                (_scale(None), _scale(7)),
                (_scale(7, sack=False), _scale(7)),
                (_scale(None, sack=False), _scale(None, sack=False)),
            )
        )
        for cut in (1, 2, 4)
    ),
)  # fmt: skip


def _classes(steps: tuple[Step, ...], *classes: int) -> tuple[Step, ...]:
    """The same conversation with these traffic classes, from the first step on."""
    marked = [
        (reply, build, wanted)
        for (reply, build, _), wanted in zip(steps, classes, strict=False)
    ]
    return (*marked, *steps[len(marked) :])


_TO_OURSELVES = (Life("udp/1", 17, (_UDP[0], _UDP[2]), 1),)
_MARK, _UNMARK, _LABEL, _LABEL_TOO = 8 << 2, 10 << 2, 12 << 2, 14 << 2
_MARKED = (
    *_cut("tcp-marked", 6, _classes(_begin() + _MIDDLE, 0, 0, 0, _MARK, _UNMARK)),
    *_cut("tcp-label", 6, _classes(_begin() + _MIDDLE, _LABEL, 0, 0, _LABEL_TOO)),
    *_cut("udp-marked", 17, _classes(_UDP, _MARK, _UNMARK, _MARK)),
    *_cut("udp-label", 17, _classes(_UDP, _LABEL, _LABEL_TOO)),
    *_cut("echo-label", 1, _classes(_ECHO, 0, _LABEL, _MARK)),
    *_cut("esp-marked", 50, _classes(_PLAIN, _MARK, _LABEL)),
)


@dataclass(frozen=True, slots=True)
class Road:
    """Where a flow comes from and goes to, and so how it is translated and zoned."""

    name: str
    client: str
    server: str
    zone: int = 0
    zone_of_direction: int = 0
    hairpin: bool = False
    traffic_class: int = 0


ROADS_V4 = (
    Road("plain", "10.29", "172.16"),
    Road("masquerade", "10.20", "172.17"),
    Road("snat-range", "10.21", "172.18"),
    Road("snat-port-only", "10.22", "172.19"),
    Road("dnat", "10.29", "198.51"),
    Road("dnat-port-only", "10.23", "172.20"),
    Road("both", "10.24", "198.51"),
    Road("netmap-source", "10.25", "172.21"),
    Road("netmap-destination", "10.29", "198.52"),
    Road("random", "10.27", "172.22"),
    Road("zone", "10.30", "172.23", zone=7),
    Road("zone-of-original", "10.31", "172.24", zone_of_direction=8),
    Road("zone-of-reply", "10.32", "172.26"),
    Road("hairpin", "10.26", "198.53", hairpin=True),
)
ROADS_V6 = (
    Road("plain", "fd10:29:", "fd20:16:"),
    Road("masquerade", "fd10:20:", "fd20:17:"),
    Road("snat-range", "fd10:21:", "fd20:18:"),
    Road("snat-port-only", "fd10:22:", "fd20:19:"),
    Road("dnat", "fd10:29:", "fd98:1:"),
    Road("dnat-port-only", "fd10:23:", "fd20:20:"),
    Road("both", "fd10:24:", "fd98:2:"),
    Road("netmap-source", "fd10:25:1:", "fd20:21:"),
    Road("netmap-destination", "fd10:29:", "fd99:1:"),
    Road("hairpin", "fd10:26:", "fd97:1:", hairpin=True),
    Road("zone", "fd10:30:", "fd20:23:", zone=7),
    Road("zone-of-original", "fd10:31:", "fd20:24:", zone_of_direction=8),
)
_PORTLESS = (47, 50, 2)


def cases() -> Iterator[Case]:
    """Every life on every road."""
    for road in (*ROADS_V4, *ROADS_V6):
        lives = [*LIVES]
        if road.name in ("plain", "masquerade"):
            lives += [*_SCALES, *_MARKED]
        for number, life in enumerate(lives):
            yield _case(road, life, number)
    for number, life in enumerate(_TO_OURSELVES):
        yield _case(Road("redirect", "10.28", "172.27"), life, number)
    # Two flows of one tuple, told apart by their zones alone, which are translated.
    for client in ("10.33", "10.34"):
        for traffic_class in (16, 20) if client == "10.33" else (24, 28):
            zones = (traffic_class, 0) if client == "10.33" else (0, traffic_class)
            road = Road("clash", client, "172.25", *zones, traffic_class=traffic_class)
            for number, life in enumerate(LIVES):
                if life.protocol not in _PORTLESS or client == "10.33":
                    yield _case(road, life, number)


def _case(road: Road, life: Life, number: int) -> Case:
    six = ":" in road.client
    protocol = 58 if six and life.protocol == 1 else life.protocol
    if six:
        client, server = (
            _plain_v6(f"{network}:{number + 1:x}")
            for network in (road.client, road.server)
        )
    else:
        client = f"{road.client}.{number}.1"
        server = f"{road.server}.{number}.1"
    numbers: tuple[int, ...] = (40000 + number, 443)
    if protocol in (1, 58):
        numbers = (1000 + number, 8 if protocol == 1 else 128, 0)
    elif protocol == 47 and life.name.startswith("gre-key"):
        numbers = (0, 300 + number)
    elif protocol in _PORTLESS:
        numbers = (0, 0)
    steps = life.steps
    if road.traffic_class:
        steps = tuple((r, build, road.traffic_class << 2) for r, build, _ in steps)
    return Case(
        name=f"{road.name}{'6' if six else '4'} {life.name} {road.traffic_class}",
        orig=(protocol, client, server, *numbers, road.zone_of_direction),
        steps=steps,
        cut=life.cut,
        zone=road.zone,
        hairpin=road.hairpin,
    )


def _plain_v6(text: str) -> str:
    """As the reader writes it."""
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text))
