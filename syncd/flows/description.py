"""Key and body of a flow or an expectation come in, a plain value goes out.

The value is fit for JSON; names and numbers are those that conntrack 1.4.7 prints. The
rule: bytes that are not a record raise RecordError, never anything else; text that came
from outside is made printable.
"""

from typing import Final

from syncd.errors import RecordError
from syncd.flows import nla
from syncd.flows.numbers import (
    DCCP_STATES,
    EXPECTATION_FLAGS,
    ICMP_PARTS,
    PROTOCOL_NAMES,
    SCTP_STATES,
    STATUS_BITS,
    TCP_STATES,
    WITH_PORTS,
)
from syncd.flows.shape import short_ipv6

Description = dict[str, object]

_TCP_FLAGS: Final = (
    *("WINDOW_SCALE", "SACK_PERM", "CLOSE_INIT", "BE_LIBERAL"),
    *("DATA_UNACKNOWLEDGED", "MAXACK_SET"),
)
_FAMILIES: Final = {2: "ipv4", 10: "ipv6"}

# enum ctattr_type and its nested ones, linux/netfilter/nfnetlink_conntrack.h
_ORIG, _REPLY, _STATUS, _PROTOINFO, _HELP, _TIMEOUT, _MARK = 1, 2, 3, 4, 5, 7, 8
_COUNTERS_ORIG, _USE, _ID, _MASTER = 9, 11, 12, 14  # the reply side follows
_SEQ_ADJ_ORIG, _ZONE, _SECCTX, _TIMESTAMP = 15, 18, 19, 20
_LABELS, _SYNPROXY = 22, 24
_EXP_MASTER, _EXP_TUPLE, _EXP_MASK, _EXP_TIMEOUT, _EXP_ID, _EXP_HELPER = (
    1,
    2,
    3,
    4,
    5,
    6,
)
_EXP_ZONE, _EXP_FLAGS, _EXP_CLASS, _EXP_NAT, _EXP_FUNCTION = 7, 8, 9, 10, 11
_FLOW_MESSAGE, _EXPECTATION_MESSAGE = 0x01, 0x02  # nfnetlink subsystems


def describe(key: bytes, body: bytes) -> Description:
    """What a table's entry says; `key` and `body` as `flows.record` makes them."""
    if len(key) < 8:
        raise RecordError(f"a key of {len(key)} bytes")
    family = key[0]
    attributes = nla.values(key, 4) | nla.values(body)
    if key[6] == _ORIG:
        return _flow(family, attributes)
    if key[6] == _EXP_TUPLE:
        return _expectation(family, attributes)
    raise RecordError(f"a key that begins with attribute {key[6]}")


def describe_message(message: bytes) -> Description:
    """What a whole netlink message (an event or a reply to a dump) says."""
    if len(message) < 20:
        raise RecordError(f"a message of {len(message)} bytes")
    length = int.from_bytes(message[:4], "little")
    if not 20 <= length <= len(message):
        raise RecordError(f"a message of {len(message)} bytes says it has {length}")
    attributes = nla.values(message, 20, length)
    if message[5] == _FLOW_MESSAGE:
        return _flow(message[16], attributes)
    if message[5] == _EXPECTATION_MESSAGE:
        return _expectation(message[16], attributes)
    raise RecordError(f"a message of subsystem {message[5]}")


def _flow(family: int, attributes: dict[int, bytes]) -> Description:
    if _ORIG not in attributes:
        raise RecordError("a flow without its original tuple")
    number, orig = _tuple(attributes[_ORIG])
    flow: Description = {
        "kind": "flow",
        "family": _family(family),
        "protocol": PROTOCOL_NAMES.get(number, "unknown"),
        "protocol_number": number,
        "orig": orig,
    }
    if _REPLY in attributes:
        flow["reply"] = _tuple(attributes[_REPLY])[1]
    if _STATUS in attributes:
        _add_status(flow, _number(attributes, _STATUS, 4))
    for name, kind, size in _FLOW_NUMBERS:
        if kind in attributes:
            flow[name] = _number(attributes, kind, size)
    if _PROTOINFO in attributes:
        _add_state(flow, nla.values(attributes[_PROTOINFO]))
    if _LABELS in attributes:
        flow["labels"] = attributes[_LABELS].hex()
    if _HELP in attributes:
        flow["helper"] = _name(nla.values(attributes[_HELP]), 1)
    if _MASTER in attributes:
        flow["master"] = _whole_tuple(attributes[_MASTER])
    adjustments = _by_direction(attributes, _SEQ_ADJ_ORIG, _ADJUSTMENT)
    if adjustments:
        flow["seqadj"] = adjustments
    if _SYNPROXY in attributes:
        flow["synproxy"] = _members(attributes[_SYNPROXY], _SYNPROXY_MEMBERS)
    # The rest is only in messages of the kernel, never in a body.
    counters = _by_direction(attributes, _COUNTERS_ORIG, _COUNTER)
    if counters:
        flow["counters"] = counters
    if _TIMESTAMP in attributes:
        flow["timestamp"] = _members(attributes[_TIMESTAMP], _TIMES)
    if _SECCTX in attributes:
        flow["secctx"] = _name(nla.values(attributes[_SECCTX]), 1)
    return flow


