"""A body becomes a request that the kernel accepts and that works.

In: key and body of a record (the kernel's own attribute bytes). Out: whole netlink
messages that create, update, delete or look up that flow or expectation. The rules:

- STATUS keeps SEEN_REPLY, ASSURED and HELPER, plus CONFIRMED, and FIXED_TIMEOUT with
  just the time that is left (`has_fixed_timer`). EXPECTED stays away from a create (the
  master sets it) and must stay as it is in an update.
- TCP: state and window scale as they are; of the flags only window scale, sack and
  close-init, plus BE_LIBERAL, because this kernel has not seen the packets in flight.
  The scale of a client that has not been answered takes a detour (`protoinfo_to_send`).
- A translated flow is created from its untranslated reply tuple plus NAT ranges that
  lead back to the real one: the kernel sets its NAT bits only if a range changes it.
- GRE gets FIXED_TIMEOUT and a long timer: an injected entry has per-flow timers of 0
  and would end with its first packet. The bit cannot be cleared.
- A timer is what is left of the stored one, unless that is not the real one: packets
  refresh timers, and ACKs restore those of TCP, without an event (`remaining_s`).
- Everything else passes through; no message names an ID of another kernel.
"""

from collections.abc import Sequence
from struct import Struct

from syncd.errors import RecordError
from syncd.flows import nla
from syncd.flows.likeness import OFFLOADED
from syncd.flows.protoinfo import (
    ESTABLISHED,
    doubted_s,
    is_lenient,
    keeps_scales,
    protoinfo_to_send,
)
from syncd.flows.record import (
    CTA_EXPECT_CLASS,
    CTA_EXPECT_FLAGS,
    CTA_EXPECT_FN,
    CTA_EXPECT_HELP_NAME,
    CTA_EXPECT_MASTER,
    CTA_EXPECT_NAT,
    CTA_EXPECT_TIMEOUT,
    CTA_HELP,
    CTA_HELP_NAME,
    CTA_ID,
    CTA_IP_V4_DST,
    CTA_IP_V4_SRC,
    CTA_IP_V6_DST,
    CTA_IP_V6_SRC,
    CTA_LABELS,
    CTA_MARK,
    CTA_NAT_DST,
    CTA_NAT_PROTO,
    CTA_NAT_SRC,
    CTA_NAT_V4_MINIP,
    CTA_NAT_V6_MINIP,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_ICMP_ID,
    CTA_PROTO_ICMPV6_ID,
    CTA_PROTO_SRC_PORT,
    CTA_PROTOINFO,
    CTA_PROTONAT_PORT_MAX,
    CTA_PROTONAT_PORT_MIN,
    CTA_SEQ_ADJ_ORIG,
    CTA_SEQ_ADJ_REPLY,
    CTA_STATUS,
    CTA_SYNPROXY,
    CTA_TIMEOUT,
    CTA_TUPLE_IP,
    CTA_TUPLE_MASTER,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_TUPLE_ZONE,
    CTA_ZONE,
    EXPECTATION,
    ZEROS,
)
from syncd.flows.timers import DEFAULTS, Timers

# include/uapi/linux/netfilter/nf_conntrack_common.h
EXPECTED, CONFIRMED, SRC_NAT, DST_NAT = 0x1, 0x8, 0x10, 0x20
FIXED_TIMEOUT, HELPER, NAT_CLASH = 0x400, 0x2000, 0x1000
NAT_BITS, KEPT_BITS = 0x30, 0x2006

REQUEST, EXCL, CREATE = 0x1, 0x200, 0x400
CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102
EXP_NEW, EXP_GET, EXP_DELETE = 0x200, 0x201, 0x202

GRE_TIMEOUT_S = 432_000
OFFLOADED_TIMEOUT_S = 300
REFRESH_FLOOR_S = 60
LARGEST_RECORD = 4096

