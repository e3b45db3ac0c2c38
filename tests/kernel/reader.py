"""An independent reader of a kernel's tables, and a judge of two tables.

In: a network namespace, or the rows of `syncd show --json`. Out: `Rows`, a plain value
for each flow or expectation, and sentences on how two of them differ. The rule: nothing
here comes from syncd; dump and decoder are written from the kernel's headers alone.
"""

import json
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from tests.lab import inside

Row = dict[str, object]
Key = tuple[object, ...]
Rows = dict[Key, Row]

FLOWS, EXPECTATIONS = 0x0101, 0x0201
_NETFILTER = 12
_DUMP = 0x301
_ERROR, _DONE = 2, 3
_RECEIVE_BYTES = 1 << 16

# include/uapi/linux/netfilter/nf_conntrack_common.h
EXPECTED, CONFIRMED, SRC_NAT, DST_NAT, SEQ_ADJUST = 0x1, 0x8, 0x10, 0x20, 0x40
NAT_DONE, FIXED_TIMEOUT, HELPER = 0x180, 0x400, 0x2000
_STATUS_WORDS = {
    "EXPECTED": EXPECTED,
    "SEEN_REPLY": 0x2,
    "ASSURED": 0x4,
    "CONFIRMED": CONFIRMED,
    "SRC_NAT": SRC_NAT,
    "DST_NAT": DST_NAT,
    "SEQ_ADJUST": SEQ_ADJUST,
    "SRC_NAT_DONE": 0x80,
    "DST_NAT_DONE": 0x100,
    "DYING": 0x200,
    "FIXED_TIMEOUT": FIXED_TIMEOUT,
    "NAT_CLASH": 0x1000,
    "HELPER": HELPER,
}
_TCP_FLAG_WORDS = {
    "WINDOW_SCALE": 0x01,
    "SACK_PERM": 0x02,
    "CLOSE_INIT": 0x04,
    "BE_LIBERAL": 0x08,
    "DATA_UNACKNOWLEDGED": 0x10,
    "MAXACK_SET": 0x20,
}
_TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"),
    *("LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
_SCTP_STATES = (
    *("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED"),
    *("SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"),
)
_ZERO_LABELS = "00" * 16


def kernel_rows(namespace: str, kind: int = FLOWS) -> Rows:
    """All flows or expectations that the namespace's kernel holds."""
    decode = flow_row if kind == FLOWS else expectation_row
    return dict(decode(message) for message in dump(namespace, kind))


def dump(namespace: str, kind: int = FLOWS) -> list[bytes]:
    """The messages of one dump, as they came."""
    messages: list[bytes] = []
    with inside(namespace):
        asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    with asking:
        asking.bind((0, 0))
        asking.send(struct.pack("=IHHIIBBH", 20, kind, _DUMP, 1, 0, 0, 0, 0))
        while True:
            data, start = asking.recv(_RECEIVE_BYTES), 0
            while start < len(data):
                length, code = struct.unpack_from("=IH", data, start)
                if code == _DONE:
                    return messages
                if code == _ERROR:
                    raise RuntimeError(f"dump: {data[start:].hex()}")
                messages.append(data[start : start + length])
                start += length + 3 & ~3


def delete_flows(namespace: str, messages: Iterable[bytes]) -> int:
    """Ask the kernel to end the flows of these dumped messages; how many it refused."""
    refused = 0
    with inside(namespace):
        asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    with asking:
        asking.bind((0, 0))
        for message in messages:
            size = struct.unpack_from("=H", message, 20)[0]
            body = message[16 : 20 + size] + _zone_part(message)
            asking.send(struct.pack("=IHHII", 16 + len(body), 0x102, 5, 1, 0) + body)
            refused += struct.unpack_from("=i", asking.recv(4096), 16)[0] != 0
    return refused


def _zone_part(message: bytes) -> bytes:
    zone = _parts(message[20:]).get(18)
    return b"" if zone is None else struct.pack("=HH", 6, 18) + zone + bytes(2)


def _parts(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    start = 0
    while start + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, start)
        found[kind & 0x3FFF] = data[start + 4 : start + length]
        start += length + 3 & ~3
    return found


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _ends(data: bytes) -> tuple[object, ...]:
    """(protocol, source, destination, three more numbers, zone of this direction)."""
    parts = _parts(data)
    addresses, proto = _parts(parts[1]), _parts(parts.get(2, b""))
    if 1 in addresses:
        source, destination = (
            socket.inet_ntop(socket.AF_INET, addresses[kind]) for kind in (1, 2)
        )
    else:
        source, destination = (
            socket.inet_ntop(socket.AF_INET6, addresses[kind]) for kind in (3, 4)
        )
    number = _big(proto.get(1, b""))
    kinds = {1: (4, 5, 6), 58: (7, 8, 9)}.get(number, (2, 3))
    rest = [_big(proto[kind]) if kind in proto else 0 for kind in kinds]
    return (number, source, destination, *rest, _big(parts.get(3, b"")))


def flow_row(message: bytes) -> tuple[Key, Row]:
    """Key and attributes of one dumped flow."""
    parts = _parts(message[20:])
    row: Row = {
        "reply": _ends(parts[2]),
        "status": _big(parts[3]),
        "mark": _big(parts.get(8, b"")),
        "state": _protocol_state(parts.get(4, b"")),
        "helper": _word(_parts(parts.get(5, b"")).get(1)),
        "labels": parts[22].hex() if 22 in parts else _ZERO_LABELS,
        "master": _ends(parts[14])[:-1] if 14 in parts else None,
        "adjust": tuple(_numbers(parts.get(kind), (1, 2, 3)) for kind in (15, 16)),
        "synproxy": _numbers(parts.get(24), (1, 2, 3)),
        "timeout": _big(parts.get(7, b"")),
    }
    return (_ends(parts[1]), _big(parts.get(18, b""))), row


def _protocol_state(data: bytes) -> tuple[object, ...]:
    parts = _parts(data)
    if 1 in parts:
        tcp = _parts(parts[1])
        scales = (_big(tcp.get(2, b"")), _big(tcp.get(3, b"")))
        flags = (tcp.get(4, b"\0")[0], tcp.get(5, b"\0")[0])
        return (_TCP_STATES[_big(tcp[1])], scales, flags)
    if 3 in parts:
        sctp = _parts(parts[3])
        return (_SCTP_STATES[_big(sctp[1])], _big(sctp[2]), _big(sctp[3]))
    return ()


def _numbers(data: bytes | None, kinds: tuple[int, ...]) -> tuple[int, ...]:
    parts = _parts(data or b"")
    return tuple(_big(parts.get(kind, b"")) for kind in kinds)


def _word(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode()


def expectation_row(message: bytes) -> tuple[Key, Row]:
    """Key and attributes of one dumped expectation. The kernel tells no zone."""
    parts = _parts(message[20:])
    nat = _parts(parts.get(10, b""))
    row: Row = {
        "flags": _big(parts.get(8, b"")),
        "class": _big(parts.get(9, b"")),
        "helper": _word(parts.get(6)),
        "function": _word(parts.get(11)),
        "nat": (_big(nat[1]), _ends(nat[2])[:-1]) if nat else None,
        "timeout": _big(parts.get(4, b"")),
    }
    return tuple(_ends(parts[kind])[:-1] for kind in (2, 3, 1)), row


# The same rows from what `syncd show --json` prints.


def shown_rows(text: str) -> Rows:
    """The rows of one table; a key that is there twice is an error."""
    found: Rows = {}
    for line in text.splitlines():
        shown = json.loads(line)
        read = _shown_flow if shown["kind"] == "flow" else _shown_expectation
        key, row = read(shown)
        if key in found:
            raise AssertionError(f"{key} is in the table twice")
        found[key] = row
    return found


def _shown_ends(number: int, ends: dict[str, object]) -> tuple[object, ...]:
    names = {1: ("id", "type", "code"), 58: ("id", "type", "code")}.get(
        number, ("srckey", "dstkey") if number == 47 else ("sport", "dport")
    )
    rest = [ends.get(name, 0) for name in names]
    return (number, ends["src"], ends["dst"], *rest, ends.get("zone", 0))


def _shown_flow(shown: dict[str, object]) -> tuple[Key, Row]:
    number = _number(shown, "protocol_number")
    adjust, synproxy = _part(shown, "seqadj"), _part(shown, "synproxy")
    members = ("correction_pos", "offset_before", "offset_after")
    row: Row = {
        "reply": _shown_ends(number, _part(shown, "reply")),
        "status": _bits(shown, "status", _STATUS_WORDS),
        "mark": _number(shown, "mark"),
        "state": _shown_state(shown),
        "helper": shown.get("helper", ""),
        "labels": shown.get("labels", _ZERO_LABELS),
        "master": _shown_whole(shown.get("master")),
        "adjust": tuple(
            tuple(_number(_part(adjust, side), name) for name in members)
            for side in ("orig", "reply")
        ),
        "synproxy": tuple(_number(synproxy, name) for name in ("isn", "its", "tsoff")),
        "timeout": _number(shown, "timeout"),
    }
    orig = _shown_ends(number, _part(shown, "orig"))
    return (orig, _number(shown, "zone")), row


def _shown_state(shown: dict[str, object]) -> tuple[object, ...]:
    number = shown["protocol_number"]
    if number == 6 and "state" in shown:
        sides = [_part(_part(shown, "tcp"), side) for side in ("orig", "reply")]
        scales = tuple(_number(side, "window_scale") for side in sides)
        flags = tuple(_bits(side, "flags", _TCP_FLAG_WORDS) for side in sides)
        return (shown["state"], scales, flags)
    if number == 132 and "state" in shown:
        vtags = _part(shown, "sctp")
        tags = (_number(vtags, "vtag_orig"), _number(vtags, "vtag_reply"))
        return (shown["state"], *tags)
    return ()


def _shown_whole(value: object) -> tuple[object, ...] | None:
    if not isinstance(value, dict):
        return None
    return _shown_ends(_number(value, "protocol_number"), value)[:-1]


def _shown_expectation(shown: dict[str, object]) -> tuple[Key, Row]:
    number = _number(shown, "protocol_number")
    nat = _part(shown, "nat")
    row: Row = {
        "flags": _bits(shown, "flags", {"PERMANENT": 1, "INACTIVE": 2, "USERSPACE": 4}),
        "class": _number(shown, "class"),
        "helper": shown.get("helper", ""),
        "function": shown.get("function", ""),
        "nat": (int(nat["direction"] == "reply"), _shown_whole(nat["tuple"]))
        if nat
        else None,
        "timeout": _number(shown, "timeout"),
    }
    tuples = (
        _shown_ends(number, _part(shown, "expected"))[:-1],
        _shown_ends(number, _part(shown, "mask"))[:-1],
        _shown_whole(shown.get("master")),
    )
    return tuples, row


def _part(value: dict[str, object], name: str) -> dict[str, object]:
    part = value.get(name, {})
    assert isinstance(part, dict)
    return part


def _number(value: dict[str, object], name: str) -> int:
    number = value.get(name, 0)
    assert isinstance(number, int)
    return number


def _bits(value: dict[str, object], name: str, words: dict[str, int]) -> int:
    found = value.get(name, [])
    assert isinstance(found, list)
    return sum(words[word] for word in found)


# The judge.


def as_replicated(row: Row) -> Row:
    """What a peer's copy must show: all but timers, and a TCP flag without events."""
    return row | {"timeout": 0, "state": _masked(row, 0x2F)}


def as_told(row: Row) -> Row:
    """As replicated, for flows that the kernel may have picked up in mid-stream.

    Such a flow gets MAXACK_SET (0x20) with its first acknowledgement, after the event
    that told of it, and no event tells of that (tcp_in_window).
    """
    return row | {"timeout": 0, "state": _masked(row, 0x0F)}


def as_expected(row: Row) -> Row:
    """Of an expectation, all but its timer."""
    return row | {"timeout": 0}


def as_committed(row: Row) -> Row:
    """What another kernel must show after a commit.

    Left out are the documented differences: TCP flags that are the kernel's own, those
    of a server that has not answered yet, the fixed timer of GRE, null bindings.
    """
    status = row["status"]
    assert isinstance(status, int)
    status &= ~FIXED_TIMEOUT
    if not status & (SRC_NAT | DST_NAT):
        status &= ~NAT_DONE
    state = _masked(row, 0x07)
    if isinstance(state, tuple) and state[:1] == ("SYN_SENT",):
        state = (*state[:2], state[2][0] & 0x07)
    return row | {"timeout": 0, "status": status, "state": state}


def _masked(row: Row, mask: int) -> object:
    state = row.get("state", ())
    assert isinstance(state, tuple)
    if len(state) == 3 and isinstance(state[2], tuple):
        return (*state[:2], tuple(flags & mask for flags in state[2]))
    return state


def differences(
    wanted: Rows, found: Rows, view: Callable[[Row], Row] = as_replicated
) -> list[str]:
    """One sentence for each row that is missing, too many or different."""
    return list(_differences(wanted, found, view))


def _differences(
    wanted: Rows, found: Rows, view: Callable[[Row], Row]
) -> Iterator[str]:
    for key, row in wanted.items():
        if key not in found:
            yield f"missing: {key} {row}"
            continue
        left, right = view(row), view(found[key])
        if left != right:
            names = [name for name in left if left[name] != right.get(name)]
            told = ", ".join(f"{n} {left[n]} != {right.get(n)}" for n in names)
            yield f"different: {key}: {told}"
    for key, row in found.items():
        if key not in wanted:
            yield f"too many: {key} {row}"
