"""Who am I? A ctnetlink message comes in, a record goes out.

A record is a tuple (kind, key, body, ident, mask), all bytes as the kernel wrote them:

    key    nfgenmsg (4 bytes), CTA_TUPLE_ORIG [, CTA_ZONE] of a flow;
           nfgenmsg, CTA_EXPECT_TUPLE, CTA_EXPECT_MASK [, CTA_EXPECT_ZONE] of an
           expectation. key[6] tells them apart: FLOW or EXPECTATION
    body   the other attributes that are replicated, in one canonical order
    ident  the 4 bytes of CTA_ID, or b""
    mask   1 << type of each attribute in the body, and CANONICAL

Left out: ID, USE, counters, timestamps, security marks; a mark of 0 and a SYNPROXY of
zeros too, for dumps have them always and events never. Only an UPDATE keeps such a
zero: it overrides, and `merge` drops it. The mask of that UPDATE lacks CANONICAL, which
each other mask has, so `stored & ~new == 0` is the whole test for "the new body has all
that the stored one has and may stand in its place".

The rule: the kernel writes few shapes of messages. The first of a shape is walked and
leaves a layout: which attribute headers sit where, which bytes are key, body, ident.
A later message with exactly these headers is cut by slices, without a walk.
"""

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from operator import itemgetter
from struct import Struct
from struct import error as StructError  # noqa: N812 - an exception by its name
from typing import Final

from syncd.errors import RecordError
from syncd.flows.nla import attributes, tlv, walk

Record = tuple[int, bytes, bytes, bytes, int]

# Kinds of records. A DUMP is the reply to a dump or to a GET.
NEW, UPDATE, END, DUMP, EXP_NEW, EXP_END, EXP_DUMP = range(7)

# What key[6] is: the low byte of the first attribute's type.
FLOW: Final = 1
EXPECTATION: Final = 2

CANONICAL: Final = 1  # the bit of CTA_UNSPEC, which no message has

# linux/netfilter/nfnetlink_conntrack.h
CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_PROTOINFO: Final = 4
CTA_HELP: Final = 5
CTA_NAT_SRC: Final = 6
CTA_TIMEOUT: Final = 7
CTA_MARK: Final = 8
CTA_COUNTERS_ORIG: Final = 9
CTA_COUNTERS_REPLY: Final = 10
CTA_USE: Final = 11
CTA_ID: Final = 12
CTA_NAT_DST: Final = 13
CTA_TUPLE_MASTER: Final = 14
CTA_SEQ_ADJ_ORIG: Final = 15
CTA_SEQ_ADJ_REPLY: Final = 16
CTA_SECMARK: Final = 17
CTA_ZONE: Final = 18
CTA_SECCTX: Final = 19
CTA_TIMESTAMP: Final = 20
CTA_MARK_MASK: Final = 21
CTA_LABELS: Final = 22
CTA_LABELS_MASK: Final = 23
CTA_SYNPROXY: Final = 24
CTA_FILTER: Final = 25
CTA_STATUS_MASK: Final = 26
CTA_TIMESTAMP_EVENT: Final = 27

CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
CTA_TUPLE_ZONE: Final = 3
CTA_IP_V4_SRC: Final = 1
CTA_IP_V4_DST: Final = 2
CTA_IP_V6_SRC: Final = 3
CTA_IP_V6_DST: Final = 4
CTA_PROTO_NUM: Final = 1
CTA_PROTO_SRC_PORT: Final = 2
CTA_PROTO_DST_PORT: Final = 3
CTA_PROTO_ICMP_ID: Final = 4
CTA_PROTO_ICMP_TYPE: Final = 5
CTA_PROTO_ICMP_CODE: Final = 6
CTA_PROTO_ICMPV6_ID: Final = 7
CTA_PROTO_ICMPV6_TYPE: Final = 8
CTA_PROTO_ICMPV6_CODE: Final = 9
CTA_PROTOINFO_TCP: Final = 1
CTA_PROTOINFO_DCCP: Final = 2
CTA_PROTOINFO_SCTP: Final = 3
CTA_PROTOINFO_TCP_STATE: Final = 1
CTA_PROTOINFO_TCP_WSCALE_ORIGINAL: Final = 2
CTA_PROTOINFO_TCP_WSCALE_REPLY: Final = 3
CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: Final = 4
CTA_PROTOINFO_TCP_FLAGS_REPLY: Final = 5
CTA_PROTOINFO_SCTP_STATE: Final = 1
CTA_PROTOINFO_SCTP_VTAG_ORIGINAL: Final = 2
CTA_PROTOINFO_SCTP_VTAG_REPLY: Final = 3
CTA_HELP_NAME: Final = 1
CTA_NAT_V4_MINIP: Final = 1
CTA_NAT_V4_MAXIP: Final = 2
CTA_NAT_PROTO: Final = 3
CTA_NAT_V6_MINIP: Final = 4
CTA_NAT_V6_MAXIP: Final = 5
CTA_PROTONAT_PORT_MIN: Final = 1
CTA_PROTONAT_PORT_MAX: Final = 2
CTA_SEQADJ_CORRECTION_POS: Final = 1
CTA_SEQADJ_OFFSET_BEFORE: Final = 2
CTA_SEQADJ_OFFSET_AFTER: Final = 3
CTA_SYNPROXY_ISN: Final = 1
CTA_SYNPROXY_ITS: Final = 2
CTA_SYNPROXY_TSOFF: Final = 3