_HEADER, _BE32 = Struct("<IHHII"), Struct(">I")
_IPPROTO_TCP, _IPPROTO_GRE, _AF_INET = 6, 47, 2
_SENT_TO_CREATE = (
    CTA_PROTOINFO,
    CTA_HELP,
    CTA_LABELS,
    CTA_TUPLE_MASTER,
    CTA_SEQ_ADJ_ORIG,
    CTA_SEQ_ADJ_REPLY,
    CTA_SYNPROXY,
    CTA_MARK,
)
_SENT_TO_UPDATE = (
    CTA_PROTOINFO,
    CTA_LABELS,
    CTA_SEQ_ADJ_ORIG,
    CTA_SEQ_ADJ_REPLY,
    CTA_SYNPROXY,
)
_SENT_ONCE = (CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY, CTA_SYNPROXY)
_SENT_TO_EXPECT = (
    CTA_EXPECT_MASTER,
    CTA_EXPECT_NAT,
    CTA_EXPECT_FLAGS,
    CTA_EXPECT_CLASS,
    CTA_EXPECT_HELP_NAME,
    CTA_EXPECT_FN,
)
# Registered for no family and for UDP (net/netfilter/nf_conntrack_h323_main.c), while
# its flows are TCP: only an expectation brings it.
_UNATTACHABLE = b"H.245\0"
_SWAPPED_ENDS = (
    (CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT),
    (CTA_PROTO_DST_PORT, CTA_PROTO_SRC_PORT),
    (CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_ID),
    (CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_ID),
)
_TUPLE_TYPES = (b"\x01\x80", b"\x02\x80")
NO_MARK, NO_LABELS = ZEROS[CTA_MARK], nla.tlv(CTA_LABELS, bytes(16))


def is_expectation(key: bytes) -> bool:
    """Does the key begin with CTA_EXPECT_TUPLE instead of CTA_TUPLE_ORIG?"""
    return key[6:7] == bytes((EXPECTATION,))


def remaining_s(
    stored_s: int | None,
    elapsed_s: float,
    doubted_s: int = 0,
    established_s: int = DEFAULTS.established_s,
) -> int:
    """The timeout to give to a record that was told `elapsed_s` ago.

    Packets that only refresh a timer raise no event, so a busy flow's stored timeout
    looks older than it is. A flow that its owner has not ended is therefore granted
    at least a minute, or its whole timeout if that is shorter, and at least 1 second.

    `doubted_s` is that of its PROTOINFO. If there is one, the flow is an established
    TCP connection: a stored timeout up to it counts as that of a silent connection
    (`established_s`), and one of which less than half is left, or less than a minute,
    was refreshed.
    """
    if stored_s is None:
        return OFFLOADED_TIMEOUT_S
    if not doubted_s:
        return max(stored_s - int(elapsed_s), min(stored_s, REFRESH_FLOOR_S), 1)
    if stored_s <= doubted_s:
        stored_s = established_s
    left_s = stored_s - int(elapsed_s)
    return left_s if left_s >= max(stored_s / 2, REFRESH_FLOOR_S) else stored_s


def estimate_s(
    key: bytes, body: bytes, elapsed_s: float, timers: Timers = DEFAULTS
) -> int:
    """`remaining_s` of a record, whatever its kind and layout.

    What a flow table carries has a timer of that table, or shows none: it gets that
    which the kernel sets when it leaves the table.
    """
    stored_s = stored_timeout_s(key, body)
    if is_expectation(key):
        return remaining_s(stored_s, elapsed_s)
    if stored_s is None or status_word(nla.attributes(body)) & OFFLOADED:
        return timers.offloaded_s(_number(key))
    if stored_s is not None and has_fixed_timer(body):
        return max(stored_s - int(elapsed_s), 1)
    protoinfo = nla.attributes(body).get(CTA_PROTOINFO, b"")
    short_s = doubted_s(protoinfo, timers) if protoinfo else 0
    return remaining_s(stored_s, elapsed_s, short_s, timers.established_s)


def has_fixed_timer(body: bytes) -> bool:
    """Does no packet refresh the timer of this flow, because somebody wanted it so?

    Of GRE the bit is ours; with NAT_CLASH it is the kernel's, on a flow of one second.
    """
    status = status_word(nla.attributes(body))
    if status & (FIXED_TIMEOUT | NAT_CLASH) != FIXED_TIMEOUT:
        return False
    return not _is_gre(body)


