"""Messages become records: ctnetlink messages come in, `record.Record`s go out.

There are two ways, with the same outcome. `read_one` walks a message. In pure Python a
walk is dear: there the first message of a shape is walked and leaves a layout (see
`layout.py`), by which later ones are cut. Compiled, a walk costs less than to look for
the layout, so every message is walked.

The rule: nothing is read behind the end that a length before it allows; `data`, which
is a pointer when compiled, is never used unchecked.
"""

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812 - an exception by its name

from syncd.errors import RecordError
from syncd.flows.layout import Layout, layouts_of
from syncd.flows.record import (
    BY_PROGRAM,
    CANONICAL,
    CTA_EXPECT_CLASS,
    CTA_EXPECT_FLAGS,
    CTA_EXPECT_ID,
    CTA_EXPECT_MASK,
    CTA_EXPECT_MASTER,
    CTA_EXPECT_TIMEOUT,
    CTA_EXPECT_TUPLE,
    CTA_EXPECT_ZONE,
    CTA_ID,
    CTA_MARK,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    DUMP,
    END,
    EXP_DUMP,
    EXP_END,
    EXP_NEW,
    EXPECTATION_ORDER,
    FLOW_ORDER,
    NEW,
    UPDATE,
    ZEROS,
    Record,
)

_HEADER = Struct("<IHHII")
_HEAD = 24  # nlmsghdr, nfgenmsg and the first attribute's header
_TYPES = 32  # attributes that may be replicated are all below

_FLOW_SIZES = {CTA_STATUS: 8, CTA_TIMEOUT: 8, CTA_MARK: 8, CTA_ID: 8, CTA_ZONE: 6}
_EXPECTATION_SIZES = {CTA_EXPECT_ZONE: 6} | dict.fromkeys(
    (CTA_EXPECT_TIMEOUT, CTA_EXPECT_ID, CTA_EXPECT_FLAGS, CTA_EXPECT_CLASS), 8
)
# By type: how long the attribute has to be, 0 = any length.
_SIZES_OF_FLOW = bytes([_FLOW_SIZES.get(kind, 0) for kind in range(_TYPES)])
_SIZES_OF_EXPECTATION = bytes([_EXPECTATION_SIZES.get(n, 0) for n in range(_TYPES)])
_NEEDS_OF_FLOW = 1 << CTA_TUPLE_ORIG | 1 << CTA_TUPLE_REPLY
_NEEDS_OF_EXPECTATION = (
    1 << CTA_EXPECT_TUPLE | 1 << CTA_EXPECT_MASK | 1 << CTA_EXPECT_MASTER
)
_ORDER_OF_FLOW = bytes(FLOW_ORDER)
_ORDER_OF_EXPECTATION = bytes(EXPECTATION_ORDER)
_BITS_OF_FLOW = sum(1 << attribute for attribute in FLOW_ORDER)
_BITS_OF_EXPECTATION = sum(1 << attribute for attribute in EXPECTATION_ORDER)
_MAY_BE_ZEROS = sum(1 << attribute for attribute in ZEROS)
_KEY_OF_FLOW = bytes((CTA_TUPLE_ORIG, CTA_ZONE))
_KEY_OF_EXPECTATION = bytes((CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_ZONE))

# C integers when compiled, where those of record.py are objects.
_NEW, _UPDATE, _END, _DUMP = NEW, UPDATE, END, DUMP
_EXP_NEW, _EXP_END, _EXP_DUMP = EXP_NEW, EXP_END, EXP_DUMP
_CANONICAL, _BY_PROGRAM, _ID, _EXPECT_ID = CANONICAL, BY_PROGRAM, CTA_ID, CTA_EXPECT_ID

_LAYOUTS_MAX = 512
_LAYOUTS_OF_A_HEAD_MAX = 16
_NO_SEQUENCE_NO_PORTID = bytes(8)
_INTERPRETED = __file__.endswith(".py")


