"""Am I wanted? A record's key and body come in, yes or the reason why not goes out.

The rule: every set that is configured has to be passed, and each has one meaning, for
events, dumps, commits and the flush of the kernel alike:

protocols      the layer 4 protocol of the original tuple.
own_addresses  a flow is this node's own if its original source or its reply source is:
               who began it, before any translation, or who really answers. The client
               behind a masquerade and the server behind a DNAT are not. What no host
               forwards is the node's own as well: loopback, IPv6 link-local, multicast
               (nobody answers from a group), broadcast, and no address at all.
addresses      a flow is in a list if its original source or its reply source is in one
               of the networks: the client, or the server that really answers. (Not the
               firewall's own address of a masqueraded flow, so that one may ignore what
               the firewall itself does and still replicate that flow.)
zones          5 is a flow that is in zone 5 in one direction at least, 0 one that is in
               no zone; "orig:5" and "reply:5" ask about one direction.
nat            src, dst: its source, its destination is translated; any, none of both.
marks          value under a mask; a flow without a mark has mark 0.
tcp_states     a flow whose record names no TCP state passes: another protocol, or an
               UPDATE that is not about the state. An END names its last state; ask
               about the flow that is stored, not about its END.

What is in `accept`, if that is given, and not in `ignore` passes, as `Choice` says.
There is no exception by family: a list of IPv4 networks alone accepts no IPv6 flow (nor
does conntrackd's), "::/0" beside it accepts all. If a family without an entry were free
instead, the first IPv6 entry would shut out IPv6 flows that passed before.

An expectation passes by the name of its helper ("ftp" is "ftp-2121" too) and with its
master: `admission.py` knows that. Where nobody does, protocol and addresses of the
master's original tuple speak, whose destination stands for the reply source.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from syncd.config_filter import BOTH, ORIG, Choice, FilterConfig, Mark, Zone
from syncd.flows.nla import NLA_F_NESTED, find, values
from syncd.flows.record import (
    CTA_EXPECT_HELP_NAME,
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    EXPECTATION,
    master_of,
    status_of,
)

# What `verdict` says, and under which key of [filter] that is written.
REASONS: Final = (
    *("accepted", "protocols", "own_addresses", "addresses", "zones", "nat"),
    *("marks", "tcp_states", "min_age_s", "expectations"),
)
ACCEPTED, PROTOCOL, OWN, ADDRESS, ZONE, NAT, MARK, STATE, AGE, EXPECTED = range(10)
_ACCEPTED, _PROTOCOL, _OWN, _ADDRESS = ACCEPTED, PROTOCOL, OWN, ADDRESS
_ZONE, _NAT, _MARK, _STATE = ZONE, NAT, MARK, STATE  # C integers when compiled

_Networks = tuple[tuple[int, frozenset[int]], ...]  # (bits to shift off, prefixes)

_AF_INET = 2
_PROTOINFO = bytes([CTA_PROTOINFO, NLA_F_NESTED >> 8])
_TCP = bytes([CTA_PROTOINFO_TCP])
_KEY4, _KEY6 = 40, 61  # bytes of a key as far as the protocol, at least
_REPLY4, _REPLY6 = 16, 28  # and of a body as far as the reply source

# Which bytes of addresses have to be looked at closely.
_LAST4, _FIRST4, _LAST6, _FIRST6 = 1, 2, 4, 8
_ALWAYS_OWN = frozenset(
    (b"\xff\xff\xff\xff", bytes(16), bytes(15) + b"\x01")
)  # broadcast, no address, loopback


class RecordFilter:
    """Compiled once; asked per record."""

    __slots__ = (
        "_addresses",
        "_expectations",
        "_hints",
        "_marks",
        "_nat",
        "_own",
        "_protocols",
        "_simple",
        "_states",
        "_zones",
        "empty",
        "ignores_own",
        "min_age_s",
        "partial",
        "restricts_flows",
    )

    def __init__(
        self, config: FilterConfig, expectations: bool | tuple[str, ...] = True
    ) -> None:
        self._protocols = _passing(config.protocols)
        self._states = _passing(config.tcp_states)
        self._addresses = _Addresses.compile(config.addresses)
        self._marks = config.marks
        self._zones = None if config.zones is None else _Zones(config.zones)
        self._nat = _passing_nat(config.nat)
        self._expectations = (
            expectations
            if isinstance(expectations, bool)
            else frozenset(name.encode() for name in expectations)
        )
        self.min_age_s = config.min_age_s
        self.ignores_own = config.own_addresses == "ignore"
        self._own: frozenset[bytes] = frozenset()
        self._hints = bytes(256)
        self.use_own(())
        # Do UPDATEs leave out what is asked? And is it more than the addresses?
        self.partial = self._states is not None or self._marks is not None
        self._simple = not self.partial and self._zones is None and self._nat is None
        self.restricts_flows = (
            not self._simple
            or self.ignores_own
            or self._protocols is not None
            or self._addresses is not None
            or self.min_age_s > 0
        )
        self.empty = expectations is True and not self.restricts_flows

    def use_own(self, addresses: Iterable[bytes]) -> None:
        """These are this node's addresses from now on."""
        if not self.ignores_own:
            return
        self._own = _ALWAYS_OWN.union(addresses)
        hints = [0] * 256
        for address in self._own:
            hints[address[-1]] |= _LAST4 if len(address) == 4 else _LAST6
        for first in (0, 127, *range(224, 240)):
            hints[first] |= _FIRST4
        for first in (0xFE, 0xFF):
            hints[first] |= _FIRST6
        self._hints = bytes(hints)

    def accepts(self, key: bytes, body: bytes) -> bool:
        """Is this flow or expectation to be replicated, as far as it says itself?"""
        if key[6] == EXPECTATION:
            return self._accepts_expectation(body)
        return self.verdict(key, body, None) == ACCEPTED

    def verdict(self, key: bytes, body: bytes, stored: bytes | None) -> int:
        """ACCEPTED, or the reason why this flow is not wanted.

        `body` may be that of an UPDATE; `stored` is then what was known before.
        """
        is_ipv4 = key[0] == _AF_INET
        if is_ipv4:
            if len(key) < _KEY4 or len(body) < _REPLY4:
                return _ACCEPTED  # no kernel writes that
        elif len(key) < _KEY6 or len(body) < _REPLY6:
            return _ACCEPTED
        if self._protocols is not None:
            protocol = key[36:37] if is_ipv4 else key[60:61]
            if protocol not in self._protocols:
                return _PROTOCOL
        if self.ignores_own and self._is_own(key, body, is_ipv4):
            return _OWN
        if self._addresses is not None:
            if is_ipv4:
                source = key[16] << 24 | key[17] << 16 | key[18] << 8 | key[19]
                reply_source = (
                    body[12] << 24 | body[13] << 16 | body[14] << 8 | body[15]
                )
                passes = self._addresses.pass4(source, reply_source)
            else:
                passes = self._addresses.pass6(
                    int.from_bytes(key[16:32]), int.from_bytes(body[12:28])
                )
            if not passes:
                return _ADDRESS
        if self._simple:
            return _ACCEPTED
        return self._verdict_of_state(key, body, stored)

    def _is_own(self, key: bytes, body: bytes, is_ipv4: bool) -> bool:
        """Does the flow begin or end at this node?"""
        hints = self._hints
        if is_ipv4:
            if (hints[key[16]] | hints[body[12]]) & _FIRST4:
                return True
            return bool((hints[key[19]] | hints[body[15]]) & _LAST4) and (
                key[16:20] in self._own or body[12:16] in self._own
            )
        if (hints[key[16]] | hints[body[12]]) & _FIRST6 and (
            _stays_on_link(key[16], key[17]) or _stays_on_link(body[12], body[13])
        ):
            return True
        return bool((hints[key[31]] | hints[body[27]]) & _LAST6) and (
            key[16:32] in self._own or body[12:28] in self._own
        )

    def _verdict_of_state(self, key: bytes, body: bytes, stored: bytes | None) -> int:
        """The sets that ask for more than addresses."""
        if self._zones is not None and not self._zones.passes(key, body):
            return _ZONE
        if self._nat is not None and not self._nat[status_of(body) >> 4 & 3]:
            return _NAT
        if self._marks is not None:
            mark = _mark_of(body)
            if mark < 0 and stored is not None:
                mark = _mark_of(stored)
            if not _mark_passes(self._marks, max(mark, 0)):
                return _MARK
        if self._states is not None:
            state = _tcp_state(body)
            if not state and stored is not None:
                state = _tcp_state(stored)
            if state not in self._states:
                return _STATE
        return _ACCEPTED

    def accepts_helper(self, body: bytes) -> bool:
        """Does an expectation pass by the name of its helper?"""
        if isinstance(self._expectations, bool):
            return self._expectations
        name = values(body).get(CTA_EXPECT_HELP_NAME, b"").rstrip(b"\0")
        base, _, number = name.rpartition(b"-")
        return name in self._expectations or (
            number.isdigit() and base in self._expectations
        )

    def _accepts_expectation(self, body: bytes) -> bool:
        if not self.accepts_helper(body):
            return False
        if self._protocols is None and self._addresses is None:
            return True
        master = master_of(body)
        is_ipv4 = master[0] == _AF_INET
        if self._protocols is not None:
            protocol = master[36:37] if is_ipv4 else master[60:61]
            if protocol not in self._protocols:
                return False
        if self._addresses is None:
            return True
        if is_ipv4:
            return self._addresses.pass4(
                int.from_bytes(master[16:20]), int.from_bytes(master[24:28])
            )
        return self._addresses.pass6(
            int.from_bytes(master[16:32]), int.from_bytes(master[36:52])
        )


