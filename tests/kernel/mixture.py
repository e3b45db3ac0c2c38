"""Flows of every kind in a firewall, made by real packets.

In: how many. Out: a firewall's table full of them. The packets are injected on the far
ends of the firewall's two cables, cross it, and end at a neighbour that nobody is.
Replies are built from what the kernel's own reply tuple says (`reader`), so that no
rule of NAT is repeated here. The rule: only packets make flows, as on a real firewall.
"""

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tests.kernel import reader, wire
from tests.kernel.wire import ACK, FIN, PSH, RST, SYN
from tests.lab import Lab, inside, run, sysctl

CLIENT_SIDE, SERVER_SIDE = 0, 1
ORIG, REPLY = False, True
MARK_CLASS, UNMARK_CLASS, LABEL_CLASS = 0x20, 0x28, 0x30  # DSCP 8, 10, 12
LIVES_S = 900

RULES = """
table inet firewall {
  ct helper ftp4 { type "ftp" protocol tcp; l3proto ip; }
  ct helper ftp6 { type "ftp" protocol tcp; l3proto ip6; }
  chain zones { type filter hook prerouting priority raw;
    iifname "eth2" notrack
    ip saddr 10.7.0.0/16 ct zone set 7
    ip daddr 10.7.0.0/16 ct zone set 7
    ip saddr 10.8.0.0/16 ct original zone set 8
  }
  chain own { type filter hook output priority raw; oifname "eth2" notrack; }
  chain marks { type filter hook prerouting priority mangle;
    ct state new ip saddr 10.5.0.0/16 ct mark set 0x2a ct label set 5
    ip dscp 8 ct mark set 0x11223344
    ip dscp 10 ct mark set 0
    ip dscp 12 ct label set 77
    ip6 dscp 8 ct mark set 7
    ip6 dscp 12 ct label set 127
    ip protocol tcp tcp dport 21 ct helper set "ftp4"
    ip6 nexthdr tcp tcp dport 21 ct helper set "ftp6"
  }
  chain ports { type nat hook prerouting priority dstnat;
    ip daddr 198.51.100.0/24 tcp dport 8080 dnat ip to 172.31.9.9:80
    ip daddr 198.51.100.0/24 udp dport 8080 dnat ip to 172.31.9.10:53
    ip6 daddr fd98::/16 tcp dport 8080 dnat ip6 to [fd31::9]:80
  }
  chain hidden { type nat hook postrouting priority srcnat;
    ip saddr 10.1.0.0/16 oifname "eth1" masquerade
    ip saddr 10.2.0.0/16 meta l4proto {tcp, udp} snat ip to 203.0.113.10-203.0.113.20:20000-60000 fully-random
    ip saddr 10.4.0.0/16 snat ip to 203.0.113.30
    ip6 saddr fd10:1::/32 oifname "eth1" masquerade
    ip6 saddr fd10:2::/32 meta l4proto {tcp, udp} snat ip6 to [fd20:2::1]:20000-60000
  }
}
"""  # noqa: E501 - one rule, one line

_SETTINGS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.netfilter.nf_conntrack_checksum": 0,
    "net.netfilter.nf_conntrack_events": 1,
    **{
        f"net.netfilter.nf_conntrack_{name}": LIVES_S
        for name in (
            *("udp_timeout", "udp_timeout_stream", "icmp_timeout", "icmpv6_timeout"),
            *("gre_timeout", "gre_timeout_stream", "generic_timeout"),
            *(f"tcp_timeout_{state}" for state in ("close", "close_wait", "syn_recv")),
            *(f"tcp_timeout_{state}" for state in ("fin_wait", "last_ack")),
            *(f"tcp_timeout_{state}" for state in ("syn_sent", "time_wait")),
            *(f"sctp_timeout_{state}" for state in ("closed", "cookie_wait")),
            *("sctp_timeout_cookie_echoed", "sctp_timeout_established"),
        )
    },
}

