"""The lines of conntrack's `-o xml`, of flows and of expectations.

As in `text.py`: byte for byte what conntrack 1.4.7 prints. Of its oddities two catch
the eye: the states of SCTP and DCCP appear under the names that TCP's states of the
same number have, and the counters of the reply stand where those of the original are.
"""

from collections.abc import Callable
from typing import Final

from syncd.flows import numbers as n
from syncd.flows.shape import Place, Shape
from syncd.flows.text import (
    SECOND_NS,
    Clock,
    Tuple,
    Wishes,
    add_part,
    counters_of,
    event_of,
    flag_names,
    name_in,
    names_of_labels,
    states_of,
    status_of,
    times_of,
)

HEADER: Final = '<?xml version="1.0" encoding="utf-8"?>\n'
# With one of these there is a part that belongs to no direction; see `_has_meta`.
_META: Final = (
    *(n.CTA_TIMEOUT, n.CTA_MARK, n.CTA_SECMARK, n.CTA_ZONE, n.CTA_USE),
    *(n.CTA_STATUS, n.CTA_ID),
)


def flow_xml(shape: Shape, wishes: Wishes) -> None:
    """The line of a flow."""
    found = shape.attributes
    _open(shape, wishes)
    counted = counters_of(shape, n.CTA_COUNTERS_ORIG) is not None
    for kind, name in ((n.CTA_ORIG, "original"), (n.CTA_REPLY, "reply")):
        shape.add(f'<meta direction="{name}">')
        if kind == n.CTA_REPLY and kind not in found:
            shape.add('<layer3 protonum="0" protoname="unknown"><src></src><dst></dst>')
            shape.add('</layer3><layer4 protonum="0" protoname="unknown"></layer4>')
        else:
            ends = Tuple(shape, found.get(kind))
            _open_layer3(shape)
            _add_addresses(shape, ends)
            shape.add("</layer3>")
            _open_layer4(shape, ends)
            _add_ports(shape, ends)
            shape.add("</layer4>")
            if ends.zone is not None:
                shape.value(ends.zone, 2, "<zone>%d</zone>")
        if counted:
            at = n.CTA_COUNTERS_ORIG + (kind == n.CTA_REPLY)
            _add_counters(shape, counters_of(shape, at))
        shape.add("</meta>")
    if _has_meta(shape):
        shape.add('<meta direction="independent">')
    _add_meta(shape, wishes)
    if _has_meta(shape):
        shape.add("</meta>")
    if wishes.timestamp:
        shape.computed(_when(wishes.clock))
    if n.CTA_HELP in found:
        shape.add(f"<helper>{name_in(shape, found[n.CTA_HELP])}</helper>")
    shape.add("</flow>")


def expectation_xml(shape: Shape, wishes: Wishes) -> None:
    """The line of an expectation."""
    found = shape.attributes
    _open(shape, wishes)
    tuples = [
        (name, Tuple(shape, found.get(kind)))
        for name, kind in (
            ("expected", n.EXP_TUPLE),
            ("mask", n.EXP_MASK),
            ("master", n.EXP_MASTER),
        )
    ]
    _open_layer3(shape)
    for name, ends in tuples:
        shape.add(f"<{name}>")
        _add_addresses(shape, ends)
        shape.add(f"</{name}>")
    shape.add("</layer3>")
    _open_layer4(shape, tuples[0][1])
    for name, ends in tuples:
        shape.add(f"<{name}>")
        _add_ports(shape, ends)
        shape.add(f"</{name}>")
    shape.add("</layer4><meta>")
    if n.EXP_HELPER in found:
        name = shape.word(found[n.EXP_HELPER])
        shape.add(f"<helper-name>{name}</helper-name>")
    _add(shape, n.EXP_TIMEOUT, "timeout")
    _add(shape, n.EXP_CLASS, "class")
    _add(shape, n.EXP_ZONE, "zone", 2)
    if wishes.timestamp:
        shape.computed(_when(wishes.clock))
    flags = shape.number(found[n.EXP_FLAGS], 4) if n.EXP_FLAGS in found else 0
    for flag in flag_names(flags):
        shape.add(f"<{flag.lower()}/>")
    shape.add("</meta></flow>")


def _open(shape: Shape, wishes: Wishes) -> None:
    shape.add(f'<flow type="{event_of(shape)}">' if wishes.events else "<flow>")


def _open_layer3(shape: Shape) -> None:
    name = shape.family_name
    shape.add(f'<layer3 protonum="{shape.family}" protoname="{name}">')


def _open_layer4(shape: Shape, ends: Tuple) -> None:
    name = ends.protocol_name
    shape.add(f'<layer4 protonum="{ends.protocol}" protoname="{name}">')