CTA_EXPECT_MASTER: Final = 1
CTA_EXPECT_TUPLE: Final = 2
CTA_EXPECT_MASK: Final = 3
CTA_EXPECT_TIMEOUT: Final = 4
CTA_EXPECT_ID: Final = 5
CTA_EXPECT_HELP_NAME: Final = 6
CTA_EXPECT_ZONE: Final = 7
CTA_EXPECT_FLAGS: Final = 8
CTA_EXPECT_CLASS: Final = 9
CTA_EXPECT_NAT: Final = 10
CTA_EXPECT_FN: Final = 11
CTA_EXPECT_NAT_DIR: Final = 1
CTA_EXPECT_NAT_TUPLE: Final = 2

# The canonical orders of bodies: that of events, where most bytes are neighbours.
FLOW_ORDER = (
    CTA_TUPLE_REPLY,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_PROTOINFO,
    CTA_HELP,
    CTA_LABELS,
    CTA_TUPLE_MASTER,
    CTA_SEQ_ADJ_ORIG,
    CTA_SEQ_ADJ_REPLY,
    CTA_SYNPROXY,
    CTA_MARK,
)
EXPECTATION_ORDER = (
    CTA_EXPECT_MASTER,
    CTA_EXPECT_NAT,
    CTA_EXPECT_TIMEOUT,
    CTA_EXPECT_FLAGS,
    CTA_EXPECT_CLASS,
    CTA_EXPECT_HELP_NAME,
    CTA_EXPECT_FN,
)

# Attributes that say nothing in this very form.
ZEROS = {
    CTA_MARK: bytes.fromhex("08000800 00000000"),
    CTA_SYNPROXY: bytes.fromhex(
        "1c001880 08000100 00000000 08000200 00000000 08000300 00000000"
    ),
}

