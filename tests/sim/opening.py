"""The first packet of a flow, drawn at random: tuples, NAT, zones, marks.

In: a generator of random numbers. Out: `Facts` as the kernel notes them at the first
packet. Addresses, ports and zones come from small pools, so that tuples come again.
"""

import random
from dataclasses import dataclass

from tests.sim.ctnetlink import (
    CONFIRMED,
    DST_NAT,
    ESP,
    EXPECTED,
    GRE,
    ICMP,
    ICMPV6,
    NAT_DONE,
    SCTP,
    SRC_NAT,
    TCP,
    UDP,
    Expected,
    Facts,
    Tracker,
    Way,
)

_NETS = {
    4: (b"\x0a\x4d\x01", b"\x0a\x4d\x02"),
    6: (bytes.fromhex("fd770001" + 22 * "0"), bytes.fromhex("fd770002" + 22 * "0")),
}
_GATEWAY, _VIRTUAL = b"\x63", b"\x64"
_NATS = (0, SRC_NAT, DST_NAT, SRC_NAT | DST_NAT)
_ECHOES = {ICMP: (8, 0), ICMPV6: (128, 129)}


@dataclass(slots=True)
class Opening:
    """Draws first packets."""

    rng: random.Random
    ports: int
    zones: int

    def draw(self, protocol: int, *, port: int = 0, helper: str = "") -> Facts:
        """Any flow of that protocol; ICMP stands for both families' ICMP."""
        rng = self.rng
        family = 6 if rng.random() < 0.25 and protocol not in (GRE, ESP) else 4
        inside, outside = _NETS[family]
        client = inside + bytes((rng.randint(10, 12),))
        server = outside + bytes((rng.randint(10, 12),))
        if protocol == ICMP and family == 6:
            protocol = ICMPV6
        numbers = self._numbers(protocol, port)
        orig = Way(client, server, protocol, numbers)
        nat = rng.choice(_NATS) if rng.random() < 0.6 else 0
        if protocol in _ECHOES or protocol in (GRE, ESP):
            nat &= SRC_NAT
        facts = Facts(
            orig=orig,
            reply=self._reply(orig, nat, outside),
            status=CONFIRMED | nat | (NAT_DONE if rng.random() < 0.8 or nat else 0),
            tracker=_first_state(protocol, rng),
            helper=helper,
            mark=rng.getrandbits(32) if rng.random() < 0.15 else 0,
            labels=rng.randbytes(16) if rng.random() < 0.05 else b"",
        )
        return self._zoned(facts)

    def _numbers(self, protocol: int, port: int) -> tuple[int, ...]:
        rng = self.rng
        if protocol in _ECHOES:
            return (rng.randint(1, self.ports), _ECHOES[protocol][0], 0)
        if protocol == ESP:
            return ()
        if protocol == GRE:
            return (0, 0) if rng.random() < 0.5 else (rng.randint(1, 9), 7)
        return (40000 + rng.randrange(self.ports), port or rng.choice((80, 443, 5000)))

    def _reply(self, orig: Way, nat: int, outside: bytes) -> Way:
        source = outside + _VIRTUAL if nat & DST_NAT else orig.target
        target = outside + _GATEWAY if nat & SRC_NAT else orig.source
        numbers = orig.numbers
        if orig.protocol in _ECHOES:
            ident = self.rng.randint(1, 0xFFFF) if nat else numbers[0]
            numbers = (ident, _ECHOES[orig.protocol][1], 0)
        elif numbers:
            first, second = numbers
            if nat & DST_NAT:
                second = 8080
            if nat & SRC_NAT and self.rng.random() < 0.5:
                first = self.rng.randint(1024, 0xFFFF)
            numbers = (second, first)
        return Way(source, target, orig.protocol, numbers)

    def _zoned(self, facts: Facts) -> Facts:
        """A plain zone, or one of a single direction, or none."""
        zone = self.rng.randrange(self.zones + 1)
        if not zone or self.rng.random() < 0.5:
            return facts
        match self.rng.randrange(4):
            case 0:
                return facts._replace(orig=facts.orig._replace(zone=zone))
            case 1:
                return facts._replace(reply=facts.reply._replace(zone=zone))
            case _:
                return facts._replace(zone=zone)


def announce(master: Facts, port: int, helper: str, class_: int = 0) -> Expected:
    """What the helper of this flow expects: the server comes back to that port."""
    way, reply = master.orig, master.reply
    every = b"\xff" * len(way.source)
    expected = Way(reply.source, reply.target, way.protocol, (0, port))
    nat, function = None, ""
    if master.status & (SRC_NAT | DST_NAT):
        nobody = bytes(len(way.source))
        nat = (1, Way(nobody, nobody, way.protocol, (port, 0)))
        function = "nat-follow-master"
    mask = Way(every, every, way.protocol, (0, 0xFFFF))
    plain = way._replace(zone=0)  # no message about an expectation shows a zone
    return Expected(expected, mask, plain, nat, 0, class_, helper, function)


def related(master: Facts, port: int) -> Facts:
    """The flow that comes for an expectation."""
    orig = Way(
        master.reply.source, master.reply.target, master.orig.protocol, (20, port)
    )
    nat = (DST_NAT if master.status & SRC_NAT else 0) | (
        SRC_NAT if master.status & DST_NAT else 0
    )
    reply = Way(
        master.orig.source, master.orig.target, master.orig.protocol, (port, 20)
    )
    return Facts(
        orig=orig,
        reply=reply,
        status=CONFIRMED | EXPECTED | NAT_DONE | nat,
        zone=master.zone,
        tracker=_first_state(master.orig.protocol, random.Random(port)),
        master=master.orig._replace(zone=0),
        mark=master.mark,
    )


def _first_state(protocol: int, rng: random.Random) -> Tracker | None:
    if protocol == TCP:
        return Tracker(1, rng.randint(0, 14), 0, 3, 0)
    if protocol == SCTP:
        return Tracker(1, 0, rng.getrandbits(32))
    if protocol in (UDP, GRE, ESP, ICMP, ICMPV6):
        return None
    raise ValueError(f"protocol {protocol}")