def _add_addresses(shape: Shape, ends: Tuple) -> None:
    for name, place in (("src", ends.source), ("dst", ends.target)):
        shape.add(f"<{name}>")
        shape.address(place)
        shape.add(f"</{name}>")


def _add_ports(shape: Shape, ends: Tuple) -> None:
    if ends.protocol in n.WITH_PORTS:
        add_part(shape, ends, n.PROTO_SOURCE, "<sport>%d</sport>")
        add_part(shape, ends, n.PROTO_TARGET, "<dport>%d</dport>")
    elif ends.protocol == n.GRE:
        add_part(shape, ends, n.PROTO_SOURCE, "<srckey>0x%x</srckey>")
        add_part(shape, ends, n.PROTO_TARGET, "<dstkey>0x%x</dstkey>")


def _add_counters(shape: Shape, counters: tuple[Place, Place] | None) -> None:
    shape.add("<counters>")
    if counters is None:
        shape.add("<packets>0</packets><bytes>0</bytes>")
    else:
        shape.value(counters[0], 8, "<packets>%d</packets>")
        shape.value(counters[1], 8, "<bytes>%d</bytes>")
    shape.add("</counters>")


def _has_meta(shape: Shape) -> bool:
    labels = shape.attributes.get(n.CTA_LABELS)
    return (
        any(kind in shape.attributes for kind in _META)
        or (labels is not None and labels[0] < labels[1])
        or bool(states_of(shape))
        or any(kind in times_of(shape) for kind in (1, 2))
    )


def _add_meta(shape: Shape, wishes: Wishes) -> None:
    found = shape.attributes
    for _, number in states_of(shape):
        shape.add(f"<state>{n.state_name(n.TCP_STATES, number)}</state>")
    _add(shape, n.CTA_TIMEOUT, "timeout")
    _add(shape, n.CTA_MARK, "mark")
    _add_labels(shape, wishes)
    _add(shape, n.CTA_SECMARK, "secmark")
    if n.CTA_SECCTX in found:
        shape.add(f"<secctx>{name_in(shape, found[n.CTA_SECCTX])}</secctx>")
    _add(shape, n.CTA_ZONE, "zone", 2)
    _add(shape, n.CTA_USE, "use")
    _add(shape, n.CTA_ID, "id")
    status = status_of(shape)
    if status is not None:
        shape.add("<assured/>" if status & n.ASSURED else "")
        shape.add("" if status & n.SEEN_REPLY else "<unreplied/>")
    _add_times(shape, wishes)


def _add_labels(shape: Shape, wishes: Wishes) -> None:
    place, names = shape.attributes.get(n.CTA_LABELS), wishes.labels
    if names is None or place is None or place[0] == place[1]:
        return

    def labels(value: bytes) -> str:
        found = names_of_labels(value, names)
        return "".join([f"<label>{name}</label>" for name in found])

    shape.add("<labels>")
    shape.converted(place, labels)
    shape.add("</labels>")


def _add_times(shape: Shape, wishes: Wishes) -> None:
    times = times_of(shape)
    if wishes.ktimestamp and (1 in times or 2 in times):
        shape.add("<timestamp>")
        for kind, name in ((1, "start"), (2, "stop")):
            if kind in times:
                shape.value(times[kind], 8, f"<{name}>%d</{name}>")
        shape.add("</timestamp>")
    if 1 not in times:
        return
    start, stop = times[1], times.get(2)

    def age(message: bytes) -> str:
        begun_ns = int.from_bytes(message[start[0] : start[1]])
        if stop is not None:
            ended_ns = int.from_bytes(message[stop[0] : stop[1]])
            age_s = (ended_ns - begun_ns & 0xFFFFFFFFFFFFFFFF) // SECOND_NS
        else:
            age_s = wishes.clock.now_ns() // SECOND_NS - begun_ns // SECOND_NS
        return f"<deltatime>{age_s & 0xFFFFFFFFFFFFFFFF}</deltatime>"

    shape.computed(age)


def _add(shape: Shape, kind: int, name: str, size: int = 4) -> None:
    if kind in shape.attributes:
        shape.value(shape.attributes[kind], size, f"<{name}>%d</{name}>")


def _when(clock: Clock) -> Callable[[bytes], str]:
    def when(_: bytes) -> str:
        moment = clock.localtime(clock.now_ns() // SECOND_NS)
        year, month, day, hour, minute, second, weekday = moment[:7]
        return (
            f"<when><hour>{hour}</hour><min>{minute:02d}</min>"
            f"<sec>{second:02d}</sec><wday>{(weekday + 1) % 7 + 1}</wday>"
            f"<day>{day}</day><month>{month}</month><year>{year}</year></when>"
        )

    return when