def _expectation(family: int, attributes: dict[int, bytes]) -> Description:
    if _EXP_TUPLE not in attributes:
        raise RecordError("an expectation without its tuple")
    number, expected = _tuple(attributes[_EXP_TUPLE])
    expectation: Description = {
        "kind": "expectation",
        "family": _family(family),
        "protocol": PROTOCOL_NAMES.get(number, "unknown"),
        "protocol_number": number,
        "expected": expected,
    }
    if _EXP_MASK in attributes:
        # The mask's own protocol number says how its ports are named.
        expectation["mask"] = _tuple(attributes[_EXP_MASK])[1]
    if _EXP_MASTER in attributes:
        expectation["master"] = _whole_tuple(attributes[_EXP_MASTER])
    for name, kind, size in _EXPECTATION_NUMBERS:
        if kind in attributes:
            expectation[name] = _number(attributes, kind, size)
    if _EXP_FLAGS in attributes:
        flags = _number(attributes, _EXP_FLAGS, 4)
        expectation["flags"] = _bits(flags, EXPECTATION_FLAGS)
    if _EXP_HELPER in attributes:
        expectation["helper"] = _text(attributes[_EXP_HELPER])
    if _EXP_FUNCTION in attributes:
        expectation["function"] = _text(attributes[_EXP_FUNCTION])
    if _EXP_NAT in attributes:
        nat = nla.values(attributes[_EXP_NAT])
        expectation["nat"] = {
            "direction": "reply" if _number(nat, 1, 4) else "orig",
            "tuple": _whole_tuple(nat.get(2, b"")),
        }
    return expectation


_FLOW_NUMBERS: Final = (
    ("timeout", _TIMEOUT, 4),
    ("mark", _MARK, 4),
    ("zone", _ZONE, 2),
    ("use", _USE, 4),
    ("id", _ID, 4),
)
_EXPECTATION_NUMBERS: Final = (
    ("timeout", _EXP_TIMEOUT, 4),
    ("zone", _EXP_ZONE, 2),
    ("class", _EXP_CLASS, 4),
    ("id", _EXP_ID, 4),
)
_ADJUSTMENT: Final = (
    ("correction_pos", 1, 4),
    ("offset_before", 2, 4),
    ("offset_after", 3, 4),
)
_COUNTER: Final = (("packets", 1, 8), ("bytes", 2, 8))
_TIMES: Final = (("start", 1, 8), ("stop", 2, 8))
_SYNPROXY_MEMBERS: Final = (("isn", 1, 4), ("its", 2, 4), ("tsoff", 3, 4))


def _family(number: int) -> str:
    if number not in _FAMILIES:
        raise RecordError(f"address family {number}")
    return _FAMILIES[number]


def _tuple(data: bytes) -> tuple[int, dict[str, object]]:
    """Protocol number and the ends of a CTA_TUPLE's value."""
    parts = nla.values(data)
    if 1 not in parts:
        raise RecordError("a tuple without addresses")
    addresses = nla.values(parts[1])
    ends: dict[str, object] = {}
    if 1 in addresses:
        ends["src"], ends["dst"] = _ipv4(addresses, 1), _ipv4(addresses, 2)
    else:
        ends["src"], ends["dst"] = _ipv6(addresses, 3), _ipv6(addresses, 4)
    # A master's and a saved NAT tuple may come without a protocol.
    proto = nla.values(parts[2]) if 2 in parts else {}
    number = _number(proto, 1, 1) if proto else 0
    if number in WITH_PORTS and 2 in proto:  # not of DCCP on a kernel without it
        ends["sport"], ends["dport"] = _number(proto, 2, 2), _number(proto, 3, 2)
    elif number in ICMP_PARTS:
        for name, kind, size in zip(
            ("id", "type", "code"), ICMP_PARTS[number], (2, 1, 1), strict=True
        ):
            ends[name] = _number(proto, kind, size)
    elif number == 47 and 2 in proto:
        ends["srckey"], ends["dstkey"] = _number(proto, 2, 2), _number(proto, 3, 2)
    if 3 in parts:
        ends["zone"] = _number(parts, 3, 2)
    return number, ends


