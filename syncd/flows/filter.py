"""Am I wanted? A record's key and body come in, yes or no goes out.

The rule: every set that is configured has to be passed, and each has one meaning, for
events, dumps and what a peer sends alike:

protocols   the layer 4 protocol of the original tuple.
addresses   a flow is in a list if its original source or its reply source is in one of
            the networks: the client, or the server that really answers. (Not the
            firewall's own address of a masqueraded flow, so that one may ignore what
            the firewall itself does and still replicate that flow.)
tcp_states  a flow whose record names no TCP state passes: another protocol, or an
            UPDATE that is not about the state. An END names its last state; ask about
            the flow that is stored, not about its END.

What is in `accept`, if that is given, and not in `ignore` passes, as `config.Choice`
says. There is no exception by family: a list of IPv4 networks alone accepts no IPv6
flow (nor does conntrackd's), "::/0" beside it accepts all. If a family without an entry
were free instead, the first IPv6 entry would shut out IPv6 flows that passed before.

An expectation passes by the name of its helper ("ftp" is "ftp-2121" too), and by
protocol and addresses of its master's original tuple, whose destination stands for the
reply source, which is not told.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from syncd.config import Choice, FilterConfig
from syncd.flows.nla import NLA_F_NESTED, find, values
from syncd.flows.record import (
    CTA_EXPECT_HELP_NAME,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    EXPECTATION,
    master_of,
)

_Networks = tuple[tuple[int, frozenset[int]], ...]  # (bits to shift off, prefixes)

_AF_INET = 2
_PROTOINFO = bytes([CTA_PROTOINFO, NLA_F_NESTED >> 8])
_TCP = bytes([CTA_PROTOINFO_TCP])


class RecordFilter:
    """Compiled once; asked per record."""

    __slots__ = ("_addresses", "_expectations", "_protocols", "_states", "empty")

    def __init__(
        self, config: FilterConfig, expectations: bool | tuple[str, ...] = True
    ) -> None:
        self._protocols = _passing(config.protocols)
        self._states = _passing(config.tcp_states)
        self._addresses = _Addresses.compile(config.addresses)
        self._expectations = (
            expectations
            if isinstance(expectations, bool)
            else frozenset(name.encode() for name in expectations)
        )
        self.empty = (
            expectations is True
            and self._protocols is None
            and self._states is None
            and self._addresses is None
        )

    def accepts(self, key: bytes, body: bytes) -> bool:
        """Is this flow or expectation to be replicated?"""
        if key[6] == EXPECTATION:
            return self._accepts_expectation(body)
        if self._protocols is not None or self._addresses is not None:
            reply_source = body[12:16] if key[0] == _AF_INET else body[12:28]
            if not self._accepts_ends(key, reply_source):
                return False
        return self._states is None or _tcp_state(body) in self._states

    def _accepts_expectation(self, body: bytes) -> bool:
        if isinstance(self._expectations, bool):
            if not self._expectations:
                return False
        else:
            name = values(body).get(CTA_EXPECT_HELP_NAME, b"").rstrip(b"\0")
            base, _, number = name.rpartition(b"-")
            if name not in self._expectations and not (
                number.isdigit() and base in self._expectations
            ):
                return False
        if self._protocols is None and self._addresses is None:
            return True
        master = master_of(body)
        destination = master[24:28] if master[0] == _AF_INET else master[36:52]
        return self._accepts_ends(master, destination)

    def _accepts_ends(self, key: bytes, reply_source: bytes) -> bool:
        """Protocol and addresses: of a tuple the kernel writes them first."""
        is_ipv4 = key[0] == _AF_INET
        if self._protocols is not None:
            protocol = key[36:37] if is_ipv4 else key[60:61]
            if protocol not in self._protocols:
                return False
        if self._addresses is None:
            return True
        source = key[16:20] if is_ipv4 else key[16:32]
        return self._addresses.pass_one(
            is_ipv4, int.from_bytes(source), int.from_bytes(reply_source)
        )


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

    def pass_one(self, is_ipv4: bool, source: int, reply_source: int) -> bool:
        """Does a flow between these two pass?"""
        for shift, prefixes in self._ignore4 if is_ipv4 else self._ignore6:
            if source >> shift in prefixes or reply_source >> shift in prefixes:
                return False
        if self._any:
            return True
        for shift, prefixes in self._accept4 if is_ipv4 else self._accept6:
            if source >> shift in prefixes or reply_source >> shift in prefixes:
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


def _tcp_state(body: bytes) -> bytes:
    """The state in one byte, b"" if there is none."""
    # Mostly after reply tuple, status and timeout.
    start = (body[0] | body[1] << 8) + 16 if len(body) > 1 else 0
    if body[start + 2 : start + 4] != _PROTOINFO:
        start = find(body, CTA_PROTOINFO)
    if start < 0 or body[start + 6 : start + 7] != _TCP:
        return b""
    return body[start + 12 : start + 13]