def create(
    key: bytes, body: bytes, timeout_s: int, sequence: int, leave_out: int = 0
) -> bytes:
    """Create the record; EEXIST if it is there.

    `leave_out` has bit (1 << type) set for each attribute to do without.
    """
    if is_expectation(key):
        flags = REQUEST | CREATE | EXCL
        return _expect(key, body, timeout_s, sequence, flags)
    _require_tuple(key)
    attributes = nla.attributes(body)
    if CTA_TUPLE_REPLY not in attributes:
        raise RecordError("flow without a reply tuple")
    status, bits = status_word(attributes), CONFIRMED
    if _number(key) == _IPPROTO_GRE:
        timeout_s, bits = GRE_TIMEOUT_S, CONFIRMED | FIXED_TIMEOUT
    elif has_fixed_timer(body):
        bits |= FIXED_TIMEOUT
    if status & OFFLOADED and _number(key) == _IPPROTO_TCP:
        attributes.setdefault(CTA_PROTOINFO, ESTABLISHED)
    reply, ranges = untranslate(key, attributes[CTA_TUPLE_REPLY], status)
    parts = [key, reply, be32(CTA_STATUS, status & KEPT_BITS | bits)]
    parts.append(be32(CTA_TIMEOUT, timeout_s))
    parts += _passed(attributes, _SENT_TO_CREATE, leave_out)
    return _message(CT_NEW, REQUEST | CREATE | EXCL, sequence, *parts, ranges)


def update(
    key: bytes,
    body: bytes,
    timeout_s: int,
    sequence: int,
    held: bytes = b"",
    leave_out: int = 0,
    masks: bytes = b"",
) -> bytes:
    """Bring the kernel's record to the state of `body`; ENOENT if it is not there.

    `held` is the kernel's present body, if known: status bits can only be added, and
    EXPECTED must be as it is there. No NAT and no MASTER: the kernel would refuse.
    HELP only if it is there: it has the helper pick up the conversation anew (see
    `refresh`). No TIMEOUT for GRE: FIXED_TIMEOUT forbids it. A refused message may
    still have changed the entry. `masks` are the attributes that say which bits of mark
    and labels are meant.
    """
    if is_expectation(key):
        return _expect(key, body, timeout_s, sequence, REQUEST | CREATE)
    _require_tuple(key)
    attributes, there = nla.attributes(body), nla.attributes(held)
    status = status_word(attributes) & (KEPT_BITS | EXPECTED) | CONFIRMED
    if CTA_STATUS in there:
        present = status_word(there)
        status = status & ~EXPECTED | present & (KEPT_BITS | EXPECTED)
        if present & FIXED_TIMEOUT:
            leave_out |= 1 << CTA_TIMEOUT
    if has_fixed_timer(body):
        status |= FIXED_TIMEOUT
    if CTA_LABELS in there:
        attributes.setdefault(CTA_LABELS, NO_LABELS)
    parts = [key]
    if CTA_STATUS in attributes and not leave_out >> CTA_STATUS & 1:
        parts.append(be32(CTA_STATUS, status))
    if _number(key) != _IPPROTO_GRE and not leave_out >> CTA_TIMEOUT & 1:
        parts.append(be32(CTA_TIMEOUT, timeout_s))
    parts += _passed(attributes, _SENT_TO_UPDATE, leave_out)
    if CTA_HELP in there:
        parts += _passed(attributes, (CTA_HELP,), leave_out)
    parts.append(attributes.get(CTA_MARK, NO_MARK if CTA_MARK in there else b""))
    return _message(CT_NEW, REQUEST, sequence, *parts, masks)


def refresh(
    key: bytes, timeout_s: int, sequence: int, held: bytes = b"", leave_out: int = 0
) -> bytes:
    """Set the timer of a flow that is `held` alike; ENOENT if it is not there.

    What this kernel remembers of the packets is from when it saw them last: TCP gets
    BE_LIBERAL, or the acknowledgement of a byte that went another way is invalid; and
    a helper that is named again forgets where the next line was to begin
    (`nf_ct_ftp_from_nlattr` in net/netfilter/nf_conntrack_ftp.c).
    """
    _require_tuple(key)
    there = nla.attributes(held)
    parts = [key]
    fixed = status_word(there) & FIXED_TIMEOUT
    if not fixed and not leave_out >> CTA_TIMEOUT & 1:
        parts.append(be32(CTA_TIMEOUT, timeout_s))
    if CTA_PROTOINFO in there and not is_lenient(there[CTA_PROTOINFO]):
        parts.append(protoinfo_to_send(there[CTA_PROTOINFO]))
    parts += _passed(there, (CTA_HELP,), leave_out)
    return _message(CT_NEW, REQUEST, sequence, *parts)


def delete(key: bytes, sequence: int, ident: bytes = b"") -> bytes:
    """Delete the record. Never a flush: a key without a tuple is a RecordError.

    With its CTA_ID only this life of a flow is deleted, and none that came after it.
    """
    _require_tuple(key)
    if is_expectation(key):
        return _message(EXP_DELETE, REQUEST, sequence, key)
    exact = nla.tlv(CTA_ID, ident) if ident else b""
    return _message(CT_DELETE, REQUEST, sequence, key, exact)