def ends_of(key: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Who began a flow and who really answers: original source, reply source."""
    if key[0] == _AF_INET:
        return key[16:20], body[12:16]
    return key[16:32], body[12:28]


class _Addresses:
    """An address choice as prefixes by family and length."""

    __slots__ = ("_accept4", "_accept6", "_any", "_ignore4", "_ignore6")

    def __init__(self, choice: Choice[IPv4Network | IPv6Network]) -> None:
        self._any = not choice.accept
        self._accept4 = _prefixes(choice.accept, 4)
        self._accept6 = _prefixes(choice.accept, 6)
        self._ignore4 = _prefixes(choice.ignore, 4)
        self._ignore6 = _prefixes(choice.ignore, 6)

    @classmethod
    def compile(
        cls, choice: Choice[IPv4Network | IPv6Network] | None
    ) -> "_Addresses | None":
        """None if the choice restricts nothing."""
        if choice is None or not (choice.accept or choice.ignore):
            return None
        return cls(choice)

    def pass4(self, source: int, reply_source: int) -> bool:
        """Does an IPv4 flow between these two pass?"""
        for shift, prefixes in self._ignore4:
            if source >> shift in prefixes or reply_source >> shift in prefixes:
                return False
        if self._any:
            return True
        for shift, prefixes in self._accept4:
            if source >> shift in prefixes or reply_source >> shift in prefixes:
                return True
        return False

    def pass6(self, source: int, reply_source: int) -> bool:
        """Does an IPv6 flow between these two pass?"""
        for shift, prefixes in self._ignore6:
            if source >> shift in prefixes or reply_source >> shift in prefixes:
                return False
        if self._any:
            return True
        for shift, prefixes in self._accept6:
            if source >> shift in prefixes or reply_source >> shift in prefixes:
                return True
        return False


class _Zones:
    """A zone choice; most flows are in no zone, which is decided once."""

    __slots__ = ("_choice", "_known")

    def __init__(self, choice: Choice[Zone]) -> None:
        self._choice = choice
        self._known: dict[tuple[int, int], bool] = {}

    def passes(self, key: bytes, body: bytes) -> bool:
        """Does a flow in these zones pass?"""
        zones = zones_of(key, body)
        known = self._known.get(zones)
        if known is None:
            accept, ignore = self._choice.accept, self._choice.ignore
            known = (not accept or _in_one(accept, zones)) and not _in_one(
                ignore, zones
            )
            self._known[zones] = known
        return known


def zones_of(key: bytes, body: bytes) -> tuple[int, int]:
    """The zones of the original and of the reply direction."""
    end = 4 + (key[4] | key[5] << 8)
    if end + 6 <= len(key):  # CTA_ZONE: both directions
        zone = key[end + 4] << 8 | key[end + 5]
        return zone, zone
    return _zone_of_tuple(key, 4), _zone_of_tuple(body, 0)


def _zone_of_tuple(data: bytes, start: int) -> int:
    """CTA_TUPLE_ZONE behind addresses and protocol of a tuple, 0 if there is none."""
    end = start + (data[start] | data[start + 1] << 8)
    at = start + 4  # three headers of nested attributes at most
    while at + 6 <= end and at + 6 <= len(data):
        if data[at + 2] == 3:
            return data[at + 4] << 8 | data[at + 5]
        length = data[at] | data[at + 1] << 8
        if length < 4:
            return 0
        at += length + 3 & ~3
    return 0


def _in_one(choice: Iterable[Zone], zones: tuple[int, int]) -> bool:
    orig, reply = zones
    for direction, number in choice:
        if direction == BOTH:
            if number in zones and (number or orig == reply):
                return True
        elif number == (orig if direction == ORIG else reply):
            return True
    return False


def _prefixes(networks: Iterable[IPv4Network | IPv6Network], version: int) -> _Networks:
    by_shift: dict[int, set[int]] = {}
    for network in networks:
        if network.version == version:
            shift = network.max_prefixlen - network.prefixlen
            prefix = int(network.network_address) >> shift
            by_shift.setdefault(shift, set()).add(prefix)
    return tuple((shift, frozenset(found)) for shift, found in by_shift.items())


def _passing(choice: Choice[int] | None) -> frozenset[bytes] | None:
    """The bytes that pass, and b"" for "not there"; None if all do."""
    if choice is None or not (choice.accept or choice.ignore):
        return None
    passing = set(choice.accept or range(256)) - set(choice.ignore)
    return frozenset([b"", *(bytes([number]) for number in passing)])


def _passing_nat(choice: Choice[str] | None) -> tuple[bool, ...] | None:
    """What passes by SRC_NAT (1) and DST_NAT (2); None if all do."""
    if choice is None or not (choice.accept or choice.ignore):
        return None
    words = (
        frozenset(("none",)),
        frozenset(("src", "any")),
        frozenset(("dst", "any")),
        frozenset(("src", "dst", "any")),
    )
    return tuple(
        (not choice.accept or not word.isdisjoint(choice.accept))
        and word.isdisjoint(choice.ignore)
        for word in words
    )


def _mark_passes(choice: Choice[Mark], mark: int) -> bool:
    if any(mark & mask == value for value, mask in choice.ignore):
        return False
    accept = choice.accept
    return not accept or any(mark & mask == value for value, mask in accept)


def _mark_of(body: bytes) -> int:
    """The mark that a body tells, -1 if it tells none."""
    start = find(body, CTA_MARK)
    return int.from_bytes(body[start + 4 : start + 8]) if start >= 0 else -1


def _stays_on_link(first: int, second: int) -> bool:
    """Of an IPv6 address: multicast or link-local?"""
    return first == 0xFF or (first == 0xFE and second & 0xC0 == 0x80)


def _tcp_state(body: bytes) -> bytes:
    """The state in one byte, b"" if there is none."""
    # Mostly after reply tuple, status and timeout.
    start = (body[0] | body[1] << 8) + 16 if len(body) > 1 else 0
    if body[start + 2 : start + 4] != _PROTOINFO:
        start = find(body, CTA_PROTOINFO)
    if start < 0 or body[start + 6 : start + 7] != _TCP:
        return b""
    return body[start + 12 : start + 13]