Step = tuple[bool, Callable[[tuple[int, ...]], bytes], int]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of flow: where it comes from, where it goes, what is said.

    `steps` are (is it a reply, payload from (the three numbers of the tuple), class).
    """

    name: str
    share: int
    source: str
    destination: str
    protocol: int
    numbers: Callable[[int], tuple[int, ...]]
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Talk:
    """One flow that is being played."""

    kind: Kind
    orig: tuple[object, ...]
    zone: int = 0
    reply: tuple[object, ...] = field(default=())


class Roads:
    """The two cables of a firewall and the far ends on which packets are injected."""

    def __init__(
        self, lab: Lab, firewall: str, name: str = "far", rules: str = RULES
    ) -> None:
        self.far = lab.namespace(name)
        sysctl(self.far, "net.ipv6.conf.default.disable_ipv6", 1)
        prepare(lab, firewall, self.far, rules)
        self.macs: list[bytes] = []
        self._ports: list[socket.socket] = []
        for side in (CLIENT_SIDE, SERVER_SIDE):
            name = f"eth{side}"
            self.macs.append(_mac(firewall, name))
            with inside(self.far):
                port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            port.bind((name, 0))
            self._ports.append(port)

    def put(self, side: int, frame: bytes) -> None:
        self._ports[side].send(frame)

    def close(self) -> None:
        for port in self._ports:
            port.close()


def _mac(namespace: str, interface: str) -> bytes:
    shown = json.loads(run("ip", "-n", namespace, "-j", "link", "show", interface))
    return bytes.fromhex(str(shown[0]["address"]).replace(":", ""))


def prepare(lab: Lab, firewall: str, far: str, rules: str) -> None:
    """Cables, addresses, routes, rules and long timers for a firewall."""
    for name, value in _SETTINGS.items():
        sysctl(firewall, name, value)
    for side, network in ((CLIENT_SIDE, "192.168.1"), (SERVER_SIDE, "192.168.2")):
        name = f"eth{side}"
        lab.cable(far, name, firewall, name)
        six = f"fd00:{side + 1}::"
        lab.address(firewall, name, f"{network}.1/24", f"{six}1/64")
        for gateway in (f"{network}.2", f"{six}2"):
            neighbour = ("neigh", "add", gateway, "lladdr", wire.FAR_MAC, "dev", name)
            run("ip", "-n", firewall, *neighbour)
    for route in (
        ("10.0.0.0/8", "via", "192.168.1.2"),
        ("default", "via", "192.168.2.2"),
        ("fd10::/16", "via", "fd00:1::2"),
        ("fd00::/8", "via", "fd00:2::2"),
    ):
        run("ip", "-n", firewall, "route", "add", *route)
    lab.rules(firewall, rules)


# What is said on TCP; the client's first number is 1000, the server's 5000.


def _tcp(
    reply: bool,
    flags: int,
    sequence: int,
    acknowledged: int = 0,
    data: bytes = b"",
    traffic_class: int = 0,
    *,
    options: bool = True,
) -> Step:
    with_options = options and bool(flags & SYN)

    def build(ends: tuple[int, ...]) -> bytes:
        return wire.tcp(
            *(ends[0], ends[1], flags, sequence, acknowledged, data),
            options=with_options,
        )

    return reply, build, traffic_class


_OPEN = (
    _tcp(ORIG, SYN, 1000),
    _tcp(REPLY, SYN | ACK, 5000, 1001),
    _tcp(ORIG, ACK, 1001, 5001),
)
_PLAIN_OPEN = (
    _tcp(ORIG, SYN, 1000, options=False),
    _tcp(REPLY, SYN | ACK, 5000, 1001, options=False),
    _tcp(ORIG, ACK, 1001, 5001),
)
_TALK = (
    *_OPEN,
    _tcp(ORIG, PSH | ACK, 1001, 5001, b"0123456789"),
    _tcp(REPLY, ACK, 5001, 1011),
)
_CLOSING = (
    *_TALK,
    _tcp(ORIG, FIN | ACK, 1011, 5001),
    _tcp(REPLY, ACK, 5001, 1012),
    _tcp(REPLY, FIN | ACK, 5001, 1012),
    _tcp(ORIG, ACK, 1012, 5002),
)
_REFUSED = (_OPEN[0], _tcp(REPLY, RST | ACK, 0, 1001))
_RESET = (*_OPEN, _tcp(REPLY, RST | ACK, 5001, 1001))
_MARKED = (*_TALK, _tcp(ORIG, PSH | ACK, 1011, 5001, b"x", MARK_CLASS))
_UNMARKED = (*_MARKED, _tcp(REPLY, ACK, 5001, 1012, b"", UNMARK_CLASS))
_LABELLED = (*_TALK, _tcp(REPLY, PSH | ACK, 5001, 1011, b"y", LABEL_CLASS))


def _login(port: bytes) -> tuple[Step, ...]:
    first = b"USER anonymous\r\n"
    return (
        *_OPEN,
        _tcp(REPLY, PSH | ACK, 5001, 1001, b"220 welcome\r\n"),
        _tcp(ORIG, PSH | ACK, 1001, 5014, first),
        _tcp(REPLY, PSH | ACK, 5014, 1001 + len(first), b"331 what\r\n"),
        _tcp(ORIG, PSH | ACK, 1001 + len(first), 5024, port),
    )


_UDP: tuple[Step, ...] = (
    (False, lambda ends: wire.udp(ends[0], ends[1]), 0),
    (True, lambda ends: wire.udp(ends[0], ends[1]), 0),
)
_UDP_MARKED: tuple[Step, ...] = (
    *_UDP,
    (False, lambda ends: wire.udp(ends[0], ends[1]), MARK_CLASS),
)
_ECHO: tuple[Step, ...] = (
    (False, lambda ends: wire.echo(ends[1], ends[0]), 0),
    (True, lambda ends: wire.echo(ends[1], ends[0]), 0),
)
_SCTP: tuple[Step, ...] = (
    (False, lambda e: wire.sctp(e[0], e[1], 0, 1, wire.sctp_begin(77)), 0),
    (True, lambda e: wire.sctp(e[0], e[1], 77, 2, wire.sctp_begin(99)), 0),
    (False, lambda e: wire.sctp(e[0], e[1], 99, 10, b"abcd"), 0),
    (True, lambda e: wire.sctp(e[0], e[1], 77, 11), 0),
)
_GRE: tuple[Step, ...] = (
    (False, lambda _: wire.gre(), 0),
    (True, lambda _: wire.gre(), 0),
)
_GRE_KEY: tuple[Step, ...] = ((False, lambda ends: wire.gre_with_key(ends[1]), 0),)
_ANY: tuple[Step, ...] = (
    (False, lambda _: bytes(32), 0),
    (True, lambda _: bytes(32), 0),
)
_LITE: tuple[Step, ...] = tuple(
    (reply, lambda ends: wire.udp(ends[0], ends[1], checksum=1), 0)
    for reply in (False, True)
)


def _ports(destination: int) -> Callable[[int], tuple[int, ...]]:
    return lambda index: (1024 + index * 7919 % 60000, destination)


def _ident(kind: int) -> Callable[[int], tuple[int, ...]]:
    return lambda index: (index & 0xFFFF, kind, 0)


def _nothing(_: int) -> tuple[int, ...]:
    return (0, 0)


def _call(index: int) -> tuple[int, ...]:
    return (0, index & 0xFFFF or 1)


def _kinds() -> Iterator[Kind]:
    web, four, six = _ports(443), "10.9", "fd10:9:"
    life = [_CLOSING[:end] for end in (1, 2, 3, 5, 6, 7, 8, 9)]
    tcp_lives = [*life, _REFUSED, _RESET, _PLAIN_OPEN, _MARKED, _UNMARKED, _LABELLED]
    for number, steps in enumerate(tcp_lives):
        yield Kind(f"tcp4-{number}", 4, f"10.{20 + number}", "172.16", 6, web, steps)
        source = f"fd10:{20 + number}:"
        yield Kind(f"tcp6-{number}", 2, source, "fd20:1:", 6, web, steps)
    proxy, to_port, to_port_six = _ports(8080), "198.51.100", "fd98:1:"
    for number, steps in enumerate((_OPEN[:1], _OPEN[:2], _TALK, _CLOSING, _MARKED)):
        lift = 16 * number  # the third byte of the client: each kind has its own
        for source, target, ends in (
            ("10.1", "172.17", web),
            ("10.2", "172.18", web),
            ("10.3", to_port, proxy),
            ("10.4", to_port, proxy),
            ("10.4", "172.19", web),
            ("fd10:1:", "fd20:2:", web),
            ("fd10:2:", "fd20:3:", web),
            ("fd10:3:", to_port_six, proxy),
        ):
            name = f"tcp-nat-{source}-{target}-{number}"
            where = f"{source}{lift:x}" if ":" in source else source
            yield Kind(name, 1, where + ("" if ":" in source else f"|{lift}"),
                       target, 6, ends, steps)  # fmt: skip
    for source, target, ends in (
        (four, "172.20", _ports(53)),
        (six, "fd20:4:", _ports(53)),
        ("10.1", "172.21", _ports(53)),
        ("10.2", "172.22", _ports(53)),
        ("10.3", to_port, proxy),
        ("fd10:1:", "fd20:5:", _ports(53)),
        ("fd10:2:", "fd20:6:", _ports(53)),
    ):
        for steps in (_UDP[:1], _UDP, _UDP_MARKED):
            lift = {1: 0, 2: 80, 3: 160}[len(steps)]
            where = f"{source}{lift:x}" if ":" in source else f"{source}|{lift}"
            yield Kind(f"udp-{where}", 2, where, target, 17, ends, steps)
    for source, target, kind, protocol in (
        (four, "172.23", 8, 1),
        ("10.1", "172.24", 8, 1),
        ("10.4", "172.25", 8, 1),
        (six, "fd20:7:", 128, 58),
        ("fd10:1:", "fd20:8:", 128, 58),
    ):
        for steps in (_ECHO[:1], _ECHO):
            lift = 64 * len(steps)
            where = f"{source}{lift:x}" if ":" in source else f"{source}|{lift}"
            yield Kind(f"echo-{where}", 2, where, target, protocol, _ident(kind), steps)
    yield from _rare_kinds()


def _rare_kinds() -> Iterator[Kind]:
    web = _ports(443)
    for number in range(1, 5):
        lift = f"|{16 * number}"
        sctp = _SCTP[:number]
        yield Kind(f"sctp-{number}", 1, f"10.9{lift}", "172.26", 132, web, sctp)
        yield Kind(f"sctp-nat-{number}", 1, f"10.1{lift}", "172.27", 132, web, sctp)
    for source, target in (("10.9", "172.28"), ("10.1", "172.29")):
        yield Kind(f"gre-{source}", 1, source, target, 47, _nothing, _GRE)
        yield Kind(f"esp-{source}", 1, source, target, 50, _nothing, _ANY)
    yield Kind("gre-key", 1, "10.9|64", "172.28", 47, _call, _GRE_KEY)
    yield Kind("gre6", 1, "fd10:9:", "fd20:9:", 47, _nothing, _GRE)
    yield Kind("ospf6", 1, "fd10:9:", "fd20:a:", 89, _nothing, _ANY[:1])
    yield Kind("udplite", 1, "10.9|128", "172.30", 136, web, _LITE)
    for number, source in enumerate(("10.5", "10.7", "10.8")):
        for steps in (_TALK, _UNMARKED, _OPEN[:1]):
            where = f"{source}|{16 * len(steps)}"
            name = f"special-{where}"
            yield Kind(name, 1, where, f"172.16.{number}", 6, web, steps)
        yield Kind(f"special-udp-{source}", 1, source, "172.16.9", 17, web, _UDP)
        yield Kind(f"special-echo-{source}", 1, source, "172.16.8", 1, _ident(8), _ECHO)


KINDS = tuple(_kinds())
_FTP = _ports(21)
FTP_KINDS = (
    Kind("ftp", 1, "10.9|200", "172.16.21", 6, _FTP, ()),
    Kind("ftp-hidden", 1, "10.1|200", "172.16.21", 6, _FTP, ()),
    Kind("ftp-zone", 1, "10.7|200", "172.16.21", 6, _FTP, ()),
    Kind("ftp6", 1, "fd10:9c8:", "fd20:15:", 6, _FTP, ()),
)


def talks(total: int, part: int = 0) -> list[Talk]:
    """About so many flows, all kinds in their shares, well mixed.

    Another `part` has other flows.
    """
    shares = sum(kind.share for kind in KINDS)
    made: list[Talk] = []
    for kind in KINDS:
        count = max(total * kind.share // shares, 1)
        first = part * count
        made += [talk(kind, index) for index in range(first, first + count)]
    made.sort(key=lambda made: hash(made.orig))
    return made


def talk(kind: Kind, index: int) -> Talk:
    """The kind's flow of that number."""
    return Talk(kind, _orig(kind, index), _zone(kind))


