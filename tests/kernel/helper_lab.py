"""Two firewalls with conntrack helpers between clients and servers, for sessions.

In: a started cluster of two. Out: `Talk`s (who speaks to whom, through which NAT), and
`Crossing.switch`, which takes the cables of one firewall and gives them to the other.
Both have the same addresses, also in Ethernet, so that nothing but the state of their
kernels decides what goes on living. The rule: data connections pass as RELATED or not
at all; a new TCP connection needs its SYN, INVALID is dropped.
"""

import ipaddress
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from tests.lab import Lab, inside, run, run_in, sysctl

PATIENCE_S = 2.5
V4, V6 = 4, 6
NATS: Final = ("none", "masquerade", "snat", "dnat")
CONTROL, ANNOUNCED, DATA, AFTER = "control", "announced", "data", "after"
STAGES: Final = (CONTROL, ANNOUNCED, DATA, AFTER)

# What a session says it has reached: the round and the stage.
Reached = tuple[int, str]
Session = Generator[Reached, None, None]

_TYPES: Final = (
    ("ftp", "tcp", 21, (4, 6)),
    ("irc", "tcp", 6667, (4,)),
    ("sane", "tcp", 6566, (4, 6)),
    ("pptp", "tcp", 1723, (4,)),
    ("Q.931", "tcp", 1720, (4, 6)),
    ("sip", "tcp", 5060, (4, 6)),
    ("sip", "udp", 5060, (4, 6)),
    ("tftp", "udp", 69, (4, 6)),
    ("amanda", "udp", 10080, (4, 6)),
    ("RAS", "udp", 1719, (4, 6)),
)
_BROADCAST: Final = (("netbios-ns", 137), ("snmp", 161))
_SETTINGS: Final = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.netfilter.nf_conntrack_events": 1,
    "net.netfilter.nf_conntrack_tcp_loose": 0,
    "net.netfilter.nf_conntrack_tcp_be_liberal": 0,
}
_CLIENTS = {V4: "10.10.{nat}.{number}", V6: "fd10::{nat}:{number:x}"}
_SERVER = {V4: "198.51.100.50", V6: "fd20::50"}
_OTHER = {V4: "198.51.100.60", V6: "fd20::60"}
_PUBLIC = {V4: "203.0.113.50", V6: "fd30::50"}

_RULES: Final = """
table inet firewall {{
{objects}
  chain zones {{ type filter hook prerouting priority raw;
    iifname "eth2" notrack
{zones}
  }}
  chain own {{ type filter hook output priority raw; oifname "eth2" notrack; }}
  chain assign {{ type filter hook prerouting priority mangle;
{assign}
  }}
  chain assign_own {{ type filter hook output priority mangle;
{assign_own}
  }}
  chain ports {{ type nat hook prerouting priority dstnat;
    ip daddr 203.0.113.0/24 dnat ip to 198.51.100.50
    ip6 daddr fd30::/64 dnat ip6 to fd20::50
  }}
  chain hidden {{ type nat hook postrouting priority srcnat;
    ip saddr 10.10.2.0/24 oifname "eth1" masquerade
    ip saddr 10.10.3.0/24 oifname "eth1" snat ip to 198.51.100.222
    ip6 saddr fd10::2:0/112 oifname "eth1" masquerade
    ip6 saddr fd10::3:0/112 oifname "eth1" snat ip6 to fd20::222
  }}
  chain forward {{ type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    ct state established counter accept
    ct state related counter accept
    iifname "eth0" tcp flags & (fin|syn|rst|ack) == syn tcp dport {{ {tcp} }} accept
    iifname "eth0" udp dport {{ {udp} }} accept
    meta l4proto icmpv6 accept
  }}
  chain input {{ type filter hook input priority filter; policy drop;
    iifname {{ "lo", "eth2" }} accept
    meta l4proto {{ icmp, icmpv6 }} accept
    ct state established,related accept
  }}
}}
"""


