"""ctnetlink messages of a model kernel, byte for byte as Linux 6.18 writes them.

In: the facts of a flow or an expectation. Out: whole netlink messages. Which attribute
is in which message and in which order is written in `_LAYOUTS` and nowhere else; the
test beside this file rebuilds every recorded message of a real kernel with it.
"""

import struct
from functools import lru_cache
from typing import NamedTuple

NEW, UPDATE, END, DUMP = "NEW", "UPDATE", "DESTROY", "DUMP"
EXP_NEW, EXP_END, EXP_DUMP = "EXP_NEW", "EXP_DESTROY", "EXP_DUMP"

SEEN_REPLY, ASSURED, CONFIRMED = 0x2, 0x4, 0x8
EXPECTED, SRC_NAT, DST_NAT, SEQ_ADJUST = 0x1, 0x10, 0x20, 0x40
NAT_DONE, DYING, FIXED_TIMEOUT, HELPER = 0x180, 0x200, 0x400, 0x2000

ICMP, TCP, UDP, GRE, ESP, ICMPV6, SCTP = 1, 6, 17, 47, 50, 58, 132
LAST_ACK = 6  # of TCP: the last packets were seen
TRACKER_STATES = {TCP: 1, SCTP: 3}  # nested type inside CTA_PROTOINFO

# message -> (nlmsg_type, nlmsg_flags)
HEADS = {
    NEW: (0x0100, 0x0600),
    UPDATE: (0x0100, 0x0000),
    END: (0x0102, 0x0000),
    DUMP: (0x0100, 0x0002),
    EXP_NEW: (0x0200, 0x0600),
    EXP_END: (0x0202, 0x0000),
    EXP_DUMP: (0x0200, 0x0002),
}
CTA = {
    "TUPLE_ORIG": 1,
    "TUPLE_REPLY": 2,
    "STATUS": 3,
    "PROTOINFO": 4,
    "HELP": 5,
    "TIMEOUT": 7,
    "MARK": 8,
    "USE": 11,
    "ID": 12,
    "TUPLE_MASTER": 14,
    "SEQ_ADJ_ORIG": 15,
    "SEQ_ADJ_REPLY": 16,
    "ZONE": 18,
    "LABELS": 22,
    "SYNPROXY": 24,
}
_OPENING = ("TUPLE_ORIG", "TUPLE_REPLY", "ZONE")
_GROWN = ("HELP", "LABELS", "TUPLE_MASTER", "SEQ_ADJ_ORIG", "SEQ_ADJ_REPLY", "SYNPROXY")
_EVENT = (*_OPENING, "ID", "STATUS", "TIMEOUT", "PROTOINFO", *_GROWN, "MARK")
_LAYOUTS = {
    NEW: _EVENT,
    UPDATE: _EVENT,
    END: (*_OPENING, "ID", "STATUS", "TIMEOUT", "PROTOINFO", "MARK"),
    DUMP: (
        *(*_OPENING, "STATUS", "MARK", "ID", "USE", "TUPLE_MASTER", "TIMEOUT"),
        *("PROTOINFO", "HELP", "LABELS", "SEQ_ADJ_ORIG", "SEQ_ADJ_REPLY", "SYNPROXY"),
    ),
}


class Way(NamedTuple):
    """One direction: addresses, protocol, its numbers (ports, or ICMP id type code)."""

    source: bytes
    target: bytes
    protocol: int
    numbers: tuple[int, ...] = ()
    zone: int = 0


class Tracker(NamedTuple):
    """TCP: state, window scales, flags. SCTP: state and the two vtags."""

    state: int
    orig: int = 0
    reply: int = 0
    orig_flags: int = 0
    reply_flags: int = 0


Triple = tuple[int, int, int]
Zoned = tuple[Way, int]  # a tuple and the zone in which it is unique


class Facts(NamedTuple):
    """What is replicated of a flow, the timeout excepted."""

    orig: Way
    reply: Way
    status: int
    zone: int = 0
    tracker: Tracker | None = None
    helper: str = ""
    labels: bytes = b""
    master: Way | None = None
    adjust_orig: Triple | None = None
    adjust_reply: Triple | None = None
    synproxy: Triple | None = None
    mark: int = 0


class Expected(NamedTuple):
    """What is replicated of an expectation, the timeout excepted."""

    way: Way
    mask: Way
    master: Way
    nat: tuple[int, Way] | None = None
    flags: int = 0
    class_: int = 0
    helper: str = "ftp"
    function: str = ""


_REMEMBERED = 2048  # tuples: each comes in every message about its flow
_PADDINGS = (b"", bytes(3), bytes(2), bytes(1))
_head = struct.Struct("=HH").pack
_value = struct.Struct(">I").pack


