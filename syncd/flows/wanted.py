"""What a person asks for: filters of a command come in, tests of messages go out.

The filters follow conntrack(8): all that are given have to pass. Addresses, ports and
labels are those of the original direction (of an expectation: of the expected tuple).
A filter's value that is not understood raises ControlError with exit status 2.

What a shape decides (protocol, state, status) is answered for all messages of it at
once; of the rest a few comparisons under a mask are left for each message.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from syncd.config_filter import PROTOCOLS
from syncd.errors import ControlError
from syncd.flows import numbers as n
from syncd.flows.shape import (
    EXPECTATION_MESSAGE,
    IPV4,
    IPV6,
    Place,
    Shape,
    Test,
)
from syncd.flows.text import Tuple, states_of, status_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NatEnd = tuple[Network | None, int | None]
Tests = tuple[tuple[Test, ...], ...]

# Filter -> what its value is; the nat ones may come without a value (true).
FILTERS: Final[dict[str, str]] = {
    "family": "ipv4 or ipv6",
    "proto": "a protocol's name or number",
    "src": "an address or a network",
    "dst": "an address or a network",
    "reply-src": "an address or a network",
    "reply-dst": "an address or a network",
    "sport": "a port from 0 to 65535",
    "dport": "a port from 0 to 65535",
    "state": "a state of TCP, SCTP or DCCP such as ESTABLISHED",
    "mark": "VALUE or VALUE/MASK",
    "zone": "a zone from 0 to 65535",
    "orig-zone": "a zone from 0 to 65535",
    "reply-zone": "a zone from 0 to 65535",
    "label": "labels separated by commas: bits from 0 to 127 or names that "
    "connlabel.conf has",
    "status": "bits of the status such as ASSURED, separated by commas; ! before one "
    "means that it is not set",
    "any-nat": "an address, with or without a port (ADDRESS:PORT), or nothing",
    "src-nat": "an address, with or without a port (ADDRESS:PORT), or nothing",
    "dst-nat": "an address, with or without a port (ADDRESS:PORT), or nothing",
}
# The names people use for the kernel's bits.
_STATUS_NAMES: Final = {"SNAT": "SRC_NAT", "DNAT": "DST_NAT"}
_STATES_OF: Final[Mapping[int, tuple[str, ...]]] = {
    n.TCP: n.TCP_STATES,
    n.SCTP: n.SCTP_STATES,
    n.DCCP: n.DCCP_STATES,
}
_STATES: Final = frozenset(name for names in _STATES_OF.values() for name in names)
_STATE_NAMES: Final = {"CLOSED": ("CLOSED", "CLOSE"), "LISTEN": ("SYN_SENT2",)}
_FAMILIES: Final = {"ipv4": IPV4, "ipv6": IPV6}
_SRC_NAT: Final = 1 << n.STATUS_BITS.index("SRC_NAT")
_DST_NAT: Final = 1 << n.STATUS_BITS.index("DST_NAT")
_ALL: Final[Tests] = ()


@dataclass(frozen=True, slots=True)
class Filters:
    """What a flow or an expectation has to be; None asks for nothing."""

    family: int | None = None
    protocol: int | None = None
    src: Network | None = None
    dst: Network | None = None
    reply_src: Network | None = None
    reply_dst: Network | None = None
    sport: int | None = None
    dport: int | None = None
    states: tuple[str, ...] | None = None
    mark: tuple[int, int] | None = None  # Value and mask: what is left under the mask.
    zone: int | None = None
    orig_zone: int | None = None
    reply_zone: int | None = None
    labels: int | None = None  # All of these bits are set.
    status: tuple[int, int] | None = None  # Bits that are set, that are not.
    any_nat: _NatEnd | None = None
    src_nat: _NatEnd | None = None
    dst_nat: _NatEnd | None = None


def read_filters(options: Mapping[str, object]) -> Filters | None:
    """Filters out of a command's options; None if there are none."""
    given = {name: options[name] for name in FILTERS if options.get(name) is not None}
    if not given:
        return None
    try:
        filters = Filters(
            family=_family(given.get("family")),
            protocol=_protocol(given.get("proto")),
            src=_network(given.get("src"), "src"),
            dst=_network(given.get("dst"), "dst"),
            reply_src=_network(given.get("reply-src"), "reply-src"),
            reply_dst=_network(given.get("reply-dst"), "reply-dst"),
            sport=_number(given.get("sport"), "sport"),
            dport=_number(given.get("dport"), "dport"),
            states=_states(given.get("state")),
            mark=_mark(given.get("mark")),
            zone=_number(given.get("zone"), "zone"),
            orig_zone=_number(given.get("orig-zone"), "orig-zone"),
            reply_zone=_number(given.get("reply-zone"), "reply-zone"),
            labels=_labels(given.get("label")),
            status=_status(given.get("status")),
            any_nat=_nat_end(given.get("any-nat"), "any-nat"),
            src_nat=_nat_end(given.get("src-nat"), "src-nat"),
            dst_nat=_nat_end(given.get("dst-nat"), "dst-nat"),
        )
    except _Refusal as refusal:
        name = str(refusal)
        shown = ascii(given[name])[:60]
        problem = f"--{name}: {shown} is not {FILTERS[name]}"
        raise ControlError(problem, status=2) from refusal
    if contradiction := _contradiction(filters):
        raise ControlError(contradiction, status=2)
    return filters


