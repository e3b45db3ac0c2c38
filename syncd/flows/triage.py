"""Most of what a warm standby is told is simple: sort that out, fast.

In: touched keys, what a peer tells, what is planted, what is own. Out: flows to create
and to change, by the length of their timers, and the keys that need a closer look. The
rule: what is sorted out here is what `Standby` would do with it; in doubt, look closer.
"""

from syncd.flows.batch import TimedRecord
from syncd.flows.record import FLOW

_STATUS_HEAD, _TIMEOUT_HEAD = b"\x08\0\x03\0", b"\x08\0\x07\0"
_PROTOINFO_HEAD, _TCP_TYPE = b"\x30\0\x04\x80", b"\x01\x80"
_FLOW, _GRE, _IPV4, _ESTABLISHED = FLOW, 47, 2, 3
# Of the two lowest bytes of STATUS: EXPECTED; bits that an entry never loses
# (SEEN_REPLY, ASSURED, SRC_NAT, DST_NAT); those that it never gets (NAT).
_EXPECTED, _LASTING, _NAT = 0x01, 0x36, 0x30

Changed = tuple[TimedRecord, bytes]  # the record, and the body that is planted


class Sorted:
    """What came of it; `short` and `long` are timers."""

    __slots__ = (
        "changed_long",
        "changed_short",
        "closing",
        "fresh_long",
        "fresh_short",
        "rest",
    )

    def __init__(self) -> None:
        self.fresh_short: list[TimedRecord] = []
        self.fresh_long: list[TimedRecord] = []
        self.changed_short: list[Changed] = []
        self.changed_long: list[Changed] = []
        self.closing: list[tuple[bytes, int]] = []  # TCP that closes, and its state
        self.rest: list[bytes] = []


def triage(
    keys: list[bytes],
    told: dict[bytes, bytes],
    planted: dict[bytes, bytes],
    own: dict[bytes, bytes],
    long_s: int,
) -> Sorted:
    """Sort keys of flows that nobody tells but one live peer."""
    result = Sorted()
    rest = result.rest
    for key in keys:
        body = told.get(key)
        if body is None or key[6] != _FLOW or key in own:
            rest.append(key)
            continue
        held = planted.get(key)
        if held is body:
            continue
        at, size = body[0], len(body)
        if (
            size < at + 16
            or body[at : at + 4] != _STATUS_HEAD
            or body[at + 8 : at + 12] != _TIMEOUT_HEAD
            or body[at + 7] & _EXPECTED
            or key[36 if key[0] == _IPV4 else 60] == _GRE
        ):
            rest.append(key)
            continue
        seconds = (
            body[at + 12] << 24
            | body[at + 13] << 16
            | body[at + 14] << 8
            | body[at + 15]
        )
        record = (key, body, 0.0)
        if held is None:
            if seconds < long_s:
                result.fresh_short.append(record)
            else:
                result.fresh_long.append(record)
            continue
        if len(held) < at + 8 or held[:at] != body[:at]:
            rest.append(key)
            continue
        was, now = held[at + 7], body[at + 7]
        state = _state(body, at)
        if was & ~now & _LASTING or (was ^ now) & _NAT:
            rest.append(key)
        elif state > _ESTABLISHED and _state(held, at) >= _ESTABLISHED:
            result.closing.append((key, state))
        elif seconds < long_s:
            result.changed_short.append((record, held))
        else:
            result.changed_long.append((record, held))
    return result


def _state(body: bytes, at: int) -> int:
    """The state of a TCP connection whose STATUS begins there; 0 if it is none."""
    if len(body) <= at + 28 or body[at + 16 : at + 20] != _PROTOINFO_HEAD:
        return 0
    return body[at + 28] if body[at + 22 : at + 24] == _TCP_TYPE else 0
