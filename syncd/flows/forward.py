"""A flow that two kernels see, each from its side: what the other one knows more of.

In: this kernel's body and a peer's. Out: this kernel's body brought forward, or None.
The rule: only forward. Status bits are added, a TCP state goes further on the way of a
connection; each node does the same, so both end at the same state and tell no more.
Marks and labels know no order: they are taken from the node that carries the traffic.
"""

from operator import and_

from syncd.errors import RecordError
from syncd.flows import nla, restore
from syncd.flows.masks import Masks
from syncd.flows.record import (
    CTA_LABELS,
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_STATE,
    CTA_SEQ_ADJ_ORIG,
    CTA_SEQ_ADJ_REPLY,
    CTA_STATUS,
    CTA_SYNPROXY,
    CTA_TIMEOUT,
    CTA_TUPLE_REPLY,
)
from syncd.flows.restore import KEPT_BITS, be32, status_word

# TCP_CONNTRACK_* in the order in which a connection goes through them: SYN_SENT2 (9)
# comes before SYN_RECV.
_STEPS = {0: 0, 1: 1, 9: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9}
_ESTABLISHED = 4
ESTABLISHED, LAST_ACK = 3, 6  # TCP_CONNTRACK_*
_PROTOINFO_HEAD = b"\x30\0\x04\x80"
_TCP_TYPE = b"\x01\x80"  # CTA_PROTOINFO_TCP
_ADJUSTED = 1 << CTA_SEQ_ADJ_ORIG | 1 << CTA_SEQ_ADJ_REPLY | 1 << CTA_SYNPROXY
_LEFT = 1 << CTA_TIMEOUT | _ADJUSTED


def advance(ours: bytes, theirs: bytes, masks: Masks | None = None) -> bytes | None:
    """Our body with what the peer's has more of; None if that is nothing.

    Only one that was ESTABLISHED is taken beyond that: an old word of a connection
    that ended must not end a new one of the same tuple. With `masks` the body has these
    bits of the peer's mark and labels, and no others: see `bring`.
    """
    try:
        here, there = nla.attributes(ours), nla.attributes(theirs)
        if here.get(CTA_TUPLE_REPLY) != there.get(CTA_TUPLE_REPLY):
            return None
        status = status_word(here)
        added = status_word(there) & KEPT_BITS & ~status
        step, further = _step(here), _step(there)
    except RecordError:
        return None
    if further > _ESTABLISHED > step:
        further = -1
    followed = masks is not None and _follow(here, there, masks)
    if not (added or followed) and further <= step:
        return None
    here[CTA_STATUS] = be32(CTA_STATUS, status | added)
    if further > step:
        here[CTA_PROTOINFO] = there[CTA_PROTOINFO]
    return b"".join(here.values())


def tcp_state(body: bytes) -> int:
    """The state of a TCP connection, by its usual place; -1 if it is not there."""
    at = body[0] + 16  # behind REPLY, STATUS and TIMEOUT
    head = body[at : at + 4] == _PROTOINFO_HEAD and body[at + 6 : at + 8] == _TCP_TYPE
    return body[at + 12] if head and len(body) > at + 12 else -1


def bring(
    key: bytes, body: bytes, sequence: int, held: bytes, masks: Masks | None = None
) -> bytes:
    """The message that gives a flow STATUS, PROTOINFO and marks of `body`.

    Packets keep the timer of the flow, so it is left as it is; so are labels, and the
    bits outside of `masks`.
    """
    if masks is None:
        return restore.update(key, body, 0, sequence, held, _LEFT | 1 << CTA_LABELS)
    return restore.update(key, body, 0, sequence, held, _LEFT, masks.attributes)


def _follow(here: dict[int, bytes], there: dict[int, bytes], masks: Masks) -> bool:
    """Take these bits of the peer's mark and labels; were any of them different?"""
    different = False
    for kind, mask in (
        (CTA_MARK, masks.mark_mask.to_bytes(4, "big")),
        (CTA_LABELS, masks.label_mask.to_bytes(16, "little")),
    ):
        ours, theirs = (
            bytes(map(and_, body.get(kind, b"")[4:], mask)) for body in (here, there)
        )
        different = different or ours.rstrip(b"\0") != theirs.rstrip(b"\0")
        here[kind] = nla.tlv(kind, theirs) if any(theirs) else b""
    return different


def _step(attributes: dict[int, bytes]) -> int:
    """How far a TCP connection is; -1 if it is none."""
    raw = attributes.get(CTA_PROTOINFO, b"")
    for kind, _, start, end in nla.walk(raw, 4, len(raw)):
        if kind == CTA_PROTOINFO_TCP:
            for inner, _, at, _ in nla.walk(raw, start, end):
                if inner == CTA_PROTOINFO_TCP_STATE:
                    return _STEPS.get(raw[at], -1)
    return -1
