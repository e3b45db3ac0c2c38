"""What every type of link has in common: its state, its counters, its words.

In: nothing. Out: values that the links fill in and `status` shows. The rule: counters
count from the start of the daemon and never go back.
"""

from dataclasses import dataclass
from enum import StrEnum

Batch = list[tuple[bytes, str]]  # datagrams, each with the address that it came from


class LinkState(StrEnum):
    """`waiting`: no usable interface; `active`: datagrams can leave and arrive."""

    WAITING = "waiting"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """What a link says about itself; the counters count from the start."""

    interface: str
    type: str
    state: LinkState
    reason: str  # why it waits, empty when it is active
    frame_bytes: int
    receive_buffer: int  # as the kernel granted it, 0 while waiting
    send_buffer: int
    sent_bytes: int
    sent_frames: int
    send_errors: int
    received_bytes: int
    received_frames: int
    rejected_frames: int  # from an address that is not a peer's, or from ourselves
    kernel_drops: int  # arrived when the receive buffer was full
    connections: int = 0  # tcp: peers that are connected now
    broken_streams: int = 0  # tcp: connections closed for a length that cannot be


@dataclass(slots=True)
class Totals:
    """What a link has received, over all its sockets."""

    received_bytes: int = 0
    received_frames: int = 0
    rejected_frames: int = 0
    kernel_drops: int = 0
    broken_streams: int = 0