def _contradiction(filters: Filters) -> str:
    """Two filters that no record can pass are a mistake, as conntrack has it."""
    families = {"--family": filters.family}
    for name, network in (
        *(("src", filters.src), ("dst", filters.dst)),
        *(("reply-src", filters.reply_src), ("reply-dst", filters.reply_dst)),
        *(("any-nat", filters.any_nat), ("src-nat", filters.src_nat)),
        ("dst-nat", filters.dst_nat),
    ):
        end = network[0] if isinstance(network, tuple) else network
        if end is not None:
            families[f"--{name}"] = IPV4 if end.version == 4 else IPV6
    asked = [(name, family) for name, family in families.items() if family is not None]
    for name, family in asked[1:]:
        if family != asked[0][1]:
            return f"{asked[0][0]} and {name} are of different address families"
    number = filters.protocol
    if number is None:
        return ""
    protocol = n.PROTOCOL_NAMES.get(number, f"protocol {number}")
    known = _STATES_OF.get(number, ())
    if filters.states is not None and not set(filters.states) & set(known):
        states = ", ".join(dict.fromkeys(known)) or "none"
        return f"--state: not a state of {protocol}, it has: {states}"
    ports = filters.sport is not None or filters.dport is not None
    if ports and number not in n.WITH_PORTS:
        return f"--sport and --dport: {protocol} has no ports"
    return ""


def tests_of(shape: Shape, filters: Filters) -> Tests | None:
    """What has to be tested of each message of the shape; None: none passes.

    One of the groups has to pass; without a group all messages do.
    """
    if filters.family is not None and shape.family != filters.family:
        return None
    is_flow = shape.subsystem != EXPECTATION_MESSAGE
    orig = Tuple(shape, shape.attributes.get(n.CTA_ORIG if is_flow else n.EXP_TUPLE))
    if filters.protocol is not None and orig.protocol != filters.protocol:
        return None
    if not is_flow and _is_only_of_flows(filters):
        return None
    place = shape.attributes.get(n.CTA_REPLY) if is_flow else None
    reply = None if place is None else Tuple(shape, place)
    if is_flow and not (_has_state(shape, filters) and _has_status(shape, filters)):
        return None
    asked: list[tuple[Place | None, int, int] | None] = [
        _network_test(orig.source, filters.src),
        _network_test(orig.target, filters.dst),
        _network_test(None if reply is None else reply.source, filters.reply_src),
        _network_test(None if reply is None else reply.target, filters.reply_dst),
        _value_test(orig, n.PROTO_SOURCE, filters.sport),
        _value_test(orig, n.PROTO_TARGET, filters.dport),
        *_zone_tests(shape, filters, orig, reply, is_flow=is_flow),
        *(_mark_tests(shape, filters) if is_flow else ()),
    ]
    tests = _together(asked)
    if tests is None:
        return None
    groups = _nat_tests(shape, filters, reply) if is_flow else [[]]
    joined = []
    for group in groups:
        more = _together(group)
        if more is not None:
            joined.append((*tests, *more))
    if not joined:
        return None
    return _ALL if () in joined else tuple(joined)


