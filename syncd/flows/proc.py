"""The lines of /proc/net/nf_conntrack and /proc/net/nf_conntrack_expect.

As the kernel prints them (nf_conntrack_standalone.c, nf_conntrack_expect.c). The rule:
what a message does not tell is left out: the two timers of GRE, the timer and the state
of an offloaded flow, the name of an expectation's class. Reading the file takes a
reference on each flow, so `use` is one more than a message says.
"""

from typing import Final

from syncd.flows import numbers as n
from syncd.flows.shape import Shape
from syncd.flows.text import (
    SECOND_NS,
    Tuple,
    Wishes,
    add_assured,
    add_counters,
    add_ends,
    add_number,
    add_state,
    add_zone,
    flag_names,
    name_in,
    status_of,
    times_of,
)

_SIP: Final = ("signalling", "audio", "video", "image")  # only sip's classes have names


def flow_proc(shape: Shape, wishes: Wishes) -> None:
    """The line of a flow."""
    found = shape.attributes
    shape.add(f"{shape.family_name:<8} {shape.family} ")
    orig = Tuple(shape, found.get(n.CTA_ORIG))
    name = orig.protocol_name
    if orig.protocol == n.DCCP and n.PROTO_SOURCE not in orig.parts:
        name = "unknown"  # this kernel has forgotten the protocol
    shape.add(f"{name:<8} {orig.protocol} ")
    status = status_of(shape) or 0
    add_number(shape, n.CTA_TIMEOUT, 4, "%d ")
    add_state(shape)
    known = name != "unknown"
    _add_ends(shape, orig, known=known)
    add_zone(shape, orig, "orig")
    add_counters(shape, n.CTA_COUNTERS_ORIG)
    if not status & n.SEEN_REPLY:
        shape.add("[UNREPLIED] ")
    zoned = orig.zone is not None
    if n.CTA_REPLY in found:
        reply = Tuple(shape, found[n.CTA_REPLY])
        _add_ends(shape, reply, known=known)
        add_zone(shape, reply, "reply")
        zoned = zoned or reply.zone is not None
    add_counters(shape, n.CTA_COUNTERS_ORIG + 1)
    add_assured(shape, status)
    if n.CTA_MARK in found:
        shape.value(found[n.CTA_MARK], 4, "mark=%d ")
    else:
        shape.add("mark=0 ")
    if n.CTA_SECCTX in found:
        shape.add(f"secctx={name_in(shape, found[n.CTA_SECCTX])} ")
    if n.CTA_ZONE in found:
        shape.value(found[n.CTA_ZONE], 2, "zone=%d ")
    elif not zoned:
        shape.add("zone=0 ")
    _add_age(shape, wishes)
    if n.CTA_USE in found:
        shape.add("use=")
        shape.reckoned(found[n.CTA_USE], 4, lambda use: use + 1)
        shape.add(" ")
    shape.strip()


def expectation_proc(shape: Shape, _: Wishes) -> None:
    """The line of an expectation."""
    found = shape.attributes
    if n.EXP_TIMEOUT in found:
        shape.value(found[n.EXP_TIMEOUT], 4, "%d ")
    else:
        shape.add("- ")
    expected = Tuple(shape, found.get(n.EXP_TUPLE))
    shape.add(f"l3proto = {shape.family} proto={expected.protocol} ")
    add_ends(shape, expected, full=True)
    flags = shape.number(found[n.EXP_FLAGS], 4) if n.EXP_FLAGS in found else 0
    shape.add(",".join(flag_names(flags)))
    if n.EXP_HELPER in found:
        helper = shape.word(found[n.EXP_HELPER])
        shape.add(f" {helper}" if flags else helper)
        if n.EXP_CLASS in found and helper.partition("-")[0] == "sip":
            number = shape.number(found[n.EXP_CLASS], 4)
            shape.add("".join([f"/{name}" for name in _SIP[number : number + 1]]))


def _add_ends(shape: Shape, ends: Tuple, *, known: bool) -> None:
    if known:
        add_ends(shape, ends, full=True)
        return
    shape.add("src=")
    shape.address(ends.source, full=True)
    shape.add(" dst=")
    shape.address(ends.target, full=True)
    shape.add(" ")


def _add_age(shape: Shape, wishes: Wishes) -> None:
    times = times_of(shape)
    if 1 not in times:
        return

    def age(begun_ns: int) -> int:
        return max(wishes.clock.now_ns() - begun_ns, 0) // SECOND_NS

    shape.add("delta-time=")
    shape.reckoned(times[1], 8, age)
    shape.add(" ")