def delete_reply(key: bytes, body: bytes, sequence: int) -> bytes:
    """Delete whichever flow holds this flow's (translated) reply tuple."""
    _require_tuple(key)
    attributes = nla.attributes(body)
    if CTA_TUPLE_REPLY not in attributes:
        raise RecordError("flow without a reply tuple")
    zone = nla.attributes(key, 4).get(CTA_ZONE, b"")
    reply = attributes[CTA_TUPLE_REPLY]
    return _message(CT_DELETE, REQUEST, sequence, key[:4], reply, zone)


def lookup(key: bytes, sequence: int) -> bytes:
    """Ask the kernel for the record; ENOENT if it is not there."""
    _require_tuple(key)
    kind = EXP_GET if is_expectation(key) else CT_GET
    return _message(kind, REQUEST, sequence, key)


def same_tuples(body: bytes, held: bytes) -> bool:
    """Can the kernel's entry become this flow by an update?

    A reply tuple never changes, an entry with the right tuple but without its NAT bits
    does not translate, a helper cannot be attached to an entry that exists, and a
    window scale that is not used cannot be taken back. Of GRE one bit will do: where
    only the key is another, the kernel sets none when it is told the reply tuple.
    """
    ours, theirs = nla.attributes(body), nla.attributes(held)
    if _helper(ours) not in (b"", _UNATTACHABLE, _helper(theirs)):
        return False
    told, there = (attributes.get(CTA_PROTOINFO, b"") for attributes in (ours, theirs))
    if told and there and keeps_scales(told, there):
        return False
    wanted, present = status_word(ours) & NAT_BITS, status_word(theirs) & NAT_BITS
    return ours.get(CTA_TUPLE_REPLY) == theirs.get(CTA_TUPLE_REPLY) and (
        wanted == present or (bool(wanted and present) and _is_gre(body))
    )


def same_content(body: bytes, held: bytes) -> bool:
    """Is there nothing in the body, but for its timer, that an update would change?"""
    ours, theirs = nla.attributes(body), nla.attributes(held)
    wanted = status_word(ours) & KEPT_BITS
    if has_fixed_timer(body):
        wanted |= FIXED_TIMEOUT
    if wanted & ~status_word(theirs):
        return False
    if CTA_PROTOINFO in ours and (
        CTA_PROTOINFO not in theirs
        or protoinfo_to_send(ours[CTA_PROTOINFO])
        != protoinfo_to_send(theirs[CTA_PROTOINFO])
    ):
        return False
    return (
        ours.get(CTA_MARK, NO_MARK) == theirs.get(CTA_MARK, NO_MARK)
        and ours.get(CTA_LABELS, NO_LABELS) == theirs.get(CTA_LABELS, NO_LABELS)
        and all(ours[kind] == theirs.get(kind) for kind in _SENT_ONCE if kind in ours)
    )


def stored_timeout_s(key: bytes, body: bytes) -> int | None:
    """The timeout that the body was told with; None in a dump of an offloaded flow."""
    kind = CTA_EXPECT_TIMEOUT if is_expectation(key) else CTA_TIMEOUT
    raw = nla.attributes(body).get(kind)
    return None if raw is None else int.from_bytes(raw[4:8], "big")


def untranslate(key: bytes, reply: bytes, status: int) -> tuple[bytes, bytes]:
    """The reply tuple as without NAT, and the ranges that lead to the real one.

    Ports are always given, also when unchanged: an exact pair, so that the kernel does
    not search for a free one. GRE keeps its real keys: no range is applied to them.
    """
    if not status & NAT_BITS:
        return reply, b""
    _, from_addresses, from_ends = _tuple(key, 4)
    zone, addresses, ends = _tuple(reply, 0)
    source, destination, minimum = CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_NAT_V4_MINIP
    if CTA_IP_V6_SRC in addresses:
        source, destination, minimum = CTA_IP_V6_SRC, CTA_IP_V6_DST, CTA_NAT_V6_MINIP
    try:
        swapped = nla.nested(
            CTA_TUPLE_IP,
            nla.tlv(source, from_addresses[destination]),
            nla.tlv(destination, from_addresses[source]),
        )
        real_source, real_destination = addresses[source], addresses[destination]
    except KeyError as error:
        raise RecordError("translated flow without an address") from error
    taken = dict(ends)
    if _number(key) != _IPPROTO_GRE:
        taken |= {to: from_ends[of] for to, of in _SWAPPED_ENDS if of in from_ends}
    protocol = nla.nested(CTA_TUPLE_PROTO, *(nla.tlv(*end) for end in taken.items()))
    ident = ends.get(CTA_PROTO_ICMP_ID) or ends.get(CTA_PROTO_ICMPV6_ID)
    ranges = b""
    if status & SRC_NAT:
        port = ends.get(CTA_PROTO_DST_PORT, ident)
        ranges += nat_range(CTA_NAT_SRC, minimum, real_destination, port)
    if status & DST_NAT:
        port = ends.get(CTA_PROTO_SRC_PORT, ident)
        ranges += nat_range(CTA_NAT_DST, minimum, real_source, port)
    return nla.nested(CTA_TUPLE_REPLY, swapped, protocol, zone), ranges