# A place, a mask and what is under it; no place: the value is not told, so it is 0.
_Asked = tuple[Place | None, int, int] | None
_NEVER: Final = (None, 1, 1)


def _together(asked: list[_Asked]) -> tuple[Test, ...] | None:
    """The tests of all that is asked; None if one cannot pass."""
    tests: list[Test] = []
    for one in asked:
        if one is None:
            continue
        place, mask, value = one
        if place is not None:
            tests.append((*place, mask, value))
        elif value:
            return None
    return tuple(tests)


def _is_only_of_flows(filters: Filters) -> bool:
    asked = (filters.states, filters.status, filters.mark, filters.labels)
    nat = (filters.any_nat, filters.src_nat, filters.dst_nat)
    reply = (filters.reply_src, filters.reply_dst)
    zones = (filters.orig_zone, filters.reply_zone)
    return any(one is not None for one in (*asked, *nat, *reply, *zones))


def _has_state(shape: Shape, filters: Filters) -> bool:
    if filters.states is None:
        return True
    return any(
        n.state_name(states, number) in filters.states
        for states, number in states_of(shape)
    )


def _has_status(shape: Shape, filters: Filters) -> bool:
    if filters.status is None:
        return True
    set_bits, clear_bits = filters.status
    status = status_of(shape) or 0
    return status & set_bits == set_bits and not status & clear_bits


def _network_test(place: Place | None, network: Network | None) -> _Asked:
    if network is None:
        return None
    if place is None or (place[1] - place[0]) * 8 != network.max_prefixlen:
        return _NEVER
    return place, int(network.netmask), int(network.network_address)


def _value_test(ends: Tuple, kind: int, value: int | None) -> _Asked:
    """A port of protocols that have some."""
    if value is None:
        return None
    if ends.protocol not in n.WITH_PORTS or kind not in ends.parts:
        return _NEVER
    return ends.parts[kind], 0xFFFF, value


def _zone_tests(
    shape: Shape,
    filters: Filters,
    orig: Tuple,
    reply: Tuple | None,
    *,
    is_flow: bool,
) -> list[_Asked]:
    asked: list[_Asked] = []
    back = None if reply is None else reply.zone
    if filters.zone is not None:
        whole = shape.attributes.get(n.CTA_ZONE if is_flow else n.EXP_ZONE)
        # A flow in a zone by direction is in none as a whole, not even in zone 0.
        is_split = whole is None and (orig.zone is not None or back is not None)
        asked.append(_NEVER if is_split else (whole, 0xFFFF, filters.zone))
    if filters.orig_zone is not None:
        asked.append((orig.zone, 0xFFFF, filters.orig_zone))
    if filters.reply_zone is not None:
        asked.append((back, 0xFFFF, filters.reply_zone))
    return asked


def _mark_tests(shape: Shape, filters: Filters) -> list[_Asked]:
    asked: list[_Asked] = []
    if filters.mark is not None:
        value, mask = filters.mark
        asked.append((shape.attributes.get(n.CTA_MARK), mask, value))
    if filters.labels is not None:
        place = shape.attributes.get(n.CTA_LABELS, (0, 0))
        size = place[1] - place[0]
        if filters.labels >> size * 8:
            asked.append(_NEVER)
        else:
            # Bit b is in byte b / 8 on the little endian hosts that we support.
            bits = int.from_bytes(filters.labels.to_bytes(size, "little"))
            asked.append((place, bits, bits))
    return asked


