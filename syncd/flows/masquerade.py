"""Flows that die with an address although nobody ended them.

When an address leaves an interface, or the interface goes down, the kernel destroys the
flows that it masquerades behind it (net/netfilter/nf_nat_masquerade.c): a DESTROY with
time left, caused by nobody. On a firewall that gives its address away these are the
connections that are to live on elsewhere.
"""

from syncd.errors import RecordError
from syncd.flows.nla import find
from syncd.flows.record import CTA_PROTOINFO, CTA_PROTOINFO_TCP, status_of

_SRC_NAT, _SEEN_REPLY = 0x10, 0x02  # IPS_*, linux/netfilter/nf_conntrack_common.h
_TIME_WAIT = 7  # TCP_CONNTRACK_*: from here on a connection is over


def dies_with_address(body: bytes) -> bool:
    """Could this flow have been destroyed because an address left?

    Its source is translated, it was answered, and it is not a TCP connection that is
    over (those the kernel also destroys early when their ports are used again).
    """
    try:
        status = status_of(body)
        if not (status & _SRC_NAT and status & _SEEN_REPLY):
            return False
        start = find(body, CTA_PROTOINFO)
    except RecordError:
        return False
    # PROTOINFO, the protocol's part in it, STATE as the first attribute of that.
    if start < 0 or len(body) < start + 13 or body[start + 6] != CTA_PROTOINFO_TCP:
        return True
    return body[start + 12] < _TIME_WAIT
