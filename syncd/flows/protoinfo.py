"""What a TCP connection's CTA_PROTOINFO tells, and what of it another kernel takes.

In: the attribute as a kernel wrote it, this system's timers. Out: the attribute to
send, and how far the timer beside it is to be believed. The rule: what is not about TCP
is passed on.
"""

from syncd.flows import nla
from syncd.flows.record import (
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_FLAGS_REPLY,
    CTA_PROTOINFO_TCP_STATE,
    CTA_PROTOINFO_TCP_WSCALE_ORIGINAL,
    CTA_PROTOINFO_TCP_WSCALE_REPLY,
)
from syncd.flows.timers import DEFAULTS, Timers

_TCP_SCALES = (CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, CTA_PROTOINFO_TCP_WSCALE_REPLY)
_TCP_FLAGS = (CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY)
# Flags in include/uapi/linux/netfilter/nf_conntrack_tcp.h: window scale, sack,
# close-init; 0x20 (MAXACK_SET) would have later resets classified invalid.
_TCP_KEPT_FLAGS, _TCP_BE_LIBERAL, _TCP_FLAGS_MASK = 0x07, 0x08, 0x0F
_TCP_WINDOW_SCALE, _TCP_DATA_UNACKNOWLEDGED = 0x01, 0x10
_TCP_SYN_SENT, _TCP_ESTABLISHED = 1, 3


def doubted_s(protoinfo: bytes, timers: Timers = DEFAULTS) -> int:
    """Up to which stored timeout this PROTOINFO is not to be believed; 0: believe all.

    While data is in flight, is sent again or meets a window of 0, the kernel gives an
    established connection 300 s (`nf_conntrack_tcp_packet` in
    net/netfilter/nf_conntrack_proto_tcp.c: `tcp_timeout_unacknowledged` with
    IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED, or `tcp_timeout_max_retrans`); the ACK restores
    432 000 s without an event. An event in between, as of a new mark, tells the 300 s
    and only a change of state comes with PROTOINFO (`ctnetlink_conntrack_event`), so
    the flag may be missing: then 300 s and less are doubted, with it all that is short.
    """
    tcp = _tcp_parts(protoinfo) or {}
    if _octet(tcp, CTA_PROTOINFO_TCP_STATE) != _TCP_ESTABLISHED:
        return 0
    flags = _octet(tcp, _TCP_FLAGS[0]) | _octet(tcp, _TCP_FLAGS[1])
    in_flight = flags & _TCP_DATA_UNACKNOWLEDGED
    if in_flight:
        return max(timers.established_s, timers.in_flight_s)
    return timers.in_flight_s


# Of a connection that a flow table carried before anybody told of it: the kernel puts
# no other into one (net/netfilter/nft_flow_offload.c). Its window scale is not known.
ESTABLISHED = nla.nested(
    CTA_PROTOINFO,
    nla.nested(
        CTA_PROTOINFO_TCP,
        nla.tlv(CTA_PROTOINFO_TCP_STATE, bytes((_TCP_ESTABLISHED,))),
        *(nla.tlv(kind, bytes(2)) for kind in _TCP_FLAGS),
    ),
)


def protoinfo_to_send(raw: bytes) -> bytes:
    """CTA_PROTOINFO with the TCP flags that fit a kernel that joins in late.

    The kernel stores window scales only if both ends have announced theirs. When the
    client alone has spoken, its scale would be lost for ever: the server's flag is set
    too, which the kernel clears when it sees what the server's SYN says
    (`tcp_init_sender` in net/netfilter/nf_conntrack_proto_tcp.c).
    """
    tcp = _tcp_parts(raw)
    if tcp is None:
        return raw
    announced = 0
    if _octet(tcp, CTA_PROTOINFO_TCP_STATE) == _TCP_SYN_SENT:
        announced = _octet(tcp, _TCP_FLAGS[0]) & _TCP_WINDOW_SCALE
    for kind in _TCP_FLAGS:
        if kind in tcp:
            flags = _octet(tcp, kind) & _TCP_KEPT_FLAGS | announced
            tcp[kind] = nla.tlv(kind, bytes((flags | _TCP_BE_LIBERAL, _TCP_FLAGS_MASK)))
    return nla.nested(CTA_PROTOINFO, nla.nested(CTA_PROTOINFO_TCP, *tcp.values()))


def keeps_scales(told: bytes, held: bytes) -> bool:
    """Would a kernel that holds `held` still have wrong window scales after an update?

    It stores scales of connections that use them; it takes none back.
    """
    sent = protoinfo_to_send(told)
    ours, theirs = (_tcp_parts(raw) or {} for raw in (sent, held))
    return not uses_scales(sent) and any(
        _octet(ours, kind) != _octet(theirs, kind) for kind in _TCP_SCALES
    )


def uses_scales(protoinfo: bytes) -> bool:
    """Have both ends of this TCP connection announced window scales?"""
    tcp = _tcp_parts(protoinfo) or {}
    return all(_octet(tcp, kind) & _TCP_WINDOW_SCALE for kind in _TCP_FLAGS)


def is_lenient(protoinfo: bytes) -> bool:
    """Does the kernel take whatever sequence numbers this TCP connection has?"""
    tcp = _tcp_parts(protoinfo)
    if tcp is None:
        return True
    flags = (_octet(tcp, kind) for kind in _TCP_FLAGS if kind in tcp)
    return all(octet & _TCP_BE_LIBERAL for octet in flags)


def _tcp_parts(protoinfo: bytes) -> dict[int, bytes] | None:
    """The attributes of CTA_PROTOINFO_TCP; None if it is about something else."""
    for kind, _, start, end in nla.walk(protoinfo, 4, len(protoinfo)):
        if kind != CTA_PROTOINFO_TCP:
            return None
        return nla.attributes(protoinfo, start, end)
    return {}


def _octet(attributes: dict[int, bytes], kind: int) -> int:
    """The first byte of a value, 0 if there is none."""
    return int.from_bytes(attributes.get(kind, b"")[4:5], "big")