def _nat_tests(
    shape: Shape, filters: Filters, reply: Tuple | None
) -> list[list[_Asked]]:
    """Groups of which one has to pass."""
    if filters.any_nat is filters.src_nat is filters.dst_nat is None:
        return [[]]
    status = status_of(shape) or 0
    # Source NAT shows where replies go to, destination NAT where they come from.
    ends: list[tuple[_NatEnd | None, int, bool]] = [
        (filters.src_nat, _SRC_NAT, False),
        (filters.dst_nat, _DST_NAT, True),
    ]
    both: list[_Asked] = []
    for wanted, bit, is_source in ends:
        if wanted is not None:
            both += _end_tests(reply, wanted, is_source) if status & bit else [_NEVER]
    wanted = filters.any_nat
    if wanted is None:
        return [both]
    return [
        both + _end_tests(reply, wanted, is_source)
        for _, bit, is_source in ends
        if status & bit
    ]


def _end_tests(reply: Tuple | None, wanted: _NatEnd, is_source: bool) -> list[_Asked]:
    if reply is None:
        return [_NEVER]
    network, port = wanted
    kind = n.PROTO_SOURCE if is_source else n.PROTO_TARGET
    return [
        _network_test(reply.source if is_source else reply.target, network),
        _value_test(reply, kind, port),
    ]


class _Refusal(Exception):  # noqa: N818 - carries the name of a filter, no message
    """The filter of this name has a value that is not understood."""


def _family(value: object) -> int | None:
    if value is None:
        return None
    if value in _FAMILIES:
        return _FAMILIES[str(value)]
    raise _Refusal("family")


def _protocol(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.lower() in PROTOCOLS:
        return PROTOCOLS[value.lower()]
    return _number(value, "proto", 255)


def _number(value: object, name: str, limit: int = 65535) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value) if len(value) < 10 else limit + 1
    if isinstance(value, int) and value is not True and 0 <= value <= limit:
        return value
    raise _Refusal(name)


def _network(value: object, name: str) -> Network | None:
    if value is None:
        return None
    if not isinstance(value, str) or "%" in value:
        raise _Refusal(name)
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise _Refusal(name) from error


def _states(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    state = str(value).upper()
    if state not in _STATES and state not in _STATE_NAMES:
        raise _Refusal("state")
    return _STATE_NAMES.get(state, (state,))


def _mark(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    text, _, mask = str(value).partition("/")
    try:
        numbers = _integer(text), _integer(mask or "0xffffffff")
    except ValueError as error:
        raise _Refusal("mark") from error
    if not all(0 <= number <= 0xFFFFFFFF for number in numbers):
        raise _Refusal("mark")
    return numbers


def _integer(text: str) -> int:
    """As of C: 0x begins a hexadecimal number, 0 an octal one."""
    return int(text, 8 if text.isdigit() and text.startswith("0") else 0)


def _labels(value: object) -> int | None:
    if value is None:
        return None
    found = [_number(bit, "label", 127) for bit in str(value).split(",")]
    return sum(1 << bit for bit in set(found) if bit is not None)


def _status(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    set_bits = clear_bits = 0
    for word in str(value).split(","):
        name = word.strip().upper()
        negated = name.startswith("!")
        name = name[negated:]
        name = _STATUS_NAMES.get(name, name)
        if name == "UNSET" and not negated:
            continue
        if name == "UNREPLIED":
            name, negated = "SEEN_REPLY", not negated
        if name not in n.STATUS_BITS:
            raise _Refusal("status")
        bit = 1 << n.STATUS_BITS.index(name)
        if negated:
            clear_bits |= bit
        else:
            set_bits |= bit
    return set_bits, clear_bits


def _nat_end(value: object, name: str) -> _NatEnd | None:
    if value is None or value is False:
        return None
    if value is True or value == "":
        return None, None
    text, port = str(value), ""
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    network = _network(text, name) if text else None
    return network, _number(port or None, name)
