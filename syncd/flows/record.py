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

from syncd.errors import RecordError
from syncd.flows.nla import attributes, find, tlv, walk

Record = tuple[int, bytes, bytes, bytes, int]

# Kinds of records. A DUMP is the reply to a dump or to a GET.
NEW, UPDATE, END, DUMP, EXP_NEW, EXP_END, EXP_DUMP = range(7)

# What key[6] is: the low byte of the first attribute's type.
FLOW = 1
EXPECTATION = 2

CANONICAL = 1  # the bit of CTA_UNSPEC, which no message has
BY_PROGRAM = 1 << 40  # an END that a program caused: a bit beyond all attributes

# linux/netfilter/nfnetlink_conntrack.h
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY = 1, 2
CTA_STATUS, CTA_STATUS_MASK = 3, 26
CTA_PROTOINFO, CTA_HELP = 4, 5
CTA_NAT_SRC, CTA_NAT_DST = 6, 13
CTA_MARK, CTA_MARK_MASK = 8, 21
CTA_COUNTERS_ORIG, CTA_COUNTERS_REPLY = 9, 10
CTA_USE, CTA_ID = 11, 12
CTA_TUPLE_MASTER = 14
CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY = 15, 16
CTA_SECMARK, CTA_SECCTX = 17, 19
CTA_TIMEOUT, CTA_ZONE = 7, 18
CTA_TIMESTAMP, CTA_TIMESTAMP_EVENT = 20, 27
CTA_LABELS, CTA_LABELS_MASK = 22, 23
CTA_SYNPROXY, CTA_FILTER = 24, 25

CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_TUPLE_ZONE = 1, 2, 3
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE = 4, 5, 6
CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE = 7, 8, 9
CTA_PROTOINFO_TCP, CTA_PROTOINFO_DCCP, CTA_PROTOINFO_SCTP = 1, 2, 3
CTA_PROTOINFO_TCP_STATE, CTA_PROTOINFO_SCTP_STATE = 1, 1
CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, CTA_PROTOINFO_TCP_WSCALE_REPLY = 2, 3
CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY = 4, 5
CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, CTA_PROTOINFO_SCTP_VTAG_REPLY = 2, 3
CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP, CTA_NAT_PROTO = 1, 2, 3
CTA_NAT_V6_MINIP, CTA_NAT_V6_MAXIP = 4, 5
CTA_PROTONAT_PORT_MIN, CTA_PROTONAT_PORT_MAX = 1, 2
CTA_HELP_NAME, CTA_SEQADJ_CORRECTION_POS = 1, 1
CTA_SEQADJ_OFFSET_BEFORE, CTA_SEQADJ_OFFSET_AFTER = 2, 3
CTA_SYNPROXY_ISN, CTA_SYNPROXY_ITS, CTA_SYNPROXY_TSOFF = 1, 2, 3

CTA_EXPECT_MASTER, CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_TIMEOUT = 1, 2, 3, 4
CTA_EXPECT_ID, CTA_EXPECT_HELP_NAME, CTA_EXPECT_ZONE, CTA_EXPECT_FLAGS = 5, 6, 7, 8
CTA_EXPECT_CLASS, CTA_EXPECT_NAT, CTA_EXPECT_FN = 9, 10, 11
CTA_EXPECT_NAT_DIR, CTA_EXPECT_NAT_TUPLE = 1, 2

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