def rules(zones: str = "") -> str:
    """The firewalls' rules; `zones` are rules that put packets into zones."""
    objects, assign, assign_own = [], [], []
    for at, (name, protocol, port, families) in enumerate(_TYPES):
        for family in families:
            own = f"h{at}v{family}"
            l3 = "ip" if family == V4 else "ip6"
            objects.append(
                f'  ct helper {own} {{ type "{name}" protocol {protocol};'
                f" l3proto {l3}; }}"
            )
            match = f"meta protocol {l3} {protocol} dport {port}"
            assign.append(f'    iifname "eth0" {match} ct helper set "{own}"')
    for name, port in _BROADCAST:
        own = f"b{port}"
        objects.append(
            f'  ct helper {own} {{ type "{name}" protocol udp; l3proto ip; }}'
        )
        assign_own.append(f'    ip protocol udp udp dport {port} ct helper set "{own}"')
    ports = {
        protocol: ", ".join(str(port) for _, p, port, _ in _TYPES if p == protocol)
        for protocol in ("tcp", "udp")
    }
    return _RULES.format(
        objects="\n".join(objects),
        zones=zones,
        assign="\n".join(assign),
        assign_own="\n".join(assign_own),
        **ports,
    )


class Place:
    """One host: sockets in its namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._open: list[socket.socket] = []
        self._listeners: dict[tuple[int, str, int], socket.socket] = {}

    def bind(self, address: str, kind: int, port: int = 0) -> socket.socket:
        """A bound socket of the address' family."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(self.namespace):
            made = socket.socket(family, kind)
        made.settimeout(PATIENCE_S)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        self._open.append(made)
        return made

    def bind_raw(self, address: str, protocol: int) -> socket.socket:
        """A raw socket, as root has them."""
        with inside(self.namespace):
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
        made.settimeout(PATIENCE_S)
        made.bind((address, 0))
        self._open.append(made)
        return made

    def udp(self, address: str, port: int = 0) -> socket.socket:
        return self.bind(address, socket.SOCK_DGRAM, port)

    def connect(
        self, source: str, destination: str, port: int, own_port: int = 0
    ) -> socket.socket:
        made = self.bind(source, socket.SOCK_STREAM, own_port)
        made.connect((destination, port))
        return made

    def listen(self, address: str, port: int = 0) -> socket.socket:
        """A listener; the same one for the same port."""
        place = (socket.SOCK_STREAM, address, port)
        if port and place in self._listeners:
            return self._listeners[place]
        made = self._listeners[place] = self.bind(address, socket.SOCK_STREAM, port)
        made.listen(64)
        return made

    def shared_udp(self, address: str, port: int) -> socket.socket:
        """One socket of a server for all."""
        place = (socket.SOCK_DGRAM, address, port)
        if place not in self._listeners:
            self._listeners[place] = self.udp(address, port)
        return self._listeners[place]

    def accept(self, listener: socket.socket) -> socket.socket:
        made, _ = listener.accept()
        made.settimeout(PATIENCE_S)
        self._open.append(made)
        return made

    def close(self) -> None:
        for made in self._open:
            made.close()


@dataclass(slots=True)
class Talk:
    """Who speaks with whom: a client of its own, a server for all."""

    family: int
    nat: str
    number: int
    inner: Place
    outer: Place

    @property
    def client(self) -> str:
        """The client's address."""
        nat = NATS.index(self.nat) + 1
        return _CLIENTS[self.family].format(nat=nat, number=self.number)

    @property
    def server(self) -> str:
        """The server's real address."""
        return _SERVER[self.family]

    @property
    def target(self) -> str:
        """The address at which the client knows the server."""
        return (_PUBLIC if self.nat == "dnat" else _SERVER)[self.family]

    @property
    def other(self) -> str:
        """The address of somebody else outside."""
        return _OTHER[self.family]

    def open_control(self, port: int) -> tuple[socket.socket, socket.socket]:
        """A connection from the client to the server, both ends."""
        listener = self.outer.listen(self.server, port)
        ours = self.inner.connect(self.client, self.target, port)
        return ours, self.outer.accept(listener)

    def data_to_client(
        self, listener: socket.socket, seen: tuple[str, int], own: tuple[str, int]
    ) -> tuple[socket.socket, socket.socket]:
        """From outside to where the client was told to listen: its end, the other."""
        theirs = self.outer.connect(own[0], *seen, own[1])
        return self.inner.accept(listener), theirs

    def data_to_server(
        self, listener: socket.socket, seen: tuple[str, int]
    ) -> tuple[socket.socket, socket.socket]:
        """From the client to where the server listens: the client's end, the other."""
        ours = self.inner.connect(self.client, *seen)
        return ours, self.outer.accept(listener)