_FLOW_KEY = (CTA_TUPLE_ORIG, CTA_ZONE)
_FLOW_NEEDS = (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
_FLOW_SIZES = {CTA_STATUS: 4, CTA_TIMEOUT: 4, CTA_MARK: 4, CTA_ID: 4, CTA_ZONE: 2}
_EXPECTATION_KEY = (CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_ZONE)
_EXPECTATION_NEEDS = (CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_MASTER)
_EXPECTATION_SIZES = {
    CTA_EXPECT_TIMEOUT: 4,
    CTA_EXPECT_FLAGS: 4,
    CTA_EXPECT_CLASS: 4,
    CTA_EXPECT_ID: 4,
    CTA_EXPECT_ZONE: 2,
}

_HEADER = Struct("<IHHII")
_NLM_F_MULTI = 0x0002
_NLM_F_CREATE_EXCL = 0x0600
_NFGEN = 16  # where nfgenmsg starts
_FIRST = 20  # where the attributes start
_HEAD = 24  # nlmsghdr, nfgenmsg and the first attribute's header

_LAYOUTS_MAX = 512
_LAYOUTS_OF_A_HEAD_MAX = 16
_ALIASES_MAX = 256
_NO_SEQUENCE_NO_PORTID = bytes(8)

# How a layout cuts. PLAIN: key, first of body, ident, rest of body, in this order.
# ZONED: key, first of body, zone, ident, rest of body. PIECES: anything else.
_PLAIN, _ZONED, _PIECES = range(3)

_Cut = Callable[[bytes], tuple[bytes, ...]]
_Layout = tuple[
    Callable[[bytes], tuple[object, ...]],  # reads what decides the shape
    tuple[object, ...],  # what it has to be
    int,  # how to cut
    _Cut,  # all pieces; of PIECES those of the body
    _Cut,  # of PIECES: those of key and ident
    int,  # kind
    int,  # mask
]


class RecordReader:
    """Reads messages of one kernel and remembers the shapes they come in."""

    __slots__ = (
        "_aliases",
        "_layouts",
        "_learned",
        "echoes",
        "ignored",
        "malformed",
        "own_portids",
    )

    def __init__(self) -> None:
        self.own_portids: set[int] = set()  # events of these are our own doing
        self.echoes = 0  # messages left out for that
        self.malformed = 0
        self.ignored = 0  # messages that are not about flows or expectations
        self._layouts: dict[bytes, list[_Layout]] = {}
        self._learned = 0
        self._aliases: list[bytes] = []

    def read(self, messages: Sequence[bytes]) -> list[Record]:
        """Records of whole netlink messages, in order; never raises."""
        records: list[Record] = []
        append = records.append
        layouts_of = self._layouts.get
        for message in messages:
            # An event of a known shape has neither sequence nor portid: no echo.
            try:
                for check, wanted, way, cut, cut_key, kind, mask in layouts_of(
                    message[:24], ()
                ):
                    if check(message) == wanted:
                        if way == 0:
                            key, first, ident, rest = cut(message)
                            append((kind, key, first + rest, ident, mask))
                        elif way == 1:
                            key, first, zone, ident, rest = cut(message)
                            append((kind, key + zone, first + rest, ident, mask))
                        else:
                            ident, *parts = cut_key(message)
                            body = b"".join(cut(message))
                            append((kind, b"".join(parts), body, ident, mask))
                        break
                else:
                    record = self._read_unknown(message)
                    if record is not None:
                        append(record)
            except (RecordError, StructError):  # StructError: nlmsg_len is a lie
                self.malformed += 1
        return records

    def read_one(self, message: bytes) -> Record:
        """The record of one message, by a walk; RecordError if it is not one."""
        kind, places = _survey(message)
        zeros = frozenset(
            attribute
            for attribute in _decisive(places)
            if message[slice(*places[attribute])] == ZEROS[attribute]
        )
        key, body, ident, mask = _plan(kind, places, zeros)
        return (
            kind,
            b"".join([message[begin:end] for begin, end in key]),
            b"".join([message[begin:end] for begin, end in body]),
            message[ident[0] : ident[1]],
            mask,
        )

    def _read_unknown(self, message: bytes) -> Record | None:
        """A message whose head or whose headers no layout has so far."""
        if len(message) < _HEAD:
            if len(message) >= 16 and message[5] not in (1, 2):
                self.ignored += 1
                return None
            raise RecordError(f"message of {len(message)} bytes")
        _, kind_of_message, flags, _, portid = _HEADER.unpack_from(message)
        kind = _kind(kind_of_message, flags)
        if kind is None:
            self.ignored += 1
            return None
        is_reply = kind in (DUMP, EXP_DUMP)
        if portid in self.own_portids and not is_reply:
            self.echoes += 1
            return None
        head = message[:8] + _NO_SEQUENCE_NO_PORTID + message[16:_HEAD]
        if head != message[:_HEAD]:
            for layout in self._layouts.get(head, ()):
                if layout[0](message) == layout[1]:
                    if is_reply:
                        self._add_alias(message[:_HEAD], head)
                    return _apply(layout, message)
        record = self.read_one(message)
        self._learn(head, message)
        return record

    def _learn(self, head: bytes, message: bytes) -> None:
        known = self._layouts.setdefault(head, [])
        layouts = _layouts_of(message)
        if (
            self._learned + len(layouts) <= _LAYOUTS_MAX
            and len(known) + len(layouts) <= _LAYOUTS_OF_A_HEAD_MAX
        ):
            known.extend(layouts)
            self._learned += len(layouts)

    def _add_alias(self, message_head: bytes, head: bytes) -> None:
        """Let the rest of this dump, same sequence and portid, find its layouts."""
        if len(self._aliases) >= _ALIASES_MAX:
            for alias in self._aliases:
                del self._layouts[alias]
            self._aliases.clear()
        if message_head not in self._layouts:
            self._layouts[message_head] = self._layouts[head]
            self._aliases.append(message_head)


def merge(old_body: bytes, new_body: bytes) -> tuple[bytes, int]:
    """A flow's body with the attributes of an UPDATE laid over it, and its mask."""
    present = attributes(old_body)
    present.update(attributes(new_body))
    parts = []
    mask = CANONICAL
    for attribute in FLOW_ORDER:
        part = present.get(attribute)
        if part is not None and part != ZEROS.get(attribute):
            parts.append(part)
            mask |= 1 << attribute
    return b"".join(parts), mask


def mask_of(body: bytes) -> int:
    """The mask of a stored body."""
    mask = CANONICAL
    for attribute, _, _, _ in walk(body):
        mask |= 1 << attribute
    return mask


def status_of(body: bytes) -> int:
    """The value of CTA_STATUS of a flow; 0 if there is none."""
    start = _find(body, CTA_STATUS)
    return int.from_bytes(body[start + 4 : start + 8]) if start >= 0 else 0


def timeout_of(body: bytes) -> int | None:
    """The seconds that were left of a flow; None if the message did not say."""
    start = _find(body, CTA_TIMEOUT)
    return int.from_bytes(body[start + 4 : start + 8]) if start >= 0 else None


def without_timeout(body: bytes) -> bytes:
    """A flow's body without CTA_TIMEOUT: what two messages may be compared by."""
    start = _find(body, CTA_TIMEOUT)
    return body if start < 0 else body[:start] + body[start + 8 :]


def zone_of(flow_key: bytes) -> bytes | None:
    """The 2 bytes of a flow key's CTA_ZONE."""
    end = 4 + (flow_key[4] | flow_key[5] << 8)
    return flow_key[end + 4 : end + 6] if end < len(flow_key) else None


def with_zone(expectation_key: bytes, zone: bytes) -> bytes:
    """The key of an expectation whose master is in a zone (2 bytes)."""
    return expectation_key + tlv(CTA_EXPECT_ZONE, zone)


def master_of(expectation_body: bytes) -> bytes:
    """The flow key of an expectation's master, as far as its zone."""
    return _master(expectation_body, _find(expectation_body, CTA_EXPECT_MASTER))


def related_master(flow_body: bytes) -> bytes | None:
    """The flow key of a related flow's master, as far as its zone."""
    start = _find(flow_body, CTA_TUPLE_MASTER)
    return None if start < 0 else _master(flow_body, start)


def _master(body: bytes, start: int) -> bytes:
    if start < 0 or len(body) < start + 12:
        raise RecordError("no master")
    end = start + (body[start] | body[start + 1] << 8)
    family = b"\x02\0\0\0" if body[start + 10] == CTA_IP_V4_SRC else b"\x0a\0\0\0"
    return family + body[start : start + 2] + b"\x01\x80" + body[start + 4 : end]


def _find(body: bytes, wanted: int) -> int:
    """Where an attribute starts, -1 if nowhere."""
    for attribute, start, _, _ in walk(body):
        if attribute == wanted:
            return start
    return -1


def _kind(message_type: int, flags: int) -> int | None:
    if message_type == 0x0100:
        if flags & _NLM_F_MULTI:
            return DUMP
        return NEW if flags & _NLM_F_CREATE_EXCL else UPDATE
    if message_type == 0x0102:
        return END
    if message_type == 0x0200:
        return EXP_DUMP if flags & _NLM_F_MULTI else EXP_NEW
    return EXP_END if message_type == 0x0202 else None


_Place = tuple[int, int]


def _survey(message: bytes) -> tuple[int, dict[int, _Place]]:
    """The kind of a message and where its attributes start and end."""
    if len(message) < _HEAD:
        raise RecordError(f"message of {len(message)} bytes")
    length, message_type, flags, _, _ = _HEADER.unpack_from(message)
    kind = _kind(message_type, flags)
    if kind is None:
        raise RecordError(f"message of type {message_type:#06x}")
    if length != len(message):
        raise RecordError(f"message of {len(message)} bytes says it has {length}")
    is_flow = kind <= DUMP
    sizes = _FLOW_SIZES if is_flow else _EXPECTATION_SIZES
    places: dict[int, _Place] = {}
    for attribute, start, value, value_end in walk(message, _FIRST):
        if value_end - value != sizes.get(attribute, value_end - value):
            raise RecordError(f"attribute {attribute}: {value_end - value} bytes")
        places[attribute] = (start, value_end + 3 & ~3)
    for attribute in _FLOW_NEEDS if is_flow else _EXPECTATION_NEEDS:
        if attribute not in places:
            raise RecordError(f"attribute {attribute} is missing")
    return kind, places


def _decisive(places: dict[int, _Place]) -> list[int]:
    """Attributes whose value decides the shape, since they may be all zeros."""
    return [
        attribute
        for attribute, zero in ZEROS.items()
        if attribute in places
        and places[attribute][1] - places[attribute][0] == len(zero)
    ]


def _plan(
    kind: int, places: dict[int, _Place], zeros: frozenset[int]
) -> tuple[list[_Place], list[_Place], _Place, int]:
    """Which bytes are key, body and ident, and the mask."""
    nowhere = (0, 0)
    order: tuple[int, ...] = FLOW_ORDER
    key_order: tuple[int, ...] = _FLOW_KEY
    ident = CTA_ID
    if kind > DUMP:
        order, key_order, ident = EXPECTATION_ORDER, _EXPECTATION_KEY, CTA_EXPECT_ID
        zeros = frozenset()
    key = [(_NFGEN, _FIRST)]
    key += [places[attribute] for attribute in key_order if attribute in places]
    mask = CANONICAL if kind != UPDATE or not zeros else 0
    body = []
    for attribute in order:
        if attribute in places and (kind == UPDATE or attribute not in zeros):
            body.append(places[attribute])
            mask |= 1 << attribute
    start, end = places.get(ident, nowhere)
    return _joined(key), _joined(body), (start + 4, end) if end else nowhere, mask


def _joined(places: list[_Place]) -> list[_Place]:
    """The same bytes in fewer pieces."""
    joined: list[_Place] = []
    for start, end in places:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _layouts_of(message: bytes) -> list[_Layout]:
    """Layouts of all messages with these headers, the most particular first.

    Tried in this order, one that does not ask for a zero only meets messages that
    have none.
    """
    kind, places = _survey(message)
    headers = {
        start: message[start : start + 4] for _, start, _, _ in walk(message, 20)
    }
    decisive = _decisive(places) if kind <= DUMP else []
    layouts = []
    for zeros in chain.from_iterable(
        combinations(decisive, count) for count in range(len(decisive), -1, -1)
    ):
        wanted = headers | {places[zero][0]: ZEROS[zero] for zero in zeros}
        layouts.append(_layout(message, kind, places, wanted, frozenset(zeros)))
    return layouts


def _layout(
    message: bytes,
    kind: int,
    places: dict[int, _Place],
    headers: dict[int, bytes],
    zeros: frozenset[int],
) -> _Layout:
    key, body, ident, mask = _plan(kind, places, zeros)
    del headers[_FIRST]  # part of the head by which layouts are found
    check = _struct(
        [(start, start + len(value)) for start, value in headers.items()],
        len(message),
        {4: "I", 8: "Q"},
    )
    sample = bytearray(message)
    for start, value in headers.items():
        sample[start : start + len(value)] = value
    wanted = check.unpack(sample)
    pieces = [key[0], body[0], *key[1:], ident, *body[1:]]
    if len(body) == 2 and len(key) <= 2 and pieces == sorted(pieces):
        cut = _struct(pieces, len(message), {}).unpack
        way = _PLAIN if len(key) == 1 else _ZONED
        return (check.unpack, wanted, way, cut, cut, kind, mask)
    # An empty piece more, for of a single one itemgetter makes no tuple.
    cut_body: _Cut = itemgetter(*(slice(*place) for place in [*body, (0, 0)]))
    cut_key: _Cut = itemgetter(*(slice(*place) for place in [ident, *key]))
    return (check.unpack, wanted, _PIECES, cut_body, cut_key, kind, mask)


def _apply(layout: _Layout, message: bytes) -> Record:
    _, _, way, cut, cut_key, kind, mask = layout
    if way == _PLAIN:
        key, first, ident, rest = cut(message)
        return (kind, key, first + rest, ident, mask)
    if way == _ZONED:
        key, first, zone, ident, rest = cut(message)
        return (kind, key + zone, first + rest, ident, mask)
    ident, *parts = cut_key(message)
    return (kind, b"".join(parts), b"".join(cut(message)), ident, mask)


def _struct(places: list[_Place], length: int, codes: dict[int, str]) -> Struct:
    """Reads the bytes at some places, given in order, of a message of this length."""
    form = "<"
    position = 0
    for start, end in places:
        size = end - start
        form += f"{start - position}x{codes.get(size, f'{size}s')}"
        position = end
    return Struct(f"{form}{length - position}x")
