"""The lines of conntrack's `-o save`: options that `conntrack -R` reads again.

As in `text.py`: byte for byte what conntrack 1.4.7 prints, and so without what it
leaves out (mark, labels, helper, master and sequence adjustments).
"""

from typing import Final

from syncd.flows import numbers as n
from syncd.flows.shape import Shape
from syncd.flows.text import (
    Tuple,
    Wishes,
    add_number,
    event_of,
    states_of,
    status_of,
)

_COMMANDS: Final = {"new": "-A", "update": "-U", "destroy": "-D"}
_STATUS: Final = (
    (n.EXPECTED, "EXPECTED"),
    (n.SEEN_REPLY, "SEEN_REPLY"),
    (n.ASSURED, "ASSURED"),
    (n.FIXED_TIMEOUT, "FIXED_TIMEOUT"),
)

# conntrack's options know no names for these states of SCTP, so it prints none.
_NAMELESS: Final = dict.fromkeys(("HEARTBEAT_SENT", "HEARTBEAT_ACKED"), "(null)")


def flow_save(shape: Shape, wishes: Wishes) -> None:
    """The line of a flow."""
    found = shape.attributes
    shape.add(f"{_COMMANDS[event_of(shape)] if wishes.events else '-A'} ")
    add_number(shape, n.CTA_TIMEOUT, 4, "-t %d ")
    status = status_of(shape)
    if status is not None:
        names = [name for bit, name in _STATUS if status & bit]
        shape.add(f"-u {','.join(names) or 'UNSET'} ")
    add_number(shape, n.CTA_SECMARK, 4, "-c %d ")
    add_number(shape, n.CTA_ZONE, 2, "-w %d ")
    orig = Tuple(shape, found.get(n.CTA_ORIG))
    reply = Tuple(shape, found[n.CTA_REPLY]) if n.CTA_REPLY in found else None
    for ends, side in ((orig, "orig"), (reply, "reply")):
        if ends is not None and ends.zone is not None:
            shape.value(ends.zone, 2, f"--{side}-zone %d ")
    _add_addresses(shape, orig, reply, status)
    name = n.PROTOCOL_NAMES.get(orig.protocol)
    shape.add(f"-p {orig.protocol if name is None else name} ")
    if orig.protocol in n.ICMP_PARTS:
        _add_icmp(shape, orig, name)
    else:
        _add_ports(shape, orig, reply)
    shape.strip()


def _add_addresses(
    shape: Shape, orig: Tuple, reply: Tuple | None, status: int | None
) -> None:
    """Those of the reply are named as translated if they are."""
    shape.add("-s ")
    shape.address(orig.source)
    shape.add(" -d ")
    shape.address(orig.target)
    shape.add(" ")
    if reply is None:
        return
    for done, ours, theirs, plain, translated in (
        (n.DST_NAT_DONE, orig.target, reply.source, "-r ", "-g "),
        (n.SRC_NAT_DONE, orig.source, reply.target, "-q ", "-n "),
    ):
        if status is None or status & done:
            shape.differing(ours, theirs, plain, translated)
        else:
            shape.add(plain)
        shape.address(theirs)
        shape.add(" ")


def _add_icmp(shape: Shape, orig: Tuple, name: str | None) -> None:
    ident, kind, code = n.ICMP_PARTS[orig.protocol]
    for part, what, size in ((kind, "type", 1), (code, "code", 1), (ident, "id", 2)):
        if part in orig.parts:
            shape.value(orig.parts[part], size, f"--{name}-{what} %d ")


def _add_ports(shape: Shape, orig: Tuple, reply: Tuple | None) -> None:
    names: tuple[str, ...] = ()
    if orig.protocol in n.WITH_PORTS:
        names = ("--sport", "--dport", "--reply-port-src", "--reply-port-dst")
    elif orig.protocol == n.GRE:
        names = ("--srckey", "--dstkey", "--reply-key-src", "--reply-key-dst")
    parts = (n.PROTO_SOURCE, n.PROTO_TARGET)
    for at, name in enumerate(names):
        ends = orig if at < 2 else reply
        place = None if ends is None else ends.parts.get(parts[at % 2])
        if place is not None:
            shape.value(place, 2, f"{name} %d ")
    if orig.protocol in (n.TCP, n.SCTP, n.DCCP):
        for states, number in states_of(shape):
            name = n.state_name(states, number)
            shape.add(f"--state {_NAMELESS.get(name, name)} ")
    if orig.protocol == n.SCTP and n.CTA_PROTOINFO in shape.attributes:
        parts_of = shape.nested(shape.attributes[n.CTA_PROTOINFO])
        inside = shape.nested(parts_of[3]) if 3 in parts_of else {}
        for kind, side in ((2, "orig"), (3, "reply")):
            if kind in inside:
                shape.add(f"--{side}-vtag ")
                shape.reckoned(inside[kind], 4, _swapped)
                shape.add(" ")


def _swapped(number: int) -> int:
    """conntrack turns the bytes of a vtag once too often, and back when it loads."""
    return int.from_bytes(number.to_bytes(4), "little")