def _whole_tuple(data: bytes) -> dict[str, object]:
    number, ends = _tuple(data)
    name = PROTOCOL_NAMES.get(number, "unknown")
    return {"protocol": name, "protocol_number": number, **ends}


def _add_status(flow: Description, status: int) -> None:
    flow["status"] = _bits(status, STATUS_BITS)
    flow["assured"] = bool(status & 0x4)
    flow["unreplied"] = not status & 0x2
    flow["nat"] = [name for bit, name in ((0x10, "src"), (0x20, "dst")) if status & bit]


def _add_state(flow: Description, parts: dict[int, bytes]) -> None:
    if 1 in parts:
        tcp = nla.values(parts[1])
        flow["state"] = _state(tcp, TCP_STATES)
        details: dict[str, object] = {}
        for name, scale, flags in (("orig", 2, 4), ("reply", 3, 5)):
            side: dict[str, object] = {}
            if scale in tcp:
                side["window_scale"] = _number(tcp, scale, 1)
            if flags in tcp:  # struct nf_ct_tcp_flags {flags, mask}
                side["flags"] = _bits(_number(tcp, flags, 2) >> 8, _TCP_FLAGS)
            if side:
                details[name] = side
        if details:
            flow["tcp"] = details
    elif 2 in parts:
        dccp = nla.values(parts[2])
        flow["state"] = _state(dccp, DCCP_STATES)
        flow["dccp"] = _members(parts[2], (("role", 2, 1), ("handshake_seq", 3, 8)))
    elif 3 in parts:
        flow["state"] = _state(nla.values(parts[3]), SCTP_STATES)
        vtags = _members(parts[3], (("vtag_orig", 2, 4), ("vtag_reply", 3, 4)))
        if vtags:
            flow["sctp"] = vtags


def _state(attributes: dict[int, bytes], names: tuple[str, ...]) -> str:
    state = _number(attributes, 1, 1)
    return names[state] if state < len(names) else names[0]


def _by_direction(
    attributes: dict[int, bytes], first: int, members: tuple[tuple[str, int, int], ...]
) -> dict[str, dict[str, int]]:
    """Two attributes that follow each other: of the original and the reply side."""
    return {
        direction: _members(attributes[kind], members)
        for direction, kind in (("orig", first), ("reply", first + 1))
        if kind in attributes
    }


def _members(data: bytes, members: tuple[tuple[str, int, int], ...]) -> dict[str, int]:
    parts = nla.values(data)
    return {
        name: _number(parts, kind, size)
        for name, kind, size in members
        if kind in parts
    }


def _number(attributes: dict[int, bytes], kind: int, size: int) -> int:
    value = attributes.get(kind, b"")
    if len(value) != size:
        raise RecordError(f"attribute {kind} has {len(value)} bytes, not {size}")
    return int.from_bytes(value, "big")


def _bits(value: int, names: tuple[str, ...]) -> list[str]:
    return [name for bit, name in enumerate(names) if value >> bit & 1]


def _name(attributes: dict[int, bytes], kind: int) -> str:
    if kind not in attributes:
        raise RecordError("a name is missing")
    return _text(attributes[kind])


def _text(value: bytes) -> str:
    """A NUL-terminated string of somebody else, printable."""
    text = value.split(b"\0", 1)[0].decode("ascii", "replace")
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _ipv4(addresses: dict[int, bytes], kind: int) -> str:
    value = addresses.get(kind, b"")
    if len(value) != 4:
        raise RecordError(f"an IPv4 address of {len(value)} bytes")
    return "%d.%d.%d.%d" % tuple(value)  # noqa: UP031 - twice as fast as an f-string


def _ipv6(addresses: dict[int, bytes], kind: int) -> str:
    """As inet_ntop() of glibc writes it."""
    value = addresses.get(kind, b"")
    if len(value) != 16:
        raise RecordError(f"an IPv6 address of {len(value)} bytes")
    return short_ipv6(value)