class RecordReader:
    """Reads messages of one kernel; in pure Python it remembers their shapes."""

    __slots__ = (
        "_by_layouts",
        "_layouts",
        "_layouts_of_programs",
        "_learned",
        "echoes",
        "ignored",
        "malformed",
        "own_portids",
    )

    def __init__(self, by_layouts: bool = _INTERPRETED) -> None:
        self.own_portids: set[int] = set()  # events of these are our own doing
        self.echoes = 0  # messages left out for that
        self.malformed = 0
        self.ignored = 0  # messages that are not about flows or expectations
        self._by_layouts = by_layouts
        self._layouts: dict[bytes, list[Layout]] = {}
        self._layouts_of_programs: dict[bytes, list[Layout]] = {}
        self._learned = 0

    def read(self, messages: Sequence[bytes]) -> list[Record]:
        """Records of whole netlink messages, in order; never raises."""
        if not self._by_layouts:
            return self._read_by_walks(messages)
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
                        self._learn(message, record[0])
            except (RecordError, StructError):  # StructError: the length is a lie
                self.malformed += 1
        return records

    def read_one(self, message: bytes) -> Record:
        """The record of one message, by a walk; RecordError if it is not one."""
        kind = _kind_of(message)
        if kind < 0:
            raise RecordError("a message that is about no flow and no expectation")
        return _walked(message, kind)

    def _read_by_walks(self, messages: Sequence[bytes]) -> list[Record]:
        records: list[Record] = []
        for message in messages:
            try:
                record = self._read_unknown(message)
                if record is not None:
                    records.append(record)
            except RecordError:
                self.malformed += 1
        return records

    def _read_unknown(self, message: bytes) -> Record | None:
        """The record of any message; None if it is left out."""
        kind = _kind_of(message)
        if kind < 0:
            self.ignored += 1
            return None
        if self.own_portids and kind != _DUMP and kind != _EXP_DUMP:
            _, _, _, _, portid = _HEADER.unpack_from(message)
            if portid in self.own_portids:
                self.echoes += 1
                return None
        return _walked(message, kind)

    def _of_program(self, message: bytes) -> Sequence[Layout]:
        """The layouts for a reply, or for an event that a program caused."""
        head = message[:8] + _NO_SEQUENCE_NO_PORTID + message[16:_HEAD]
        layouts = self._layouts_of_programs.get(head, ())
        if self.own_portids and layouts and layouts[0][5] not in (DUMP, EXP_DUMP):
            _, _, _, _, portid = _HEADER.unpack_from(message)
            if portid in self.own_portids:
                return ()
        return layouts

    def _learn(self, message: bytes, kind: int) -> None:
        head = message[:8] + _NO_SEQUENCE_NO_PORTID + message[16:_HEAD]
        known = self._layouts.get(head, [])
        if self._learned < _LAYOUTS_MAX and len(known) < _LAYOUTS_OF_A_HEAD_MAX:
            layouts = layouts_of(message, kind)
            self._layouts[head] = known
            known.extend(layouts)
            self._layouts_of_programs[head] = [
                (*layout[:6], layout[6] | BY_PROGRAM)
                if layout[5] in (END, UPDATE)
                else layout
                for layout in known
            ]
            self._learned += len(layouts)


def _kind_of(message: bytes) -> int:
    """The kind of a message, -1 if it is none of ours."""
    if len(message) < 16:
        raise RecordError(f"message of {len(message)} bytes")
    data = message
    number = data[4] | data[5] << 8
    if number == 0x0100:
        if data[6] & 2:  # NLM_F_MULTI
            return _DUMP
        return _NEW if data[7] & 6 else _UPDATE  # NLM_F_CREATE, NLM_F_EXCL
    if number == 0x0102:
        return _END
    if number == 0x0200:
        return _EXP_DUMP if data[6] & 2 else _EXP_NEW
    return _EXP_END if number == 0x0202 else -1


def _walked(message: bytes, kind: int) -> Record:
    """The record of a message of this kind."""
    data, size, is_flow = message, len(message), kind <= _DUMP
    if size < _HEAD or data[0] | data[1] << 8 != size or data[2] or data[3]:
        raise RecordError(f"message of {size} bytes that says it has another length")
    sizes = _SIZES_OF_FLOW if is_flow else _SIZES_OF_EXPECTATION
    starts, ends, seen, at = [0] * 32, [0] * 32, 0, 20
    while at < size:
        if size - at < 4:
            raise RecordError(f"attribute at {at}: no room for a header")
        length = data[at] | data[at + 1] << 8
        following = at + (length + 3 & ~3)
        if length < 4 or following > size:
            raise RecordError(f"attribute at {at}: bad length {length}")
        attribute = (data[at + 2] | data[at + 3] << 8) & 0x3FFF
        if attribute < _TYPES:
            if sizes[attribute] and sizes[attribute] != length:
                raise RecordError(f"attribute {attribute}: {length - 4} bytes")
            starts[attribute] = at
            ends[attribute] = following
            seen |= 1 << attribute
        at = following
    needs = _NEEDS_OF_FLOW if is_flow else _NEEDS_OF_EXPECTATION
    if seen & needs != needs:
        raise RecordError("an attribute that each has is missing")
    mask = _CANONICAL
    if is_flow and seen & _MAY_BE_ZEROS:
        for attribute, zero in ZEROS.items():
            if (
                seen >> attribute & 1
                and data[starts[attribute] : ends[attribute]] == zero
            ):
                if kind == _UPDATE:
                    mask = 0
                else:
                    seen &= ~(1 << attribute)
    order = _ORDER_OF_FLOW if is_flow else _ORDER_OF_EXPECTATION
    body = _gathered(data, order, seen, starts, ends, 0, 0)
    mask |= seen & (_BITS_OF_FLOW if is_flow else _BITS_OF_EXPECTATION)
    if kind in (_END, _UPDATE) and data[8:16] != _NO_SEQUENCE_NO_PORTID:
        mask |= _BY_PROGRAM
    order = _KEY_OF_FLOW if is_flow else _KEY_OF_EXPECTATION
    key = _gathered(data, order, seen, starts, ends, 16, 20)
    at = _ID if is_flow else _EXPECT_ID
    ident = data[starts[at] + 4 : ends[at]] if seen >> at & 1 else b""
    return (kind, key, body, ident, mask)


def _gathered(
    data: bytes,
    order: bytes,
    seen: int,
    starts: list[int],
    ends: list[int],
    begin: int,
    end: int,
) -> bytes:
    """`data[begin:end]` and the attributes that were seen, in this order."""
    gathered = b""
    for attribute in order:
        if seen >> attribute & 1:
            if starts[attribute] != end:
                gathered += data[begin:end]
                begin = starts[attribute]
            end = ends[attribute]
    return gathered + data[begin:end]
