"""When are two accounts of one record the same?

In: bodies. Out: yes or no. The kernel moves some things without an event, with every
packet: the timer, the TCP flag 0x10 (data unacknowledged) of either direction, the bits
that say that a flow table carries the flow for now. An account that differs in nothing
else is no news, whether a dump or a reply brings it. The flag 0x20 (MAXACK_SET) comes
without an event too, but once, with the first ACK after a commit or in mid-stream.

The rule: nothing is changed here, and a body that cannot be read differs.
"""

from syncd.errors import RecordError
from syncd.flows.nla import attributes
from syncd.flows.record import (
    CTA_EXPECT_TIMEOUT,
    CTA_PROTOINFO,
    CTA_STATUS,
    CTA_TIMEOUT,
    EXPECTATION,
    FLOW_ORDER,
    timeout_of,
)

# IPS_OFFLOAD, linux/netfilter/nf_conntrack_common.h: the kernel then shows neither
# TIMEOUT nor PROTOINFO (ctnetlink_fill_info in nf_conntrack_netlink.c). Above it is
# IPS_HW_OFFLOAD.
OFFLOADED = 0x4000

_STATUS_HEAD, _TIMEOUT_HEAD = b"\x08\0\x03\0", b"\x08\0\x07\0"
_STEADY_STATUS = 0x3F  # of its second lowest byte: all but the bits of flow tables
_STEADY_FLAGS, _EVEN_STEADIER_FLAGS = 0xEF, 0xCF
_TCP_HEADS = b"\x30\0\x04\x80\x2c\0\x01\x80"  # PROTOINFO as kernels write it for TCP
_FLAGS_AT = (36, 44)  # the flags of each direction in it
_EXPECTATION = EXPECTATION
_MARGIN_S = 30


def same_reply(one: bytes, other: bytes) -> bool:
    """Are these flows of one original tuple translated alike?"""
    size = one[0] if one else 0
    return one[:size] == other[:size] and bool(size)


def alike(key: bytes, old: bytes, new: bytes, lenient: bool = False) -> bool:
    """Is the new account of this record the same, but for what moves by itself?

    `lenient` does not look at MAXACK_SET either.
    """
    if old == new:
        return True
    if key[6] == _EXPECTATION:
        return _steady_expectation(old) == _steady_expectation(new)
    # The layout of nearly all: the reply tuple, STATUS, TIMEOUT, others.
    size = len(old)
    at = old[0] | old[1] << 8 if size > 1 else 0
    if (
        size == len(new)
        and size >= at + 16
        and old[at + 8 : at + 12] == _TIMEOUT_HEAD == new[at + 8 : at + 12]
        and old[: at + 8] == new[: at + 8]
        and old[at + 16 :] == new[at + 16 :]
    ):
        return True
    kept = _EVEN_STEADIER_FLAGS if lenient else _STEADY_FLAGS
    return _steady(old, kept) == _steady(new, kept)


def lengthened(key: bytes, old: bytes, new: bytes) -> bool:
    """Is a flow's timer at least twice that which was told, and half a minute longer?

    A flow that the kernel keeps alive without an event would end too early where its
    first account, taken when its timer had nearly run out, is put into a kernel.
    """
    told_s = timeout_of(old)
    if told_s is None or key[6] == _EXPECTATION:
        return False
    left_s = timeout_of(new)
    return left_s is not None and left_s >= max(2 * told_s, told_s + _MARGIN_S)


def completed(old: bytes, new: bytes) -> bytes:
    """A dump's body of an offloaded flow, with the TIMEOUT and PROTOINFO told last."""
    try:
        known, present = attributes(old), attributes(new)
    except RecordError:
        return new
    for kind in (CTA_TIMEOUT, CTA_PROTOINFO):
        if kind in known and kind not in present:
            present[kind] = known[kind]
    return b"".join([present[kind] for kind in FLOW_ORDER if kind in present])


def _steady(body: bytes, kept: int) -> dict[int, bytes]:
    """What does not move by itself of a flow."""
    try:
        parts = attributes(body)
    except RecordError:
        return {0: body}
    if CTA_TIMEOUT in parts:
        parts[CTA_TIMEOUT] = b""
    status = parts.get(CTA_STATUS)
    if status is not None and len(status) == 8 and status[6] & ~_STEADY_STATUS:
        steady = bytes((status[6] & _STEADY_STATUS,))
        parts[CTA_STATUS] = status[:6] + steady + status[7:]
    protoinfo = parts.get(CTA_PROTOINFO)
    if protoinfo is not None and protoinfo[:8] == _TCP_HEADS and len(protoinfo) == 48:
        flags = bytearray(protoinfo)
        for at in _FLAGS_AT:
            flags[at] &= kept
        parts[CTA_PROTOINFO] = bytes(flags)
    return parts


def _steady_expectation(body: bytes) -> dict[int, bytes]:
    try:
        parts = attributes(body)
    except RecordError:
        return {0: body}
    parts.pop(CTA_EXPECT_TIMEOUT, None)
    return parts
