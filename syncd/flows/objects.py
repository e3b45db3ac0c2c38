"""JSON objects of flows and expectations, one a line (docs/records.schema.json).

Names and numbers are those that conntrack 1.4.7 prints. The rule: bytes that are not a
record raise RecordError, never anything else; what a message does not tell is absent.
"""

import json
from typing import Final, Self

from syncd.errors import RecordError
from syncd.flows import numbers as n
from syncd.flows.shape import Place, Shape
from syncd.flows.text import (
    SECOND_NS,
    Tuple,
    Wishes,
    flag_names,
    name_in,
    times_of,
)

_TCP_FLAGS: Final = (
    *("WINDOW_SCALE", "SACK_PERM", "CLOSE_INIT", "BE_LIBERAL"),
    *("DATA_UNACKNOWLEDGED", "MAXACK_SET"),
)
_FLOW_NUMBERS: Final = (
    ("timeout", n.CTA_TIMEOUT, 4),
    ("mark", n.CTA_MARK, 4),
    ("zone", n.CTA_ZONE, 2),
    ("use", n.CTA_USE, 4),
    ("id", n.CTA_ID, 4),
)
_EXPECTATION_NUMBERS: Final = (
    ("timeout", n.EXP_TIMEOUT, 4),
    ("zone", n.EXP_ZONE, 2),
    ("class", n.EXP_CLASS, 4),
    ("id", n.EXP_ID, 4),
)
_Members = tuple[tuple[str, int, int], ...]  # name, attribute, size
_ADJUSTMENT: Final[_Members] = (
    ("correction_pos", 1, 4),
    ("offset_before", 2, 4),
    ("offset_after", 3, 4),
)
_COUNTER: Final[_Members] = (("packets", 1, 8), ("bytes", 2, 8))
_TIMES: Final[_Members] = (("start", 1, 8), ("stop", 2, 8))
_SYNPROXY: Final[_Members] = (("isn", 1, 4), ("its", 2, 4), ("tsoff", 3, 4))
_DCCP: Final[_Members] = (("role", 2, 1), ("handshake_seq", 3, 8))
_VTAGS: Final[_Members] = (("vtag_orig", 2, 4), ("vtag_reply", 3, 4))


def flow_json(shape: Shape, _: Wishes) -> None:
    """The object of a flow."""
    with Object(shape) as flow:
        _add_flow(flow)
        if n.CTA_TIMESTAMP in shape.attributes:
            place = shape.attributes[n.CTA_TIMESTAMP]
            _add_members(flow, "timestamp", place, _TIMES)
        if n.CTA_SECCTX in shape.attributes:
            flow.constant("secctx", name_in(shape, shape.attributes[n.CTA_SECCTX]))


def account_json(shape: Shape, wishes: Wishes) -> None:
    """The object of a flow that ended; times are seconds since 1970."""
    with Object(shape) as flow:
        _add_flow(flow)
        times = times_of(shape)
        if 1 in times:
            flow.name("start")
            shape.reckoned(times[1], 8, _seconds)
        flow.name("end")
        if 2 in times:
            shape.reckoned(times[2], 8, _seconds)
        else:
            shape.computed(lambda _: _seconds(wishes.clock.now_ns()))


def _seconds(ns: int) -> str:
    return f"{ns // SECOND_NS}.{ns % SECOND_NS // 1000:06d}"