Play = Callable[[Talk], Session]


class Crossing:
    """The hosts around two firewalls, and the cables that one of them has."""

    def __init__(self, lab: Lab, firewalls: list[str], zones: str = "") -> None:
        self._firewalls = len(firewalls)
        self._switch = lab.namespace("cables")
        self.inner = Place(lab.namespace("clients"))
        self.outer = Place(lab.namespace("servers"))
        self._lab = lab
        self._clients = 0
        for side, place in (("in", self.inner), ("out", self.outer)):
            lab.bridge(self._switch, side)
            lab.plug(place.namespace, "eth0", self._switch, side)
            sysctl(place.namespace, "net.ipv6.conf.all.accept_ra", 0)
        for place_number, firewall in enumerate(firewalls):
            self._cables(place_number, firewall)
            lab.rules(firewall, rules(zones))
        lab.address(self.inner.namespace, "eth0", "10.10.0.2/16", "fd10::2/64")
        outside = ("198.51.100.50/24", "198.51.100.60/24", "fd20::50/64", "fd20::60/64")
        lab.address(self.outer.namespace, "eth0", *outside)
        for place, four, six in (
            (self.inner, "10.10.0.1", "fd10::1"),
            (self.outer, "198.51.100.1", "fd20::1"),
        ):
            for gateway in (four, six):
                command = ("ip", "-n", place.namespace, "route", "add", "default")
                run(*command, "via", gateway)
        self.switch(0)

    def _cables(self, number: int, firewall: str) -> None:
        for name, value in _SETTINGS.items():
            sysctl(firewall, name, value)
        for end, side in (("eth0", "in"), ("eth1", "out")):
            port = f"{side}{number}"
            self._lab.cable(self._switch, port, firewall, end)
            run("ip", "-n", self._switch, "link", "set", port, "master", side)
            mac = f"02:00:00:00:00:{'01' if side == 'in' else '02'}"
            run("ip", "-n", firewall, "link", "set", end, "down")
            run("ip", "-n", firewall, "link", "set", end, "address", mac)
            run("ip", "-n", firewall, "link", "set", end, "up")
            self._bridge("link", "set", "dev", port, "learning", "off")
        address = self._lab.address
        address(firewall, "eth0", "10.10.0.1/16", "fd10::1/64")
        outside = ("198.51.100.222/24", "fd20::1/64", "fd20::222/64")
        command = ("ip", "-n", firewall, "address", "add", "198.51.100.1/24")
        run(*command, "broadcast", "+", "dev", "eth1")
        address(firewall, "eth1", *outside)

    def _bridge(self, *words: str) -> None:
        run_in(self._switch, "bridge", *words)

    def switch(self, number: int | None) -> None:
        """Firewall `number` has the traffic from now on; None: nobody."""
        for side in ("in", "out"):
            command = ("ip", "-n", self._switch, "link", "set", side)
            run(*command, "type", "bridge", "fdb_flush")
        for at in range(self._firewalls):
            state = "3" if at == number else "0"  # BR_STATE_FORWARDING, _DISABLED
            for side in ("in", "out"):
                self._bridge("link", "set", "dev", f"{side}{at}", "state", state)

    def talk(self, family: int, nat: str) -> Talk:
        """A new client."""
        self._clients += 1
        made = Talk(family, nat, 10 + self._clients, self.inner, self.outer)
        length = ipaddress.ip_address(made.client).max_prefixlen
        self._lab.address(self.inner.namespace, "eth0", f"{made.client}/{length}")
        return made

    def close(self) -> None:
        self.inner.close()
        self.outer.close()
