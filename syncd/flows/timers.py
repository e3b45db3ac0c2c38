"""The timers that this system's kernel gives.

In: its settings. Out: seconds. The rule: what is granted to a flow whose real timer is
not known is what this kernel would give it with its next packet, and no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

_TCP, _UDP = 6, 17
_OTHERS_S = 300  # in a flow table; none but TCP and UDP get into one today


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds; those of net/netfilter/nf_conntrack_proto_*.c where nothing is said."""

    established_s: int = 432_000
    unacknowledged_s: int = 300
    retransmitted_s: int = 300
    stream_s: int = 120  # of UDP

    @classmethod
    def read(cls, setting: Callable[[str], int | None]) -> Self:
        """From net.netfilter; a setting that is not there has its default."""
        return cls(
            setting("nf_conntrack_tcp_timeout_established") or 432_000,
            setting("nf_conntrack_tcp_timeout_unacknowledged") or 300,
            setting("nf_conntrack_tcp_timeout_max_retrans") or 300,
            setting("nf_conntrack_udp_timeout_stream") or 120,
        )

    @property
    def in_flight_s(self) -> int:
        """The most that an established connection gets while it waits for an ACK."""
        return max(self.unacknowledged_s, self.retransmitted_s)

    def offloaded_s(self, protocol: int) -> int:
        """What a flow gets when it leaves a flow table."""
        known = {_TCP: self.established_s, _UDP: self.stream_s}
        return known.get(protocol, _OTHERS_S)


DEFAULTS = Timers()