def ftp_talks(total: int) -> list[Talk]:
    """FTP control connections, each of which announces a data connection."""
    made = []
    for index in range(total):
        kind = FTP_KINDS[index % len(FTP_KINDS)]
        orig = _orig(kind, index)
        source, port = str(orig[1]), 4096 + index
        numbers = f"{source.replace('.', ',')},{port >> 8},{port & 255}"
        line = f"EPRT |2|{source}|{port}|" if ":" in source else f"PORT {numbers}"
        steps = _login(f"{line}\r\n".encode())
        own = Kind(kind.name, 1, kind.source, kind.destination, 6, _FTP, steps)
        made.append(Talk(own, orig, _zone(kind)))
    return made


def _orig(kind: Kind, index: int) -> tuple[object, ...]:
    """The original tuple of the kind's flow number `index`, as the reader writes it."""
    zone = 8 if kind.source.startswith("10.8") else 0
    source, destination = _end(kind.source, index, 1), _end(kind.destination, index, 3)
    return (kind.protocol, source, destination, *kind.numbers(index), zone)


def _end(prefix: str, index: int, spread: int) -> str:
    if ":" in prefix:
        parts = prefix.count(":")
        rest = f"{index >> 16:x}:{(index * spread & 0xFFFF) + 1:x}"
        text = f"{prefix}:{rest}" if parts < 6 and prefix.endswith(":") else (
            f"{prefix}::{rest}")  # fmt: skip
        return socket.inet_ntop(
            socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text)
        )
    prefix, _, lift = prefix.partition("|")
    if prefix.count(".") == 2:
        return f"{prefix}.{index % 250 + 1}"
    third = (int(lift or 0) + index // 250) & 0xFF
    return f"{prefix}.{third}.{index % 250 + 1}"


def _zone(kind: Kind) -> int:
    return 7 if kind.source.startswith("10.7") else 0


def play(roads: Roads, firewall: str, played: list[Talk]) -> None:
    """All first packets; then, from the kernel's reply tuples, all the others."""
    for talk in played:
        say(roads, talk, 0)
    learn(firewall, played)
    for number in range(1, max(len(talk.kind.steps) for talk in played)):
        for talk in played:
            if number < len(talk.kind.steps):
                say(roads, talk, number)


def learn(firewall: str, played: Iterable[Talk]) -> None:
    """Take over the reply tuples that the kernel chose."""
    rows = reader.kernel_rows(firewall)
    for talk in played:
        row = rows.get((talk.orig, talk.zone))
        if row is None:
            raise AssertionError(f"{talk.kind.name}: no flow {talk.orig} {talk.zone}")
        reply = row["reply"]
        assert isinstance(reply, tuple)
        talk.reply = reply


def say(roads: Roads, talk: Talk, number: int) -> None:
    """One step of one flow."""
    is_reply, build, traffic_class = talk.kind.steps[number]
    ends = talk.reply if is_reply else talk.orig
    side = SERVER_SIDE if is_reply else CLIENT_SIDE
    roads.put(side, frame(roads.macs[side], ends, build, traffic_class))


def frame(
    mac: bytes,
    ends: tuple[object, ...],
    build: Callable[[tuple[int, ...]], bytes],
    traffic_class: int = 0,
) -> bytes:
    """The frame of one step between the ends of a tuple."""
    number, source, destination, *rest = ends
    assert isinstance(number, int)
    payload = build(tuple(value for value in rest if isinstance(value, int)))
    return wire.packet(
        mac, str(source), str(destination), number, payload, traffic_class
    )


def open_data_connections(roads: Roads, firewall: str, share: float = 0.5) -> int:
    """Let some servers open the data connection that FTP clients announced."""
    expected = list(reader.kernel_rows(firewall, reader.EXPECTATIONS))
    opened = expected[: int(len(expected) * share)]
    for wanted, _, _ in opened:
        assert isinstance(wanted, tuple)
        ends = (*wanted[:3], 20, wanted[4], 0)
        build = _OPEN[0][1]
        roads.put(SERVER_SIDE, frame(roads.macs[SERVER_SIDE], ends, build))
    return len(opened)