_FLOW_KEY: tuple[int, ...] = (CTA_TUPLE_ORIG, CTA_ZONE)
_FLOW_NEEDS = (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
_FLOW_SIZES = {CTA_STATUS: 4, CTA_TIMEOUT: 4, CTA_MARK: 4, CTA_ID: 4, CTA_ZONE: 2}
_EXPECTATION_KEY = (CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_ZONE)
_EXPECTATION_NEEDS = (CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_MASTER)
_EXPECTATION_SIZES = {CTA_EXPECT_ZONE: 2} | dict.fromkeys(
    (CTA_EXPECT_TIMEOUT, CTA_EXPECT_ID, CTA_EXPECT_FLAGS, CTA_EXPECT_CLASS), 4
)

_STATUS_HEADER = bytes.fromhex("08000300")
_TIMEOUT_HEADER = bytes.fromhex("08000700")
_from_bytes = int.from_bytes
_HEADER = Struct("<IHHII")
_NLM_F_MULTI = 0x0002
_NLM_F_CREATE_EXCL = 0x0600
_NFGEN = 16  # where nfgenmsg starts
_FIRST = 20  # where the attributes start
_HEAD = 24  # nlmsghdr, nfgenmsg and the first attribute's header

_LAYOUTS_MAX = 512
_LAYOUTS_OF_A_HEAD_MAX = 16
_NO_SEQUENCE_NO_PORTID = bytes(8)

# How a layout cuts. PLAIN: key, first of body, ident, rest of body, in this order.
# ZONED: key, first of body, zone, ident, rest of body. PIECES: anything else, picked
# from pieces of which number 0 is empty and number 1 the key (without zone).
_PLAIN, _ZONED, _PIECES = range(3)

_Pick = Callable[[tuple[bytes, ...]], tuple[bytes, ...]]
_Layout = tuple[
    Callable[[bytes], tuple[object, ...]],  # reads what decides the shape
    tuple[object, ...],  # what it has to be
    int,  # how to cut
    Callable[[bytes], tuple[bytes, ...]],  # cuts
    tuple[int, int, _Pick],  # PIECES: numbers of zone and ident, picks the body
    int,  # kind
    int,  # mask
]


class RecordReader:
    """Reads messages of one kernel and remembers the shapes they come in."""

    __slots__ = (
        "_layouts",
        "_layouts_of_programs",
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
        self._layouts_of_programs: dict[bytes, list[_Layout]] = {}
        self._learned = 0

    def read(self, messages: Sequence[bytes]) -> list[Record]:
        """Records of whole netlink messages, in order; never raises."""
        records: list[Record] = []
        append = records.append
        layouts_of = self._layouts.get
        for message in messages:
            # An event that nobody caused has neither sequence nor portid: no echo.
            try:
                head = message[:24]
                for check, wanted, way, cut, numbers, kind, mask in layouts_of(
                    head
                ) or self._of_program(message):
                    if check(message) == wanted:
                        if way == 0:
                            key, first, ident, rest = cut(message)
                            append((kind, key, first + rest, ident, mask))
                        elif way == 1:
                            key, first, zone, ident, rest = cut(message)
                            append((kind, key + zone, first + rest, ident, mask))
                        else:
                            pieces = cut(message)
                            zone_at, ident_at, pick = numbers
                            key = pieces[1] + pieces[zone_at]
                            body = b"".join(pick(pieces))
                            append((kind, key, body, pieces[ident_at], mask))
                        break
                else:
                    record = self._read_unknown(message)
                    if record is not None:
                        append(record)
            except (RecordError, StructError):  # StructError: the length is a lie
                self.malformed += 1
        return records

    def read_one(self, message: bytes) -> Record:
        """The record of one message, by a walk; RecordError if it is not one."""
        kind, places = _survey(message)
        zeros = frozenset(
            attribute
            for attribute in _decisive(kind, places)
            if message[slice(*places[attribute])] == ZEROS[attribute]
        )
        key, body, ident, mask = _plan(kind, places, zeros)
        record = (
            kind,
            b"".join([message[begin:end] for begin, end in key]),
            b"".join([message[begin:end] for begin, end in body]),
            message[ident[0] : ident[1]],
            mask,
        )
        return _caused(record, any(message[12:16]))

    def _read_unknown(self, message: bytes) -> Record | None:
        """A message whose head or whose headers no layout has so far."""
        _, message_type, flags, _, portid = _HEADER.unpack_from(message)
        if (kind := _kind(message_type, flags)) is None:
            self.ignored += 1
            return None
        is_reply = kind in (DUMP, EXP_DUMP)
        if portid in self.own_portids and not is_reply:
            self.echoes += 1
            return None
        record = self.read_one(message)
        self._learn(message[:8] + _NO_SEQUENCE_NO_PORTID + message[16:_HEAD], message)
        return record

    def _of_program(self, message: bytes) -> Sequence[_Layout]:
        """The layouts for a reply, or for an event that a program caused."""
        head = message[:8] + _NO_SEQUENCE_NO_PORTID + message[16:_HEAD]
        layouts = self._layouts_of_programs.get(head, ())
        if self.own_portids and layouts and layouts[0][5] not in (DUMP, EXP_DUMP):
            _, _, _, _, portid = _HEADER.unpack_from(message)
            if portid in self.own_portids:
                return ()
        return layouts

    def _learn(self, head: bytes, message: bytes) -> None:
        known = self._layouts.get(head, [])
        if self._learned < _LAYOUTS_MAX and len(known) < _LAYOUTS_OF_A_HEAD_MAX:
            layouts = _layouts_of(message)
            self._layouts[head] = known
            known.extend(layouts)
            self._layouts_of_programs[head] = [
                (*layout[:6], layout[6] | BY_PROGRAM) if layout[5] == END else layout
                for layout in known
            ]
            self._learned += len(layouts)


def _caused(record: Record, program: bool) -> Record:
    """An END tells whether a program caused it or the kernel."""
    marked = program and record[0] == END
    return (*record[:4], record[4] | BY_PROGRAM) if marked else record


def merge(old_body: bytes, new_body: bytes) -> tuple[bytes, int]:
    """A flow's body with the attributes of an UPDATE laid over it, and its mask."""
    present = attributes(old_body)
    count = len(present)
    present.update(attributes(new_body))
    if len(present) > count:  # else they still stand in the canonical order
        present = {kind: present[kind] for kind in FLOW_ORDER if kind in present}
    for attribute, zero in ZEROS.items():
        if present.get(attribute) == zero:
            del present[attribute]
    mask = CANONICAL
    for attribute in present:
        mask |= 1 << attribute
    return b"".join(present.values()), mask


def mask_of(body: bytes) -> int:
    """The mask of a stored body."""
    mask = CANONICAL
    for attribute, _, _, _ in walk(body):
        mask |= 1 << attribute
    return mask


def status_of(body: bytes) -> int:
    """The value of CTA_STATUS of a flow; 0 if there is none."""
    start = (
        (body[0] | body[1] << 8) if len(body) > 1 else 0
    )  # after the reply tuple, always
    if body[start : start + 4] != _STATUS_HEADER:
        start = find(body, CTA_STATUS)
    return _from_bytes(body[start + 4 : start + 8], "big") if start >= 0 else 0


def timeout_of(body: bytes) -> int | None:
    """The seconds that were left of a flow; None if the message did not say."""
    start = (
        (body[0] | body[1] << 8) + 8 if len(body) > 1 else 0
    )  # after the status, mostly
    if body[start : start + 4] != _TIMEOUT_HEADER:
        start = find(body, CTA_TIMEOUT)
    return _from_bytes(body[start + 4 : start + 8], "big") if start >= 0 else None


def without_timeout(body: bytes) -> bytes:
    """A flow's body without CTA_TIMEOUT: what two messages may be compared by."""
    start = (body[0] | body[1] << 8) + 8 if len(body) > 1 else 0
    if body[start : start + 4] != _TIMEOUT_HEADER:
        start = find(body, CTA_TIMEOUT)
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
    return _master(expectation_body, find(expectation_body, CTA_EXPECT_MASTER))


def related_master(flow_body: bytes) -> bytes | None:
    """The flow key of a related flow's master, as far as its zone."""
    start = find(flow_body, CTA_TUPLE_MASTER)
    return None if start < 0 else _master(flow_body, start)


def _master(body: bytes, start: int) -> bytes:
    if start < 0 or len(body) < start + 12:
        raise RecordError("no master")
    end = start + (body[start] | body[start + 1] << 8)
    family = b"\x02\0\0\0" if body[start + 10] == CTA_IP_V4_SRC else b"\x0a\0\0\0"
    return family + body[start : start + 2] + b"\x01\x80" + body[start + 4 : end]


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
_NOWHERE: _Place = (0, 0)


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


def _decisive(kind: int, places: dict[int, _Place]) -> list[int]:
    """Attributes whose value decides the shape, since they may be all zeros."""
    if kind > DUMP:
        return []
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
    is_flow = kind <= DUMP
    order = FLOW_ORDER if is_flow else EXPECTATION_ORDER
    key_order = _FLOW_KEY if is_flow else _EXPECTATION_KEY
    ident = CTA_ID if is_flow else CTA_EXPECT_ID
    key = [(_NFGEN, _FIRST)]
    key += [places[attribute] for attribute in key_order if attribute in places]
    mask = CANONICAL if kind != UPDATE or not zeros else 0
    body = []
    for attribute in order:
        if attribute in places and (kind == UPDATE or attribute not in zeros):
            body.append(places[attribute])
            mask |= 1 << attribute
    start, end = places.get(ident, (-4, 0))  # _NOWHERE, when 4 is added
    return _joined(key), _joined(body), (start + 4, end), mask


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
    have none. What does not begin with its key is not learned: no kernel writes that.
    """
    kind, places = _survey(message)
    key = _plan(kind, places, frozenset())[0]
    if len(key) > 2 or key[0][1] == _FIRST:
        return []
    headers = {
        start: message[start : start + 4] for _, start, _, _ in walk(message, 20)
    }
    decisive = _decisive(kind, places)
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
    pieces = sorted({*key, *body, ident} - {_NOWHERE})
    if len(body) == 2 and pieces == [key[0], body[0], *key[1:], ident, body[1]]:
        way = _PLAIN if len(key) == 1 else _ZONED
    else:
        way = _PIECES
        pieces.insert(0, _NOWHERE)
    zone = key[1] if len(key) > 1 else _NOWHERE
    spots = {place: spot for spot, place in enumerate(pieces)}
    pick: _Pick = itemgetter(0, *(spots[place] for place in body))
    numbers = (spots.get(zone, 0), spots.get(ident, 0), pick)
    cut = _struct(pieces, len(message), {}).unpack
    return (check.unpack, wanted, way, cut, numbers, kind, mask)


def _struct(places: list[_Place], length: int, codes: dict[int, str]) -> Struct:
    """Reads the bytes at some places, given in order, of a message of this length."""
    form = "<"
    position = 0
    for start, end in places:
        size = end - start
        form += f"{start - position}x{codes.get(size, f'{size}s')}"
        position = end
    return Struct(f"{form}{length - position}x")