def tlv(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = len(value)
    return _head(size + 4, kind) + value + _PADDINGS[size & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """One attribute that holds others."""
    return tlv(0x8000 | kind, b"".join(parts))


@lru_cache(_REMEMBERED)
def way_tlv(kind: int, way: Way) -> bytes:
    """A tuple in one direction."""
    first = 1 if len(way.source) == 4 else 3
    addresses = nested(1, tlv(first, way.source), tlv(first + 1, way.target))
    parts = [tlv(1, bytes((way.protocol,)))]
    if way.protocol in (ICMP, ICMPV6):
        at = 4 if way.protocol == ICMP else 7
        number, type_, code = way.numbers
        parts.append(tlv(at, struct.pack(">H", number)))
        parts += (tlv(at + 1, bytes((type_,))), tlv(at + 2, bytes((code,))))
    elif way.numbers:
        source, target = way.numbers
        parts += (tlv(2, struct.pack(">H", source)), tlv(3, struct.pack(">H", target)))
    zone = tlv(3, struct.pack(">H", way.zone)) if way.zone else b""
    return nested(kind, addresses, nested(2, *parts), zone)


def tracker_tlv(protocol: int, tracker: Tracker, *, state_only: bool = False) -> bytes:
    """CTA_PROTOINFO."""
    parts = [tlv(1, bytes((tracker.state,)))]
    if not state_only and protocol == TCP:
        parts += (tlv(2, bytes((tracker.orig,))), tlv(3, bytes((tracker.reply,))))
        parts += (tlv(4, bytes((tracker.orig_flags, 0))),)
        parts += (tlv(5, bytes((tracker.reply_flags, 0))),)
    elif not state_only:
        parts += (number(2, tracker.orig), number(3, tracker.reply))
    return nested(CTA["PROTOINFO"], nested(TRACKER_STATES[protocol], *parts))


def number(kind: int, value: int) -> bytes:
    """An attribute with a 32 bit number."""
    return _head(8, kind) + _value(value)


def triple(kind: int, values: Triple) -> bytes:
    """An attribute with three 32 bit numbers."""
    return nested(kind, *(number(at, value) for at, value in enumerate(values, 1)))


def attribute(name: str, facts: Facts) -> bytes:
    """One attribute of a flow; empty when the flow has no such thing."""
    kind = CTA[name]
    match name:
        case "TUPLE_ORIG":
            return way_tlv(kind, facts.orig)
        case "TUPLE_REPLY":
            return way_tlv(kind, facts.reply)
        case "ZONE":
            return tlv(kind, struct.pack(">H", facts.zone)) if facts.zone else b""
        case "STATUS":
            return number(kind, facts.status)
        case "PROTOINFO" if facts.tracker is not None:
            return tracker_tlv(facts.orig.protocol, facts.tracker)
        case "HELP" if facts.helper:
            return nested(kind, tlv(1, facts.helper.encode() + b"\0"))
        case "LABELS" if facts.labels:
            return tlv(kind, facts.labels)
        case "TUPLE_MASTER" if facts.master is not None:
            return way_tlv(kind, facts.master)
        case "SEQ_ADJ_ORIG" if facts.adjust_orig is not None:
            return triple(kind, facts.adjust_orig)
        case "SEQ_ADJ_REPLY" if facts.adjust_reply is not None:
            return triple(kind, facts.adjust_reply)
        case "SYNPROXY" if facts.synproxy is not None:
            return triple(kind, facts.synproxy)
        case "MARK" if facts.mark:
            return number(kind, facts.mark)
    return b""


def family_of(way: Way) -> bytes:
    """nfgenmsg of a message about such a tuple."""
    return b"\x02\0\0\0" if len(way.source) == 4 else b"\x0a\0\0\0"


def message(kind: str, family: bytes, attributes: bytes) -> bytes:
    """A whole netlink message; a reply carries somebody's sequence and portid."""
    type_, flags = HEADS[kind]
    sequence, portid = (77, 4711) if flags == 2 else (0, 0)
    head = struct.pack("=IHHII", 20 + len(attributes), type_, flags, sequence, portid)
    return head + family + attributes


def flow_message(kind: str, family: bytes, attributes: dict[str, bytes]) -> bytes:
    """A message about a flow from its attributes, in the kernel's order."""
    get = attributes.get
    return message(kind, family, b"".join([get(name, b"") for name in _LAYOUTS[kind]]))


def flow_key(facts: Facts) -> bytes:
    """The key of a flow: family, original tuple, zone."""
    head = family_of(facts.orig)
    return head + attribute("TUPLE_ORIG", facts) + attribute("ZONE", facts)


def ways_of(facts: Facts) -> tuple[Zoned, Zoned]:
    """The tuples of both directions, by which packets find the flow."""
    orig, reply, zone = facts.orig, facts.reply, facts.zone
    return (
        (orig._replace(zone=0), zone or orig.zone),
        (reply._replace(zone=0), zone or reply.zone),
    )


def expectation_key(expected: Expected) -> bytes:
    """The key of an expectation as the kernel writes it: family, tuple, mask."""
    head = family_of(expected.way)
    return head + way_tlv(2, expected.way) + way_tlv(3, expected.mask)


def expectation_message(
    kind: str, expected: Expected, ident: int, timeout: int
) -> bytes:
    """A whole message about an expectation."""
    parts = [way_tlv(2, expected.way), way_tlv(3, expected.mask)]
    parts.append(way_tlv(1, expected.master))
    if expected.nat is not None:
        direction, saved = expected.nat
        parts.append(nested(10, number(1, direction), way_tlv(2, saved)))
    parts += (number(4, timeout), number(5, ident))
    parts += (number(8, expected.flags), number(9, expected.class_))
    parts.append(tlv(6, expected.helper.encode() + b"\0"))
    if expected.function:
        parts.append(tlv(11, expected.function.encode() + b"\0"))
    return message(kind, family_of(expected.way), b"".join(parts))
