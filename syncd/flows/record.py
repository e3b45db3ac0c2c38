"""Who am I? A ctnetlink message comes in, a record goes out.

A record is a tuple (kind, key, body, ident, mask), all bytes as the kernel wrote them:

    key    nfgenmsg (4 bytes), CTA_TUPLE_ORIG [, CTA_ZONE] of a flow;
           nfgenmsg, CTA_EXPECT_TUPLE, CTA_EXPECT_MASK [, CTA_EXPECT_ZONE] of an
           expectation. key[6] tells them apart: FLOW or EXPECTATION
    body   the other attributes that are replicated, in one canonical order
    ident  the 4 bytes of CTA_ID, or b""
    mask   1 << type of each attribute in the body, and CANONICAL

Left out: ID, USE, counters, timestamps, security marks; a mark of 0 and a SYNPROXY of
zeros too, for dumps have them always and events never. Only an UPDATE keeps such a
zero: it overrides, and `merge` drops it. The mask of that UPDATE lacks CANONICAL, which
each other mask has, so `stored & ~new == 0` is the whole test for "the new body has all
that the stored one has and may stand in its place".

The rule: what a record is stands here, with what may be asked of its parts; `reader.py`
makes records of messages.
"""

from syncd.errors import RecordError
from syncd.flows.nla import attributes, find, tlv, walk

Record = tuple[int, bytes, bytes, bytes, int]

# Kinds of records. A DUMP is the reply to a dump or to a GET.
NEW, UPDATE, END, DUMP, EXP_NEW, EXP_END, EXP_DUMP = range(7)

# What key[6] is: the low byte of the first attribute's type.
FLOW = 1
EXPECTATION = 2

CANONICAL = 1  # the bit of CTA_UNSPEC, which no message has
BY_PROGRAM = 1 << 40  # what a program did, UPDATE and END: a bit beyond all attributes

# linux/netfilter/nfnetlink_conntrack.h
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY = 1, 2
CTA_STATUS, CTA_STATUS_MASK = 3, 26
CTA_PROTOINFO, CTA_HELP = 4, 5
CTA_NAT_SRC, CTA_NAT_DST = 6, 13
CTA_MARK, CTA_MARK_MASK = 8, 21
CTA_COUNTERS_ORIG, CTA_COUNTERS_REPLY = 9, 10
CTA_USE, CTA_ID = 11, 12
CTA_TUPLE_MASTER = 14
CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY = 15, 16
CTA_SECMARK, CTA_SECCTX = 17, 19
CTA_TIMEOUT, CTA_ZONE = 7, 18
CTA_TIMESTAMP, CTA_TIMESTAMP_EVENT = 20, 27
CTA_LABELS, CTA_LABELS_MASK = 22, 23
CTA_SYNPROXY, CTA_FILTER = 24, 25

CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_TUPLE_ZONE = 1, 2, 3
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE = 4, 5, 6
CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE = 7, 8, 9
CTA_PROTOINFO_TCP, CTA_PROTOINFO_DCCP, CTA_PROTOINFO_SCTP = 1, 2, 3
CTA_PROTOINFO_TCP_STATE, CTA_PROTOINFO_SCTP_STATE = 1, 1
CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, CTA_PROTOINFO_TCP_WSCALE_REPLY = 2, 3
CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY = 4, 5
CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, CTA_PROTOINFO_SCTP_VTAG_REPLY = 2, 3
CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP, CTA_NAT_PROTO = 1, 2, 3
CTA_NAT_V6_MINIP, CTA_NAT_V6_MAXIP = 4, 5
CTA_PROTONAT_PORT_MIN, CTA_PROTONAT_PORT_MAX = 1, 2
CTA_HELP_NAME, CTA_SEQADJ_CORRECTION_POS = 1, 1
CTA_SEQADJ_OFFSET_BEFORE, CTA_SEQADJ_OFFSET_AFTER = 2, 3
CTA_SYNPROXY_ISN, CTA_SYNPROXY_ITS, CTA_SYNPROXY_TSOFF = 1, 2, 3

CTA_EXPECT_MASTER, CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_TIMEOUT = 1, 2, 3, 4
CTA_EXPECT_ID, CTA_EXPECT_HELP_NAME, CTA_EXPECT_ZONE, CTA_EXPECT_FLAGS = 5, 6, 7, 8
CTA_EXPECT_CLASS, CTA_EXPECT_NAT, CTA_EXPECT_FN = 9, 10, 11
CTA_EXPECT_NAT_DIR, CTA_EXPECT_NAT_TUPLE = 1, 2

