"""Most of what a warm standby is told is simple: sort that out, fast.

In: touched keys, what a peer tells, what is planted, what is own, what closes. Out:
flows to create and to change, by the length of their timers, copies to delete, and the
keys that need a closer look. The rule: what is sorted out here is what `Standby` would
do with it; in doubt, look closer.
"""

from syncd.flows.batch import TimedRecord
from syncd.flows.closing import Closing
from syncd.flows.forward import ESTABLISHED, LAST_ACK
from syncd.flows.record import FLOW

# Heads of attributes, read as numbers; CTA_PROTOINFO_TCP, without its length.
_STATUS_HEAD, _TIMEOUT_HEAD, _PROTOINFO_HEAD = 0x08000300, 0x08000700, 0x30000480
_TCP_TYPE = 0x0180
_FLOW, _GRE, _IPV4, _ESTABLISHED, _LAST_ACK = FLOW, 47, 2, ESTABLISHED, LAST_ACK
_SHORTEST = 37  # a key of IPv4, as far as its protocol
# Of the two lowest bytes of STATUS: EXPECTED; bits that an entry never loses
# (SEEN_REPLY, ASSURED, SRC_NAT, DST_NAT); those that it never gets (NAT).
_EXPECTED, _LASTING, _NAT = 0x01, 0x36, 0x30

Changed = tuple[TimedRecord, bytes]  # the record, and the body that is planted


class Sorted:
    """What came of it; `short` and `long` are timers."""

    __slots__ = (
        "changed_long",
        "changed_short",
        "deletes",
        "ended",
        "fresh_long",
        "fresh_short",
        "rest",
    )

    def __init__(self) -> None:
        self.fresh_short: list[TimedRecord] = []
        self.fresh_long: list[TimedRecord] = []
        self.changed_short: list[Changed] = []
        self.changed_long: list[Changed] = []
        # Copies that nobody tells any more; TCP whose last packets were seen, others.
        self.deletes: list[bytes] = []
        self.ended: list[bytes] = []
        self.rest: list[bytes] = []


def triage(
    keys: list[bytes],
    told: dict[bytes, bytes],
    planted: dict[bytes, bytes],
    own: dict[bytes, bytes],
    closing: Closing,
    long_s: int,
    now: float,
) -> Sorted:
    """Sort keys of flows that nobody tells but one live peer."""
    result = Sorted()
    rest = result.rest
    for key in keys:
        name, length = key, len(key)
        if length < _SHORTEST or name[6] != _FLOW or key in own:
            rest.append(key)
            continue
        body, held = told.get(key), planted.get(key)
        if body is None:
            if held is None:
                rest.append(key)
            elif _is_over(closing.end(key), held, len(held)):
                result.deletes.append(key)
            else:
                result.ended.append(key)
            continue
        if held is body:
            continue
        size, data, protocol = len(body), body, 36 if name[0] == _IPV4 else 60
        at = data[0] if size else 0
        if (
            size < at + 16
            or length <= protocol
            or _word(data, at) != _STATUS_HEAD
            or _word(data, at + 8) != _TIMEOUT_HEAD
            or data[at + 7] & _EXPECTED
            or name[protocol] == _GRE
        ):
            rest.append(key)
            continue
        seconds, record = _word(data, at + 12), (key, body, 0.0)
        if held is None:
            fresh = result.fresh_short if seconds < long_s else result.fresh_long
            fresh.append(record)
            continue
        held_size, was = len(held), held
        if held_size < at + 8 or not body.startswith(held[:at]):
            rest.append(key)
            continue
        state, before, after = _state(data, at, size), was[at + 7], data[at + 7]
        if before & ~after & _LASTING or (before ^ after) & _NAT:
            rest.append(key)
        elif state > _ESTABLISHED and _state(was, at, held_size) >= _ESTABLISHED:
            if not closing.wait(key, state, now):
                rest.append(key)
        elif seconds < long_s:
            result.changed_short.append((record, held))
        else:
            result.changed_long.append((record, held))
    return result


def _is_over(state: int, held: bytes, size: int) -> bool:
    """Has TCP seen its last packets, by what was told last, or by what is held?"""
    if state < _LAST_ACK and size:
        state = _state(held, held[0], size)
    return state >= _LAST_ACK


def _word(data: bytes, at: int) -> int:
    return data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]


def _state(data: bytes, at: int, size: int) -> int:
    """The state of a TCP connection whose STATUS begins there; 0 if it is none."""
    if size <= at + 28 or _word(data, at + 16) != _PROTOINFO_HEAD:
        return 0
    return data[at + 28] if _word(data, at + 20) & 0xFFFF == _TCP_TYPE else 0