def _add_flow(flow: "Object") -> None:
    """The members of a flow, without its times."""
    shape = flow.shape
    found = shape.attributes
    orig = Tuple(shape, found.get(n.CTA_ORIG))
    _add_kind(flow, "flow", orig)
    _add_ends(flow, "orig", orig)
    if n.CTA_REPLY in found:
        _add_ends(flow, "reply", Tuple(shape, found[n.CTA_REPLY]))
    if n.CTA_STATUS in found:
        _add_status(flow, shape.number(found[n.CTA_STATUS], 4))
    for name, kind, size in _FLOW_NUMBERS:
        if kind in found:
            flow.number(name, found[kind], size)
    if n.CTA_PROTOINFO in found:
        _add_state(flow, shape.nested(found[n.CTA_PROTOINFO]))
    if n.CTA_LABELS in found:
        flow.name("labels")
        shape.converted(found[n.CTA_LABELS], lambda value: f'"{value.hex()}"')
    if n.CTA_HELP in found:
        flow.constant("helper", name_in(shape, found[n.CTA_HELP]))
    if n.CTA_MASTER in found:
        _add_whole(flow, "master", found[n.CTA_MASTER])
    _add_both(flow, "seqadj", n.CTA_SEQ_ADJ_ORIG, _ADJUSTMENT)
    if n.CTA_SYNPROXY in found:
        _add_members(flow, "synproxy", found[n.CTA_SYNPROXY], _SYNPROXY)
    # The rest is only in messages of the kernel, never in a body.
    _add_both(flow, "counters", n.CTA_COUNTERS_ORIG, _COUNTER)


def expectation_json(shape: Shape, _: Wishes) -> None:
    """The object of an expectation."""
    found = shape.attributes
    with Object(shape) as expectation:
        expected = Tuple(shape, found.get(n.EXP_TUPLE))
        _add_kind(expectation, "expectation", expected)
        _add_ends(expectation, "expected", expected)
        if n.EXP_MASK in found:
            # The mask's own protocol number says how its ports are named.
            _add_ends(expectation, "mask", Tuple(shape, found[n.EXP_MASK]))
        if n.EXP_MASTER in found:
            _add_whole(expectation, "master", found[n.EXP_MASTER])
        for name, kind, size in _EXPECTATION_NUMBERS:
            if kind in found:
                expectation.number(name, found[kind], size)
        if n.EXP_FLAGS in found:
            flags = flag_names(shape.number(found[n.EXP_FLAGS], 4))
            expectation.constant("flags", flags)
        if n.EXP_HELPER in found:
            expectation.constant("helper", shape.word(found[n.EXP_HELPER]))
        if n.EXP_FUNCTION in found:
            expectation.constant("function", shape.word(found[n.EXP_FUNCTION]))
        if n.EXP_NAT in found:
            parts = shape.nested(found[n.EXP_NAT])
            if 1 not in parts or 2 not in parts:
                raise RecordError("an expectation's translation is not whole")
            with expectation.inner("nat") as nat:
                side = "reply" if shape.number(parts[1], 4) else "orig"
                nat.constant("direction", side)
                _add_whole(nat, "tuple", parts[2])


class Object:
    """One pair of braces, with its members in the order in which they are added."""

    __slots__ = ("_started", "shape")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._started = False

    def __enter__(self) -> Self:
        self.shape.add("{")
        return self

    def __exit__(self, *_: object) -> None:
        self.shape.add("}")

    def name(self, name: str) -> None:
        self.shape.add(f',"{name}":' if self._started else f'"{name}":')
        self._started = True

    def inner(self, name: str) -> "Object":
        self.name(name)
        return Object(self.shape)

    def constant(self, name: str, value: object) -> None:
        self.name(name)
        self.shape.add(json.dumps(value, separators=(",", ":")))

    def number(self, name: str, place: Place, size: int) -> None:
        self.name(name)
        self.shape.value(place, size)


def _add_kind(into: Object, kind: str, ends: Tuple) -> None:
    into.constant("kind", kind)
    into.constant("family", into.shape.family_name)
    into.constant("protocol", ends.protocol_name)
    into.constant("protocol_number", ends.protocol)


def _add_ends(into: Object, name: str, ends: Tuple) -> None:
    with into.inner(name) as inside:
        _add_addresses(inside, ends)


def _add_whole(into: Object, name: str, place: Place) -> None:
    """A tuple that names its protocol itself."""
    ends = Tuple(into.shape, place)
    with into.inner(name) as inside:
        inside.constant("protocol", ends.protocol_name)
        inside.constant("protocol_number", ends.protocol)
        _add_addresses(inside, ends)