def nat_range(kind: int, minimum: int, address: bytes, port: bytes | None) -> bytes:
    """CTA_NAT_SRC or CTA_NAT_DST with room for exactly one address and port."""
    parts = [nla.tlv(minimum, address), nla.tlv(minimum + 1, address)]
    if port is not None:
        ends = (CTA_PROTONAT_PORT_MIN, CTA_PROTONAT_PORT_MAX)
        parts.append(nla.nested(CTA_NAT_PROTO, *(nla.tlv(end, port) for end in ends)))
    return nla.nested(kind, *parts)


def _helper(attributes: dict[int, bytes]) -> bytes:
    """The name in CTA_HELP, b"" if there is none."""
    return nla.values(attributes.get(CTA_HELP, b"")[4:]).get(CTA_HELP_NAME, b"")


def status_word(attributes: dict[int, bytes]) -> int:
    """The value of CTA_STATUS, 0 if there is none."""
    return int.from_bytes(attributes.get(CTA_STATUS, b"")[4:8], "big")


def be32(kind: int, value: int) -> bytes:
    """An attribute that holds a number of 32 bits."""
    return nla.tlv(kind, _BE32.pack(value))


def _tuple(data: bytes, start: int) -> tuple[bytes, dict[int, bytes], dict[int, bytes]]:
    """A tuple's zone as an attribute, the values of its addresses and of its ends."""
    end = start + int.from_bytes(data[start : start + 2], "little")
    parts = nla.attributes(data, start + 4, end)
    addresses, ends = parts.get(CTA_TUPLE_IP, b""), parts.get(CTA_TUPLE_PROTO, b"")
    zone = parts.get(CTA_TUPLE_ZONE, b"")
    return zone, nla.values(addresses[4:]), nla.values(ends[4:])


def _passed(
    attributes: dict[int, bytes], kinds: Sequence[int], leave_out: int
) -> list[bytes]:
    """The attributes of these kinds, fit for the kernel."""
    parts = []
    for kind in kinds:
        if kind in attributes and not leave_out >> kind & 1:
            raw = attributes[kind]
            parts.append(protoinfo_to_send(raw) if kind == CTA_PROTOINFO else raw)
    return parts


def _expect(
    key: bytes, body: bytes, timeout_s: int, sequence: int, flags: int
) -> bytes:
    """An expectation, which may or must not be there; what is there gets the timer."""
    _require_tuple(key)
    attributes = nla.attributes(body)
    parts = [attributes[kind] for kind in _SENT_TO_EXPECT if kind in attributes]
    timer = be32(CTA_EXPECT_TIMEOUT, timeout_s)
    return _message(EXP_NEW, flags, sequence, key, *parts, timer)


def _require_tuple(key: bytes) -> None:
    """A request without its tuple would concern everything: a delete would flush."""
    length = int.from_bytes(key[4:6], "little")
    if length < 28 or 4 + length > len(key) or key[6:8] not in _TUPLE_TYPES:
        raise RecordError("key without a tuple")


def _is_gre(body: bytes) -> bool:
    """By the protocol of its reply tuple."""
    at = 32 if body[10:11] == bytes((CTA_IP_V4_SRC,)) else 56
    return body[at : at + 1] == bytes((_IPPROTO_GRE,))


def _number(key: bytes) -> int:
    """The layer 4 protocol of a flow."""
    at = 36 if key[0] == _AF_INET else 60
    return int.from_bytes(key[at : at + 1], "big")


def _message(kind: int, flags: int, sequence: int, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    if len(payload) & 3 or len(payload) > LARGEST_RECORD:
        raise RecordError(f"record of {len(payload)} bytes")
    return _HEADER.pack(16 + len(payload), kind, flags, sequence, 0) + payload
