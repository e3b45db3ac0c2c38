"""The kernel's numbers and the names that conntrack 1.4.7 has for them.

Attribute numbers are those of linux/netfilter/nfnetlink_conntrack.h: of a flow's
message (`CTA_*`), of an expectation's (`EXP_*`), and of what is nested in both.
"""

from typing import Final

CTA_ORIG: Final = 1
CTA_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_PROTOINFO: Final = 4
CTA_HELP: Final = 5
CTA_TIMEOUT: Final = 7
CTA_MARK: Final = 8
CTA_COUNTERS_ORIG: Final = 9  # the reply side follows
CTA_USE: Final = 11
CTA_ID: Final = 12
CTA_MASTER: Final = 14
CTA_SEQ_ADJ_ORIG: Final = 15  # the reply side follows
CTA_SECMARK: Final = 17
CTA_ZONE: Final = 18
CTA_SECCTX: Final = 19
CTA_TIMESTAMP: Final = 20
CTA_LABELS: Final = 22
CTA_SYNPROXY: Final = 24

EXP_MASTER: Final = 1
EXP_TUPLE: Final = 2
EXP_MASK: Final = 3
EXP_TIMEOUT: Final = 4
EXP_ID: Final = 5
EXP_HELPER: Final = 6
EXP_ZONE: Final = 7
EXP_FLAGS: Final = 8
EXP_CLASS: Final = 9
EXP_NAT: Final = 10
EXP_FUNCTION: Final = 11

TUPLE_IP: Final = 1
TUPLE_PROTO: Final = 2
TUPLE_ZONE: Final = 3
PROTO_NUMBER: Final = 1
PROTO_SOURCE: Final = 2
PROTO_TARGET: Final = 3
ICMP_PARTS: Final = {1: (4, 5, 6), 58: (7, 8, 9)}  # attributes of id, type, code

ICMP: Final = 1
TCP: Final = 6
GRE: Final = 47
ICMPV6: Final = 58
DCCP: Final = 33
SCTP: Final = 132
WITH_PORTS: Final = frozenset((TCP, 17, DCCP, SCTP, 136))

PROTOCOL_NAMES: Final = {
    ICMP: "icmp",
    TCP: "tcp",
    17: "udp",
    DCCP: "dccp",
    GRE: "gre",
    ICMPV6: "icmpv6",
    SCTP: "sctp",
    136: "udplite",
}

TCP_STATES: Final = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"),
    *("LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
SCTP_STATES: Final = (
    *("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED"),
    *("SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"),
    "HEARTBEAT_ACKED",
)
DCCP_STATES: Final = (
    *("NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING"),
    *("TIMEWAIT", "IGNORE", "INVALID"),
)
# Attribute of CTA_PROTOINFO -> states; each has its state in attribute 1.
STATES: Final = {1: TCP_STATES, 2: DCCP_STATES, 3: SCTP_STATES}

STATUS_BITS: Final = (
    *("EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT"),
    *("SEQ_ADJUST", "SRC_NAT_DONE", "DST_NAT_DONE", "DYING", "FIXED_TIMEOUT"),
    *("TEMPLATE", "NAT_CLASH", "HELPER", "OFFLOAD", "HW_OFFLOAD"),
)
EXPECTED: Final = 0x1
SEEN_REPLY: Final = 0x2
ASSURED: Final = 0x4
SRC_NAT_DONE: Final = 0x80
DST_NAT_DONE: Final = 0x100
FIXED_TIMEOUT: Final = 0x400
OFFLOAD: Final = 0x4000
HW_OFFLOAD: Final = 0x8000

EXPECTATION_FLAGS: Final = ("PERMANENT", "INACTIVE", "USERSPACE")


def state_name(states: tuple[str, ...], number: int) -> str:
    """A state beyond the known ones is shown as none."""
    return states[number] if number < len(states) else states[0]