def _add_addresses(into: Object, ends: Tuple) -> None:
    for name, place in (("src", ends.source), ("dst", ends.target)):
        into.name(name)
        into.shape.add('"')
        into.shape.address(place)
        into.shape.add('"')
    parts = ends.parts
    if ends.protocol in n.ICMP_PARTS:
        ident, kind, code = n.ICMP_PARTS[ends.protocol]
        for name, at, size in (("id", ident, 2), ("type", kind, 1), ("code", code, 1)):
            if at not in parts:
                raise RecordError(f"a tuple without its {name}")
            into.number(name, parts[at], size)
    elif n.PROTO_SOURCE in parts and n.PROTO_TARGET in parts:
        if ends.protocol in n.WITH_PORTS:
            into.number("sport", parts[n.PROTO_SOURCE], 2)
            into.number("dport", parts[n.PROTO_TARGET], 2)
        elif ends.protocol == n.GRE:
            into.number("srckey", parts[n.PROTO_SOURCE], 2)
            into.number("dstkey", parts[n.PROTO_TARGET], 2)
    if ends.zone is not None:
        into.number("zone", ends.zone, 2)


def _add_status(flow: Object, status: int) -> None:
    names = [name for bit, name in enumerate(n.STATUS_BITS) if status >> bit & 1]
    flow.constant("status", names)
    flow.constant("assured", bool(status & n.ASSURED))
    flow.constant("unreplied", not status & n.SEEN_REPLY)
    translated = [name[:3].lower() for name in ("SRC_NAT", "DST_NAT") if name in names]
    flow.constant("nat", translated)


def _add_state(flow: Object, parts: dict[int, Place]) -> None:
    for kind in (1, 2, 3):
        if kind in parts:
            inside = flow.shape.nested(parts[kind])
            if 1 not in inside:
                raise RecordError("a state is missing")
            number = flow.shape.number(inside[1], 1)
            flow.constant("state", n.state_name(n.STATES[kind], number))
            if kind == 1:
                _add_tcp(flow, inside)
            elif kind == 2:
                _add_members(flow, "dccp", parts[kind], _DCCP)
            elif 2 in inside or 3 in inside:
                _add_members(flow, "sctp", parts[kind], _VTAGS)
            return


def _add_tcp(flow: Object, inside: dict[int, Place]) -> None:
    sides = (("orig", 2, 4), ("reply", 3, 5))
    if not any(kind in inside for kind in (2, 3, 4, 5)):
        return
    with flow.inner("tcp") as tcp:
        for name, scale, flags in sides:
            if scale not in inside and flags not in inside:
                continue
            with tcp.inner(name) as side:
                if scale in inside:
                    side.number("window_scale", inside[scale], 1)
                if flags in inside:
                    side.name("flags")
                    flow.shape.reckoned(inside[flags], 2, _flags_text)


def _flags_text(value: int) -> str:
    """The names of struct nf_ct_tcp_flags {flags, mask}."""
    return _FLAG_TEXTS[value >> 8 & 0x3F]


_FLAG_TEXTS: Final = tuple(
    json.dumps(
        [name for bit, name in enumerate(_TCP_FLAGS) if flags >> bit & 1],
        separators=(",", ":"),
    )
    for flags in range(64)
)


def _add_both(flow: Object, name: str, first: int, members: _Members) -> None:
    """Two attributes that follow each other: of the original and the reply side."""
    found = flow.shape.attributes
    if first not in found and first + 1 not in found:
        return
    with flow.inner(name) as both:
        for side, kind in (("orig", first), ("reply", first + 1)):
            if kind in found:
                _add_members(both, side, found[kind], members)


def _add_members(into: Object, name: str, place: Place, members: _Members) -> None:
    parts = into.shape.nested(place)
    with into.inner(name) as inside:
        for member, kind, size in members:
            if kind in parts:
                inside.number(member, parts[kind], size)