# The canonical orders of bodies: that of events, where most bytes are neighbours.
FLOW_ORDER = (
    CTA_TUPLE_REPLY,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_PROTOINFO,
    CTA_HELP,
    CTA_LABELS,
    CTA_TUPLE_MASTER,
    CTA_SEQ_ADJ_ORIG,
    CTA_SEQ_ADJ_REPLY,
    CTA_SYNPROXY,
    CTA_MARK,
)
EXPECTATION_ORDER = (
    CTA_EXPECT_MASTER,
    CTA_EXPECT_NAT,
    CTA_EXPECT_TIMEOUT,
    CTA_EXPECT_FLAGS,
    CTA_EXPECT_CLASS,
    CTA_EXPECT_HELP_NAME,
    CTA_EXPECT_FN,
)

# Attributes that say nothing in this very form.
ZEROS = {
    CTA_MARK: bytes.fromhex("08000800 00000000"),
    CTA_SYNPROXY: bytes.fromhex(
        "1c001880 08000100 00000000 08000200 00000000 08000300 00000000"
    ),
}

_STATUS_HEADER = bytes.fromhex("08000300")
_TIMEOUT_HEADER = bytes.fromhex("08000700")
_from_bytes = int.from_bytes


def merge(old_body: bytes, new_body: bytes) -> tuple[bytes, int]:
    """A flow's body with the attributes of an UPDATE laid over it, and its mask."""
    present = attributes(old_body)
    count = len(present)
    present.update(attributes(new_body))
    if len(present) > count:  # else they still stand in the canonical order
        present = {kind: present[kind] for kind in FLOW_ORDER if kind in present}
    for attribute, zero in ZEROS.items():
        if present.get(attribute) == zero:
            del present[attribute]
    mask = CANONICAL
    for attribute in present:
        mask |= 1 << attribute
    return b"".join(present.values()), mask


def mask_of(body: bytes) -> int:
    """The mask of a stored body."""
    mask = CANONICAL
    for attribute, _, _, _ in walk(body):
        mask |= 1 << attribute
    return mask


def status_of(body: bytes) -> int:
    """The value of CTA_STATUS of a flow; 0 if there is none."""
    start = (
        (body[0] | body[1] << 8) if len(body) > 1 else 0
    )  # after the reply tuple, always
    if body[start : start + 4] != _STATUS_HEADER:
        start = find(body, CTA_STATUS)
    return _from_bytes(body[start + 4 : start + 8], "big") if start >= 0 else 0


def timeout_of(body: bytes) -> int | None:
    """The seconds that were left of a flow; None if the message did not say."""
    start = (
        (body[0] | body[1] << 8) + 8 if len(body) > 1 else 0
    )  # after the status, mostly
    if body[start : start + 4] != _TIMEOUT_HEADER:
        start = find(body, CTA_TIMEOUT)
    return _from_bytes(body[start + 4 : start + 8], "big") if start >= 0 else None


def without_timeout(body: bytes) -> bytes:
    """A flow's body without CTA_TIMEOUT: what two messages may be compared by."""
    start = (body[0] | body[1] << 8) + 8 if len(body) > 1 else 0
    if body[start : start + 4] != _TIMEOUT_HEADER:
        start = find(body, CTA_TIMEOUT)
    return body if start < 0 else body[:start] + body[start + 8 :]


def with_zone(expectation_key: bytes, zone: bytes) -> bytes:
    """The key of an expectation whose master is in a zone (2 bytes)."""
    return expectation_key + tlv(CTA_EXPECT_ZONE, zone)


def plain_key(key: bytes) -> bytes:
    """The key as this kernel's messages have it: an expectation's without its zone."""
    if key[6:7] != bytes((EXPECTATION,)):
        return key
    end = 4 + (key[4] | key[5] << 8)
    if end + 2 > len(key):
        return key
    return key[: end + (key[end] | key[end + 1] << 8)]


def master_of(expectation_body: bytes) -> bytes:
    """The flow key of an expectation's master, as far as its zone."""
    body = expectation_body
    start = find(body, CTA_EXPECT_MASTER)
    if start < 0 or len(body) < start + 12:
        raise RecordError("no master")
    end = start + (body[start] | body[start + 1] << 8)
    family = b"\x02\0\0\0" if body[start + 10] == CTA_IP_V4_SRC else b"\x0a\0\0\0"
    return family + body[start : start + 2] + b"\x01\x80" + body[start + 4 : end]
