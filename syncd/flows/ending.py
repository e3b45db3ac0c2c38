"""Flows that ended: what the kernel and the own table knew comes in, accounts go out.

An `Ending` is the DESTROY message of a flow, what that message lacks (helper, labels,
master: as the own table had them), and why the flow ended. The rule: a DESTROY has
CTA_TIMEOUT if and only if time was left, and a portid if and only if a program did it
(ctnetlink.md, section 3); nothing else is known of the reason.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from syncd.flows.nla import attributes, find
from syncd.flows.numbers import ASSURED
from syncd.flows.own import End
from syncd.flows.record import (
    BY_PROGRAM,
    CTA_HELP,
    CTA_LABELS,
    CTA_PROTOINFO,
    CTA_PROTOINFO_SCTP,
    CTA_PROTOINFO_TCP,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
    status_of,
)

EXPIRED: Final = "expired"  # its timer ran out
CLOSED: Final = "closed"  # both sides had said good-bye
RESET: Final = "reset"  # one side broke it off
DELETED: Final = "deleted"  # a program did it
EVICTED: Final = "evicted"  # not assured, with time left: the table was full
REMOVED: Final = "removed"  # assured, with time left: its address left, for one
LOST: Final = "lost"  # no event told its end, a dump did not show it
REASONS: Final = (EXPIRED, CLOSED, RESET, DELETED, EVICTED, REMOVED, LOST)

_TIMEOUT_BIT: Final = 1 << CTA_TIMEOUT
_SYN_SENT, _SYN_RECV, _LAST_ACK, _TIME_WAIT, _CLOSE, _SYN_SENT2 = 1, 2, 6, 7, 8, 9
_SCTP_CLOSED, _SHUTDOWN_ACK_SENT = 1, 7
_TIMEOUT_HEADER: Final = bytes((8, 0, CTA_TIMEOUT, 0))
_TIMEOUT_TYPE: Final = bytes((CTA_TIMEOUT,))
_PROTOINFO_TYPE: Final = bytes((CTA_PROTOINFO,))
_DESTROY: Final = b"\x02\x01"
_MISSING: Final = (CTA_HELP, CTA_LABELS, CTA_TUPLE_MASTER)


class Ending(NamedTuple):
    """One flow that ended."""

    message: bytes  # as the kernel told it, or what a table knew of a lost one
    extra: bytes  # attributes that the message lacks
    reason: str
    portid: int  # of the program that deleted it, or 0
    taken_over: bool  # it began on another node


def reason_of(body: bytes, mask: int) -> str:
    """Why a flow ended, from the body and the mask of its last record."""
    if mask & BY_PROGRAM:
        return DELETED
    kind, state = _state_of(body)
    if kind == CTA_PROTOINFO_TCP:
        if state in (_LAST_ACK, _TIME_WAIT):
            return CLOSED
        if state == _CLOSE:
            return RESET
    elif kind == CTA_PROTOINFO_SCTP and state in (_SCTP_CLOSED, _SHUTDOWN_ACK_SENT):
        return CLOSED
    if not mask & _TIMEOUT_BIT:
        return EXPIRED
    return REMOVED if status_of(body) & ASSURED else EVICTED


def _state_of(body: bytes) -> tuple[int, int]:
    """Which protocol tells a state, and which one; zeros if none does."""
    # CTA_PROTOINFO { of the protocol { state, one byte } }
    start = (body[0] | body[1] << 8) + 8  # behind the reply tuple and the status
    if body[start + 2 : start + 3] == _TIMEOUT_TYPE:
        start += 8
    if body[start + 2 : start + 3] != _PROTOINFO_TYPE:
        start = find(body, CTA_PROTOINFO)
    if not 0 <= start < len(body) - 12:
        return 0, 0
    return body[start + 6], body[start + 12]


def ending_of(message: bytes, end: End) -> Ending:
    """What there is to say of a flow that the kernel told the end of."""
    (_, _, body, _, mask), known, _, taken_over = end
    return Ending(
        message,
        _extra_of(known) if known else b"",
        reason_of(body, mask),
        int.from_bytes(message[12:16], "little"),
        taken_over,
    )


def lost_ending(key: bytes, body: bytes, *, taken_over: bool) -> Ending:
    """The same of one that was gone when somebody looked: nothing was counted."""
    length = 16 + len(key) + len(body)
    head = length.to_bytes(4, "little") + _DESTROY + bytes(10)
    return Ending(head + key + body, b"", LOST, 0, taken_over)


def _extra_of(known: bytes) -> bytes:
    found = attributes(known)
    return b"".join([found[kind] for kind in _MISSING if kind in found])


def whole(ending: Ending) -> bytes:
    """The message with what it lacks."""
    message, extra = ending.message, ending.extra
    if not extra:
        return message
    length = len(message) + len(extra)
    return length.to_bytes(4, "little") + message[4:] + extra


def without_timeout(message: bytes) -> bytes:
    """The message without the time that was left, which conntrackd leaves out."""
    if _TIMEOUT_HEADER not in message:
        return message
    start = find(message[20:], CTA_TIMEOUT) + 20
    if start < 20:
        return message
    length = len(message) - 8
    return length.to_bytes(4, "little") + message[4:start] + message[start + 8 :]


def ends_of(messages: Sequence[bytes], ends: Sequence[End]) -> list[tuple[bytes, End]]:
    """Each end with the message that told it; both are in the order of their coming."""
    destroyed = [message for message in messages if message[4:6] == _DESTROY]
    if len(destroyed) == len(ends):
        return list(zip(destroyed, ends, strict=True))
    pairs: list[tuple[bytes, End]] = []
    left = iter(destroyed)
    for end in ends:  # some messages made no record
        key = end[0][1]
        tuple_end = 4 + (key[4] | key[5] << 8)
        for message in left:
            if message[16 : 16 + tuple_end] == key[:tuple_end]:
                pairs.append((message, end))
                break
    return pairs
